"""Fingerprints of the rows and ids that a graph was built from, so that it is never used with others."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_fingerprints", "fingerprints", "ids_sha256", "ids_unordered_sha256", "points_sha256"]

BLOCK = 1 << 24  # bytes hashed at once: what is not contiguous is copied a block at a time


def points_sha256(points: Any) -> str:
    """SHA-256 of rows (N, D), a tensor or an array: shape, dtype, then the values in C order, little-endian.

    >>> points_sha256(torch.zeros(2, 3)) == points_sha256(np.zeros((2, 3), np.float32))
    True
    >>> points_sha256(torch.zeros(2, 3)) == points_sha256(torch.zeros(3, 2))
    False
    """
    if isinstance(points, Tensor):
        points = points.detach().cpu()
        points = points.float() if points.dtype == torch.bfloat16 else points  # numpy has no bfloat16
        points = points.numpy()
    rows = np.asarray(points)
    digest = hashlib.sha256(f"{rows.shape} {rows.dtype.name}\n".encode())
    step = max(1, BLOCK // max(1, rows.nbytes // max(1, len(rows))))
    for start in range(0, len(rows), step):
        block = np.ascontiguousarray(rows[start : start + step])
        if sys.byteorder == "big" or block.dtype.byteorder == ">":
            block = block.astype(block.dtype.newbyteorder("<"))
        digest.update(block.view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def ids_sha256(ids: Iterable[Any]) -> str:
    """SHA-256 of ids (strings or integers) in their order; the integer 5 and the string "5" are the same id.

    >>> ids_sha256(["a", "b"]) == ids_sha256(["b", "a"])
    False
    >>> ids_sha256([1, 2]) == ids_sha256(np.array([1, 2]))
    True
    """
    digest = hashlib.sha256()
    for item in _listed(ids):
        text = str(item).encode()
        digest.update(b"%d:%s" % (len(text), text))  # the length keeps ("ab", "c") from being ("a", "bc")
    return digest.hexdigest()


def _listed(ids: Iterable[Any]) -> Iterable[Any]:
    """The ids themselves: an item of a tensor is a tensor, whose text is not the number's."""
    return ids.tolist() if isinstance(ids, Tensor) else ids


def ids_unordered_sha256(ids: Iterable[Any]) -> str:
    """SHA-256 of ids whatever their order: tells rows that were moved from rows that are others."""
    return ids_sha256(sorted(str(item) for item in _listed(ids)))


def fingerprints(points: Any, ids: Sequence[Any] | None = None) -> dict[str, str | None]:
    """The entries of a graph's ``meta`` that say which rows it belongs to."""
    return {
        "points_sha256": points_sha256(points),
        "ids_sha256": None if ids is None else ids_sha256(ids),
        "ids_unordered_sha256": None if ids is None else ids_unordered_sha256(ids),
    }


def check_fingerprints(
    meta: Mapping[str, Any], points: Any = None, ids: Sequence[Any] | None = None, *, strict: bool = True, where: str
) -> None:
    """Raise ValueError (or warn, where not ``strict``) unless a graph was built from these rows and ids."""
    wrong = list(_differences(meta, points, ids))
    if not wrong:
        return
    text = f"{where}: the graph was built from other data: {'; '.join(wrong)}"
    if strict:
        raise ValueError(f"{text}. Build it again, or give the data it belongs to")
    warnings.warn(text, stacklevel=3)


def _differences(meta: Mapping[str, Any], points: Any, ids: Sequence[Any] | None) -> Iterable[str]:
    n, dim = meta.get("n"), meta.get("dim")
    if points is not None:
        points = points if hasattr(points, "shape") else np.asarray(points)
        if len(points) != n:
            yield f"points: it has {n} rows, the data {len(points)}"
        elif len(points.shape) == 2 and dim is not None and points.shape[1] != dim:
            yield f"points: it has {dim} columns, the data {points.shape[1]}"
        elif meta.get("points_sha256") not in (None, points_sha256(points)):
            yield "points: as many rows, with other values, another order or another dtype"
    if ids is not None:
        if len(ids) != n:
            yield f"ids: it has {n}, the data {len(ids)}"
        elif meta.get("ids_sha256") not in (None, ids_sha256(ids)):
            moved = meta.get("ids_unordered_sha256") == ids_unordered_sha256(ids)
            yield "ids: the same ones in another order" if moved else "ids: as many, but not the same ones"
