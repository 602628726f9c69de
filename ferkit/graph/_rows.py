"""The rows a graph is made of: read in blocks, never copied as a whole to float64."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["BLOCK", "Rows", "as_array", "not_finite", "warn_of_dominant_columns"]

BLOCK = 4096  # rows read at once; fixed, so that sums do not depend on the memory allowed
LARGEST = 1e150  # beyond it a square may overflow float64
DOMINANT = 1000.0  # spread of one column over the median of the others' that is warned of


def as_array(points: Any) -> np.ndarray:
    """(N, D) float32 or float64: a view where the input is one already; float16 and bfloat16 widen, integers too."""
    if isinstance(points, Tensor):
        points = points.detach().cpu()
        points = (points.float() if points.dtype == torch.bfloat16 else points).numpy()
    values = np.asarray(points)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"points: expected floating-point or integer values, got dtype {values.dtype}")
    if values.ndim != 2:
        raise ValueError(f"points: expected shape (N, D), got {values.shape}")
    if values.shape[1] == 0:
        raise ValueError(f"points: expected at least one column, got shape {values.shape}")
    wanted = np.dtype(np.float32 if values.dtype.kind == "f" and values.dtype.itemsize <= 4 else np.float64)
    if values.dtype != wanted or not values.dtype.isnative:
        values = values.astype(wanted)
    return values


def not_finite(values: np.ndarray) -> np.ndarray:
    """bool (N,): rows with a NaN or an infinity."""
    bad = np.zeros(len(values), bool)
    for start in range(0, len(values), BLOCK):
        bad[start : start + BLOCK] = ~np.isfinite(values[start : start + BLOCK]).all(1)
    return bad


class Rows:
    """The distinct rows that take part, by their number u = 0..U-1 in order of their first place.

    Args:
        values: (N, D) float32 or float64.
        positions: int64 (U,), where row u is in ``values``.
        metric: "l2", "l1" or "cosine" (l2 on rows scaled to length 1; distances are halved).
    """

    def __init__(self, values: np.ndarray, positions: np.ndarray, metric: str) -> None:
        self.values, self.positions, self.metric = values, positions, metric
        self.count, self.dim = len(positions), values.shape[1]
        self.lengths: np.ndarray | None = None
        if metric == "cosine":
            self.lengths = np.concatenate([_length(block) for block in self._raw_blocks()] or [np.zeros(0)])
        self._moments()

    def _raw_blocks(self) -> Any:
        for start in range(0, self.count, BLOCK):
            yield self.values[self.positions[start : start + BLOCK]].astype(np.float64)

    def _moments(self) -> None:
        """Mean and spread of the columns, and the power of two that brings centred values into [-1, 1]."""
        total, square = np.zeros(self.dim), np.zeros(self.dim)
        low, high = np.full(self.dim, np.inf), np.full(self.dim, -np.inf)
        for start in range(0, self.count, BLOCK):
            block = self.take(np.arange(start, min(self.count, start + BLOCK)))
            total += block.sum(0)
            low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
        self.mean = np.clip(total / max(1, self.count), low, high) if self.count else total
        for start in range(0, self.count, BLOCK):
            block = self.take(np.arange(start, min(self.count, start + BLOCK))) - self.mean
            square += np.einsum("nd,nd->d", block, block)
        self.spread = np.sqrt(square / max(1, self.count))
        largest = float(np.maximum(high - self.mean, self.mean - low).max()) if self.count else 0.0
        self.unit = float(2.0 ** np.ceil(np.log2(largest))) if largest > 2.0**-1000 else 1.0

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows (..., D) in float64, as given (cosine: scaled to length 1)."""
        found: np.ndarray = self.values[self.positions[rows]].astype(np.float64)
        if self.lengths is not None:
            found /= self.lengths[rows][..., None]
        return found

    def centred(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """(n, D) rows minus the mean, over ``unit``: centred in float64, then cast (into aligned memory, for BLAS)."""
        found = self.take(rows)
        found -= self.mean
        found *= 1.0 / self.unit
        return torch.from_numpy(found).to(dtype, copy=True)


def _length(block: np.ndarray) -> np.ndarray:
    largest = np.abs(block).max(1)
    scaled = block / np.where(largest > 0, largest, 1)[:, None]
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", scaled, scaled)) * largest)


def warn_of_dominant_columns(rows: Rows) -> None:
    """One column far wider than the others decides every neighbour alone: said, never changed."""
    if rows.dim < 2 or rows.count < 2:
        return
    widest = int(rows.spread.argmax())
    others = float(np.median(np.delete(rows.spread, widest)))
    if rows.spread[widest] > DOMINANT * others and others > 0:
        warnings.warn(
            f"points: column {widest} is spread {rows.spread[widest] / others:.3g} times as wide as the median of the "
            "others and decides the neighbours alone; scale the columns if that is not meant",
            stacklevel=4,
        )
