"""Label noise of a known kind and amount."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferkit.checks import check_label_range, check_labels, check_number

__all__ = ["flip_labels"]


def flip_labels(
    labels: Tensor | NDArray[Any] | Sequence[int],
    rate: float,
    num_classes: int,
    exclude_true: bool = True,
    seed: int = 0,
    exact: bool = True,
) -> Tensor:
    """Redraw a share of the labels at random (symmetric label noise).

    Args:
        labels: (N,) integers, -1 for unlabelled (left as they are): tensor, array or list. Not written to.
        rate: share of the labelled samples that are redrawn, 0 to 1.
        num_classes: number of classes C.
        exclude_true: draw among the C-1 other classes, so that every redrawn label is wrong (DMUE, LDL-ALSG).
            ``False`` draws among all C, as noisyFER's release does: only (C-1)/C of the redrawn labels change.
        seed: seed of a generator of its own. One seed and two rates: the smaller set of redrawn samples lies within
            the larger, with the same new labels.
        exact: redraw exactly ``round(rate * n)`` of the n labelled samples; ``False``: each one with probability
            ``rate`` by an independent draw.

    Returns:
        int64 tensor (N,) on the CPU (for a tensor: on its device).

    Raises:
        TypeError, ValueError: labels that are no integers, or outside -1..C-1; a rate outside 0..1.

    Example:
        >>> labels = torch.arange(7).repeat(10)
        >>> noisy = flip_labels(labels, rate=0.3, num_classes=7, seed=0)
        >>> int((noisy != labels).sum())
        21
    """
    check_number(rate, "rate", low=0, high=1)
    check_number(num_classes, "num_classes", low=1, integer=True)
    check_number(seed, "seed", low=0, integer=True)
    if exclude_true and num_classes == 1 and rate > 0:
        raise ValueError("num_classes: expected at least 2 to draw another class, got 1")
    given = _as_tensor(labels)
    size = given.numel()
    result = check_labels(given.detach().cpu(), size).clone()
    check_label_range(result, num_classes)
    generator = torch.Generator().manual_seed(seed)
    # Both draws are made for every sample, so that a sample's fate at one rate is the same at the next.
    rank = torch.rand(size, dtype=torch.float64, generator=generator)
    if exclude_true:
        shift = torch.randint(1, max(num_classes, 2), (size,), generator=generator)
        drawn = (result + shift) % num_classes
    else:
        drawn = torch.randint(0, num_classes, (size,), generator=generator)
    labelled = torch.nonzero(result >= 0)[:, 0]
    if exact:
        chosen = labelled[torch.argsort(rank[labelled], stable=True)[: round(rate * labelled.numel())]]
    else:
        chosen = labelled[rank[labelled] < rate]
    result[chosen] = drawn[chosen]
    return result.to(given.device)


def _as_tensor(labels: Any) -> Tensor:
    if isinstance(labels, Tensor):
        tensor = labels
    else:
        array = np.asarray(labels)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu":
            raise TypeError(f"labels: expected integers, got dtype {array.dtype}")
        tensor = torch.from_numpy(array.astype(np.int64))
    if tensor.ndim != 1:
        raise ValueError(f"labels: expected shape (N,), got {tuple(tensor.shape)}")
    if tensor.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        tensor = tensor.to(torch.int64)
    return tensor
