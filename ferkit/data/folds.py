"""Folds for cross-validation, where a data set has no split of its own."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferkit.checks import check_number

__all__ = ["stratified_folds"]


def stratified_folds(labels: Tensor | NDArray[np.int64], folds: int, seed: int = 0) -> Tensor:
    """The fold of each image: int64 (N,), values in 0..folds-1.

    In the folds the numbers of images of a class differ by at most one, and so do the numbers of all images; unlabelled
    images (-1) are shared out like a class. A pure function of (labels, folds, seed), for every numpy version.

    Raises:
        ValueError: fewer images than folds.

    Example:
        >>> folds = stratified_folds(torch.tensor([0, 0, 0, 0, 1, 1]), folds=2)
        >>> folds[:4].sum(), folds[4:].sum()
        (tensor(2), tensor(1))
    """
    check_number(folds, "folds", 2, integer=True)
    check_number(seed, "seed", 0, integer=True)
    values = np.asarray(labels)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers of shape (N,), got {values.dtype} of shape {values.shape}")
    if len(values) < folds:
        raise ValueError(f"folds: expected at most the {len(values)} images, got {folds}")
    # Raw bits, not Generator methods: their stream may change with numpy's version.
    bits: NDArray[np.uint64] = np.asarray(
        np.random.PCG64(np.random.SeedSequence([seed, folds])).random_raw(len(values))
    )
    order = np.lexsort((bits, values))  # class by class, each in random order, dealt out like cards
    result = np.empty(len(values), dtype=np.int64)
    result[order] = np.arange(len(values)) % folds
    return torch.from_numpy(result)
