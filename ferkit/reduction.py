"""None, mean and sum with weights, masks and the empty set: one helper for every loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import (
    IGNORED_LABEL,
    check_choice,
    check_device,
    check_floating,
    check_not_negative,
    check_shape,
    out_of_range,
)

__all__ = ["REDUCTIONS", "combine_weights", "reduce", "safe_divide"]

REDUCTIONS = ("none", "mean", "sum")


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, and 0 with a zero gradient where the denominator is 0."""
    empty = denominator == 0
    return torch.where(empty, numerator * 0, numerator / torch.where(empty, torch.ones_like(denominator), denominator))


def combine_weights(
    labels: Tensor | None,
    size: int,
    like: Tensor,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    num_classes: int | None = None,
    complete: bool = False,
) -> Tensor | None:
    """One weight per sample (N,): sample weight times class weight, 0 for labels of -1; None if all are 1.

    On a GPU, where values are not read, a label outside -1..``num_classes``-1 gets NaN. ``complete`` says that no label
    is -1 (see ``check_label_range``), which spares the search for them.
    """
    weight = None
    if sample_weight is not None:
        check_floating(sample_weight, "sample_weight")
        if sample_weight.ndim == 2 and sample_weight.shape[-1] == 1:
            sample_weight = sample_weight[:, 0]
        check_shape(sample_weight, "sample_weight", (size,))
        check_device(like, sample_weight=sample_weight)
        check_not_negative(sample_weight, "sample_weight")
        weight = sample_weight.to(like.dtype)
    if class_weight is not None:
        if labels is None:
            raise ValueError("class_weight: expected labels beside it, got None")
        check_floating(class_weight, "class_weight")
        check_shape(class_weight, "class_weight", ("C" if num_classes is None else num_classes,))
        check_device(like, class_weight=class_weight)
        per_sample = class_weight.to(like.dtype)[labels.clamp(0, max(class_weight.shape[0] - 1, 0))]
        weight = per_sample if weight is None else weight * per_sample
    if labels is None or complete:
        return weight
    labelled = labels != IGNORED_LABEL
    # not a product: a weight of NaN on an unlabelled sample takes no part either
    weight = labelled.to(like.dtype) if weight is None else torch.where(labelled, weight, 0)
    wrong = None if num_classes is None else out_of_range(labels, num_classes)
    return weight if wrong is None else torch.where(wrong, torch.nan, weight)


def reduce(values: Tensor, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """Reduce per-sample values (N,) with weights (N,).

    ``none`` gives ``weight * values``, ``sum`` their sum, ``mean`` their sum over the sum of the weights. A sample of
    weight 0 takes no part, whatever its value (NaN included); with no weight left the result is 0, and so is its
    gradient.

    >>> reduce(torch.tensor([1.0, 3.0]), "mean", torch.tensor([1.0, 3.0]))
    tensor(2.5000)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    if weight is not None:
        values = torch.where(weight == 0, 0, values) * weight
    if reduction == "none":
        return values
    if reduction == "sum" or values.numel() == 0:
        return values.sum()
    return values.mean() if weight is None else safe_divide(values.sum(), weight.sum())
