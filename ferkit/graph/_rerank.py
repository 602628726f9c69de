"""Distances by direct differences in float64, each summed in one fixed order, and the order (distance, index)."""

from __future__ import annotations

import numpy as np

from ferkit.graph._rows import Rows
from ferkit.graph._threads import Crew

__all__ = ["direct", "first", "pairs"]

BYTES = 1 << 23  # of differences a thread holds


def pairs(rows: Rows, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances (n,) of rows ``one`` to rows ``other``. A row's sum runs over its columns alone, whatever n."""
    difference = rows.take(one)
    difference -= rows.take(other)
    return _lengths(rows, difference)


def _lengths(rows: Rows, difference: np.ndarray) -> np.ndarray:
    """Of differences (n, D), which may be written over."""
    if rows.metric == "l1":
        return np.asarray(np.abs(difference, out=difference).sum(1))
    squared = np.einsum("nd,nd->n", difference, difference)
    return np.asarray(squared / 2 if rows.metric == "cosine" else squared)


def direct(rows: Rows, queries: np.ndarray, candidates: np.ndarray, crew: Crew, max_bytes: int = BYTES) -> np.ndarray:
    """Distances (Q, C) of rows ``queries`` to rows ``candidates`` (Q, C); infinite to itself and to -1."""
    found = np.empty(candidates.shape)
    width = candidates.shape[1]
    step = max(1, min(BYTES, max_bytes) // (16 * rows.dim * max(1, width)))

    def work(start: int) -> None:
        part, own = candidates[start : start + step], queries[start : start + step]
        difference = rows.take(np.maximum(part, 0).reshape(-1))
        difference.reshape(*part.shape, rows.dim)[:] -= rows.take(own)[:, None]
        values = _lengths(rows, difference).reshape(part.shape)
        values[(part == own[:, None]) | (part < 0)] = np.inf
        found[start : start + step] = values

    crew.map(work, range(0, len(queries), step))
    return found


def first(ids: np.ndarray, distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of (Q, C) candidates, by (distance, index); -1 and infinity where there are fewer."""
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    near, found = np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)
    found = np.where(np.isinf(near), -1, found)
    if near.shape[1] < k:
        missing = ((0, 0), (0, k - near.shape[1]))
        near, found = np.pad(near, missing, constant_values=np.inf), np.pad(found, missing, constant_values=-1)
    return found, near
