"""Mean cosine of each sample to each class (DMUE equation 7)."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ferkit.checks import (
    check_choice,
    check_device,
    check_floating,
    check_label_range,
    check_labels,
    check_number,
    check_shape,
)
from ferkit.distributed import resolve_group
from ferkit.functional._global import global_class_similarity
from ferkit.functional._inputs import full_precision, poison_rows, promote
from ferkit.ops import flag_out_of_range
from ferkit.ops.class_similarity import class_similarity as _op
from ferkit.reduction import safe_divide

__all__ = ["class_similarity"]


@overload
def class_similarity(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    include_self: bool = True,
    return_counts: Literal[False] = False,
    return_variance: Literal[False] = False,
    scale: str = "none",
    process_group: Any = None,
) -> Tensor: ...
@overload
def class_similarity(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    include_self: bool = True,
    return_counts: bool = False,
    return_variance: bool = False,
    scale: str = "none",
    process_group: Any = None,
) -> tuple[Tensor, ...]: ...
@full_precision
def class_similarity(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    include_self: bool = True,
    return_counts: bool = False,
    return_variance: bool = False,
    scale: str = "none",
    process_group: Any = None,
) -> Tensor | tuple[Tensor, ...]:
    r"""Mean cosine similarity of every sample to the samples of every class.

    :math:`S_{aj} = \frac{1}{n_j}\sum_{i: y_i=j}\cos(f_a, f_i)` (DMUE, equation 7), in O(NDC) without an N×N matrix.

    Args:
        features: (N, D), before dropout and BN-neck; gradients flow into them.
        labels: int64 (N,); a sample labelled -1 takes part in nothing: it belongs to no class and its row is 0.
        num_classes: C.
        include_self: count a sample in the mean of its own class (the released code). ``False`` leaves it out ("others
            in the batch"), so that the only sample of a class has 0 there.
        return_counts: also return the number of samples of each class, (C,), in the features' dtype.
        return_variance: also return the variance of the cosines over each class, (N, C), never scaled.
        scale: ``"none"`` (the paper) or ``"minmax"`` (the released code): every row mapped onto [0, 1] by its smallest
            and largest class mean. Classes without a (other) sample keep 0 and do not count for the range; a row
            whose means are all equal (within 16 eps) becomes 0, with a zero gradient.
        process_group: None: the samples of this process. ``"global"`` (all ranks) or a ProcessGroup: the local rows of
            the exact value over the batches of all its ranks, by one sum of C·D + C numbers (C·D² more with variance).
            The backward sums the ranks' gradients: with losses that average over the whole batch (local sum · ranks
            over global N), data-parallel averaging gives the gradient of one process with the whole batch.

    Returns:
        (N, C), or a tuple of it and what was asked for, counts first. A class without samples has 0 and count 0, a
        feature of zeros cosine 0 and gradient 0. float32 for half precision and under autocast.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, or labels outside -1..C-1 (read on the CPU only).

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    >>> class_similarity(features, torch.tensor([0, 0, 1]), num_classes=2)
    tensor([[0.5000, 1.0000],
            [0.5000, 0.0000],
            [0.5000, 1.0000]])
    """
    check_floating(features, "features")
    check_shape(features, "features", ("N", "D"))
    check_number(num_classes, "num_classes", 1, integer=True)
    check_labels(labels, features.shape[0])
    check_device(features, labels=labels)
    check_choice(scale, "scale", ("none", "minmax"))
    check_label_range(labels, num_classes)
    (features,) = promote(features)
    group = resolve_group(process_group)
    if group is None:
        similarity, counts, variance = _op(features, labels, num_classes, include_self, return_variance)
    else:
        features = poison_rows(features, flag_out_of_range(labels, num_classes))
        similarity, counts, variance = global_class_similarity(
            features, labels, num_classes, include_self, return_variance, group
        )
    if scale == "minmax":
        similarity = _minmax(similarity, _present(counts, labels, include_self))
    results = [similarity]
    if return_counts:
        results.append(counts)
    if return_variance and variance is not None:
        results.append(variance)
    return similarity if len(results) == 1 else tuple(results)


def _present(counts: Tensor, labels: Tensor, include_self: bool) -> Tensor:
    """(N, C) or (1, C): is there a sample behind this mean?"""
    if include_self:
        return (counts > 0).unsqueeze(0)
    own = labels.unsqueeze(1) == torch.arange(counts.shape[0], device=labels.device)
    return counts - own.to(counts.dtype) > 0


def _minmax(similarity: Tensor, present: Tensor) -> Tensor:
    if similarity.numel() == 0:
        return similarity
    low = torch.where(present, similarity, torch.inf).amin(1, keepdim=True)
    high = torch.where(present, similarity, -torch.inf).amax(1, keepdim=True)
    # no class present: inf - inf; the row is all absent and stays 0
    span = torch.where(present.any(1, keepdim=True), high - low, 0)
    # a difference of rounding is none: collapsed features must not be stretched into noise
    span = torch.where(span <= 16 * torch.finfo(span.dtype).eps, 0, span)
    return torch.where(present, safe_divide(similarity - low, span), 0)
