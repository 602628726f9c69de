"""Checks of neighbour tables: what a graph hands to a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Table", "read_tables"]

Table = tuple[NDArray[np.int64], NDArray[Any]]
ROWS = 65536  # rows that are looked at together: a million need no second copy of the table


def read_tables(tables: Any, neighbors: int) -> dict[str, Table]:
    """Name to (indices, weights), the first ``neighbors`` columns of each, as views where that is possible."""
    if not isinstance(tables, Mapping):
        tables = {"": tables}
    if not tables:
        raise ValueError("tables: expected at least one pair (indices, weights), got none")
    read = {
        str(name): _read(pair, f"tables[{name!r}]" if name else "tables", neighbors) for name, pair in tables.items()
    }
    sizes = {name: len(indices) for name, (indices, _) in read.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"tables: expected equally many rows in each, got {sizes}")
    return read


def _read(pair: Any, where: str, neighbors: int) -> Table:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        got = f"{len(pair)} values" if isinstance(pair, (tuple, list)) else type(pair).__name__
        raise TypeError(f"{where}: expected a pair (indices, weights), got {got}")
    indices, weights = (_array(value, f"{where} {name}") for name, value in zip(("indices", "weights"), pair))
    if indices.dtype != np.int64:
        raise TypeError(f"{where} indices: expected dtype int64, got {indices.dtype}")
    if weights.dtype.kind != "f":
        raise TypeError(f"{where} weights: expected a floating-point dtype, got {weights.dtype}")
    if indices.ndim != 2:
        raise ValueError(f"{where} indices: expected shape (N, K), got {indices.shape}")
    if weights.shape != indices.shape:
        raise ValueError(f"{where} weights: expected shape {indices.shape} as the indices have, got {weights.shape}")
    if indices.shape[1] < neighbors:
        raise ValueError(f"{where}: expected at least {neighbors} columns (neighbors), got {indices.shape[1]}")
    indices, weights = indices[:, :neighbors], weights[:, :neighbors]
    for start in range(0, len(indices), ROWS):
        _check_rows(indices[start : start + ROWS], weights[start : start + ROWS], start, len(indices), where)
    return indices, weights


def _array(value: Any, name: str) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        try:
            return np.asarray(value.numpy())
        except TypeError:  # bfloat16, which numpy lacks
            return np.asarray(value.float().numpy())
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a tensor or an array, got {type(value).__name__}")
    return value


def _check_rows(indices: NDArray[np.int64], weights: NDArray[Any], start: int, size: int, where: str) -> None:
    def fail(bad: NDArray[np.bool_], values: NDArray[Any], name: str, expected: str) -> ValueError:
        row, column = np.argwhere(bad)[0]
        return ValueError(f"{where} {name}: row {start + row}: expected {expected}, got {values[row, column]}")

    outside = (indices < -1) | (indices >= size)
    if outside.any():
        raise fail(outside, indices, "indices", f"positions in 0..{size - 1} or -1 (none)")
    itself = indices == np.arange(start, start + len(indices))[:, None]
    if itself.any():
        raise fail(itself, indices, "indices", "neighbours other than the row itself")
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        raise fail(wrong, weights, "weights", "finite weights of 0 or more")
