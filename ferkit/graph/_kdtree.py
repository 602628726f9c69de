"""Exact neighbours in few dimensions: scipy's cKDTree over the float64 rows as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ferkit.graph import _rerank
from ferkit.graph._rows import Rows
from ferkit.graph._threads import Crew, tracked

__all__ = ["MOST_DIMENSIONS", "nearest", "need_scipy"]

MOST_DIMENSIONS = 24  # beyond it a tree visits nearly every row
SPARES = 3
ROUNDING = 1e-12  # relative, of the tree's own distances
QUERIES = 1 << 16


def need_scipy() -> Any:
    """``scipy.spatial.cKDTree``, or the ImportError that names the extra."""
    try:
        from scipy.spatial import cKDTree
    except ImportError as error:
        raise ImportError('scipy is missing: pip install "ferkit[graph]"') from error
    return cKDTree


def nearest(rows: Rows, k: int, crew: Crew, max_bytes: int, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of every row: ids and float64 distances (U, k)."""
    everything = rows.take(np.arange(rows.count))
    # Median splits and tight boxes cost more than they save; few distinct values are no trouble without them.
    tree = need_scipy()(everything, balanced_tree=False, compact_nodes=False)
    power = 1.0 if rows.metric == "l1" else 2.0
    ids, near = np.full((rows.count, k), -1, np.int64), np.full((rows.count, k), np.inf)
    left, width = np.asarray(tree.indices), k + 1 + SPARES  # leaf by leaf, so that what is visited is in the cache
    while len(left):
        width = min(width, rows.count)
        step = max(1, min(QUERIES, max_bytes // (64 * width)))
        again = []
        for start in tracked(range(0, len(left), step), "kd-tree", progress):
            block = left[start : start + step]
            far, found = tree.query(everything[block], width, p=power, workers=crew.count)
            far, found = far.reshape(len(block), width), found.reshape(len(block), width).astype(np.int64)
            measured = _rerank.direct(rows, block, found, crew, max_bytes)
            ids[block], near[block] = _rerank.first(found, measured, k)
            if width < rows.count:  # a row outside the list is no nearer than the last one in it: ties need a look
                again.append(block[~(_as_tree(near[block, -1], rows) * (1 + ROUNDING) < far[:, -1])])
        left = np.concatenate(again) if again else left[:0]
        width *= 4
    return ids, near


def _as_tree(distances: np.ndarray, rows: Rows) -> np.ndarray:
    if rows.metric == "l1":
        return distances
    return np.asarray(np.sqrt(2 * distances if rows.metric == "cosine" else distances))
