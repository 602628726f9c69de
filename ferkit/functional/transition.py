"""Labels as noisy channels of the true class: cross-entropy through transition matrices, and their trace."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ferkit.checks import (
    check_choice,
    check_device,
    check_floating,
    check_label_range,
    check_not_negative,
    check_shape,
    check_tensor,
)
from ferkit.functional._inputs import full_precision, promote, zero_rows
from ferkit.ops import flag_out_of_range
from ferkit.reduction import REDUCTIONS, combine_weights, reduce, safe_divide

__all__ = ["trace_regularization", "transition_cross_entropy"]


@full_precision
def transition_cross_entropy(
    logits: Tensor,
    transition: Tensor,
    labels: Tensor,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy of noisy labels explained by confusions, :math:`-\sum_s \log \sum_k p_{nk} T^s_{k y_{ns}}`.

    The network says p = softmax(logits) of the true class; annotator s calls class k by the name j with probability
    :math:`T^s_{kj}` (LTNet: Zeng et al., ECCV 2018; with one annotator the forward correction of Patrini et al., CVPR
    2017). Gradients reach the logits and the matrices.

    Args:
        logits: (N, C), of the true class.
        transition: (S, C, C), or (C, C) for one annotator: a row a true class, a column a label, 0 or more, rows
            summing to 1 (not checked), such as `ferkit.blocks.TransitionMatrix` gives.
        labels: int64 (N, S), or (N,) for one annotator; -1 is a missing label, and a row of them takes no part.
        sample_weight: (N,).
        class_weight: (C,), multiplied with the sample weight by the given label.
        reduction: ``"mean"``: the sum over the annotators of the mean over the samples that each has labelled (by the
            sum of the weights); ``"sum"``, or ``"none"``: (N,), the sum over the annotators.

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient; infinite, with a
        gradient that is not finite, where the matrices rule a label out.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or (read on the CPU) labels outside -1..C-1
            or a negative transition.

    >>> logits, labels = torch.tensor([[4.0, 0.0]]), torch.tensor([1])
    >>> transition_cross_entropy(logits, torch.tensor([[0.7, 0.3], [0.0, 1.0]]), labels)
    tensor(1.1629)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_floating(logits, "logits")
    check_shape(logits, "logits", ("N", "C"))
    size, num_classes = logits.shape
    check_floating(transition, "transition")
    check_tensor(labels, "labels")
    if transition.ndim == 2:
        check_shape(transition, "transition", (num_classes, num_classes))
        check_shape(labels, "labels", (size,))
        transition, labels = transition.unsqueeze(0), labels.unsqueeze(1)
    else:
        check_shape(transition, "transition", ("S", num_classes, num_classes))
        check_shape(labels, "labels", (size, transition.shape[0]))
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: expected dtype torch.int64, got {labels.dtype}")
    check_device(logits, transition=transition, labels=labels)
    check_label_range(labels, num_classes)
    flag_out_of_range(labels, num_classes)
    check_not_negative(transition, "transition")
    logits, transition = promote(logits, transition)
    weights = _weights(labels, logits, sample_weight, class_weight)
    part = weights != 0
    log_p = zero_rows(logits, part.any(1)).log_softmax(1)
    listed = labels.clamp(0, max(num_classes - 1, 0))
    annotators = torch.arange(transition.shape[0], device=labels.device)
    columns = transition.transpose(1, 2)[annotators, listed]  # (N, S, C)
    columns = torch.where(part.unsqueeze(2), columns, 1)  # a label that is not there has no gradient, not 0 * inf
    values = torch.where(part, _negative_log(log_p.unsqueeze(1), columns), 0) * weights
    if reduction == "none":
        return values.sum(1)
    return values.sum() if reduction == "sum" else safe_divide(values.sum(0), weights.sum(0)).sum()


def _weights(labels: Tensor, like: Tensor, sample_weight: Tensor | None, class_weight: Tensor | None) -> Tensor:
    """One weight a label, (N, S); 0 for a missing one."""
    if labels.shape[1] == 0:
        return like.new_ones(labels.shape)
    columns = [
        combine_weights(label, label.shape[0], like, sample_weight, class_weight, like.shape[1])
        for label in labels.unbind(1)
    ]
    return torch.stack([like.new_ones(labels.shape[0]) if each is None else each for each in columns], 1)


def _negative_log(log_p: Tensor, columns: Tensor) -> Tensor:
    """-log of the sum over k of exp(log_p) times columns, (..., C) -> (...), without underflow.

    The sum's own logarithm is taken out as a constant, since the logarithm of a transition of 0 has no gradient.
    """
    with torch.no_grad():
        constant = (log_p + columns.log()).logsumexp(-1)
        constant = torch.where(constant.isneginf(), 0, constant)
    largest = math.log(torch.finfo(log_p.dtype).max) - 1  # beyond it only at a transition of 0: inf times 0
    ratios = (log_p - constant.unsqueeze(-1)).clamp_max(largest).exp()
    return -constant - (ratios * columns).sum(-1).log()


@full_precision
def trace_regularization(transition: Tensor, reduction: str = "mean") -> Tensor:
    r"""Trace of annotators' confusion matrices, :math:`\mathrm{tr}(T^s)` (Tanno et al., CVPR 2019).

    Added with a small weight to `transition_cross_entropy`, it asks for the least reliable annotators that explain the
    labels: without it the network may take the mistakes upon itself and call everybody right.

    Args:
        transition: (S, C, C), or (C, C) for one annotator.
        reduction: ``"mean"`` over the annotators, ``"sum"`` (the paper) or ``"none"``: (S,).

    Returns:
        float32 for half precision and under autocast; 0, with a zero gradient, for no annotators.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape or choice.

    >>> trace_regularization(torch.tensor([[0.7, 0.3], [0.1, 0.9]]))
    tensor(1.6000)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_floating(transition, "transition")
    matrices = transition.unsqueeze(0) if transition.ndim == 2 else transition
    classes = matrices.shape[-1] if matrices.ndim else 0
    check_shape(matrices, "transition", ("S", classes, classes))
    (matrices,) = promote(matrices)
    return reduce(matrices.diagonal(dim1=1, dim2=2).sum(1), reduction)
