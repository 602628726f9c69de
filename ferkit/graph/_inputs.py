"""What ``knn_graph`` is given, checked and brought into one shape before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ferkit.graph._rows import BLOCK, LARGEST, not_finite

__all__ = ["check_device", "excluded_pairs", "taking_part", "usable"]

NAMED = 5  # bad rows named in a message


def check_device(device: Any, points: Any) -> torch.device:
    """The device to search on: the one asked for, else that of the points."""
    if device is None:
        return points.device if isinstance(points, Tensor) and points.device.type == "cuda" else torch.device("cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:<index>', got {device!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")
    if found.type == "cuda" and not (torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count()):
        raise ValueError(
            f"device: expected an available device, got {device!r}; {torch.cuda.device_count()} CUDA devices"
        )
    return found


def _integers(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    return array.astype(np.int64)


def taking_part(subset: Any, n: int) -> np.ndarray:
    """bool (N,) of a mask (N,) or positions."""
    if subset is None:
        return np.ones(n, bool)
    array = np.asarray(subset.detach().cpu() if isinstance(subset, Tensor) else subset)
    if array.dtype == bool:
        if array.shape != (n,):
            raise ValueError(f"subset: expected a mask of shape ({n},) or positions, got shape {array.shape}")
        given: np.ndarray = array.copy()
        return given
    positions = _integers(subset, "subset")
    if positions.ndim != 1:
        raise ValueError(f"subset: expected a mask of shape ({n},) or positions, got shape {positions.shape}")
    _check_positions(positions, "subset", n)
    mask = np.zeros(n, bool)
    mask[positions] = True
    return mask


def excluded_pairs(exclude: Any, n: int) -> np.ndarray:
    """Sorted keys position * N + other, both ways."""
    if exclude is None:
        return np.zeros(0, np.int64)
    pairs = _integers(exclude, "exclude")
    if pairs.ndim != 2 or len(pairs) != 2:
        raise ValueError(f"exclude: expected shape (2, E), got {pairs.shape}")
    _check_positions(pairs, "exclude", n)
    both = np.concatenate([pairs[0] * n + pairs[1], pairs[1] * n + pairs[0]])
    return np.unique(both[both // max(1, n) != both % max(1, n)])


def _check_positions(positions: np.ndarray, name: str, n: int) -> None:
    if positions.size and (positions.min() < 0 or positions.max() >= n):
        raise ValueError(f"{name}: expected positions in 0..{n - 1}, got {positions.min()}..{positions.max()}")


def usable(values: np.ndarray, mask: np.ndarray, metric: str, nonfinite: str) -> np.ndarray:
    """``mask`` without the rows that have no distance to others; ValueError names them where none may be."""
    bad = not_finite(values) & mask
    _refuse(bad, "finite values", "NaN or infinity", nonfinite)
    if metric == "cosine":
        zero = np.zeros(len(values), bool)
        for start in range(0, len(values), BLOCK):
            zero[start : start + BLOCK] = ~values[start : start + BLOCK].any(1)
        zero &= mask
        _refuse(zero, "rows with a direction", "zeros alone", nonfinite)
        bad |= zero
    mask = mask & ~bad
    if values.dtype == np.float64:
        for start in range(0, len(values), BLOCK):
            block = values[start : start + BLOCK][mask[start : start + BLOCK]]
            if block.size and float(np.abs(block).max()) > LARGEST:
                raise ValueError(f"points: expected values within {LARGEST:g}, got {float(np.abs(block).max()):g}")
    return mask


def _refuse(bad: np.ndarray, expected: str, got: str, nonfinite: str) -> None:
    if nonfinite == "error" and bad.any():
        rows = np.nonzero(bad)[0]
        named = ", ".join(map(str, rows[:NAMED])) + (", ..." if len(rows) > NAMED else "")
        raise ValueError(
            f"points: expected {expected}, got {got} in {len(rows)} of {len(bad)} rows: {named} "
            '(nonfinite="isolate" leaves such rows without neighbours)'
        )
