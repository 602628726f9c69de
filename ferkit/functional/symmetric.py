"""Symmetric cross-entropy: the label explains the prediction, and the prediction the label."""

from __future__ import annotations

import math

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
from ferkit.functional._inputs import full_precision, promote, zero_rows
from ferkit.ops import flag_out_of_range
from ferkit.reduction import REDUCTIONS, combine_weights, reduce

__all__ = ["SYMMETRIC_FORMS", "check_symmetric", "symmetric_cross_entropy"]

SYMMETRIC_FORMS = ("paper", "released")
LOG_ZERO = {"paper": -4.0, "released": math.log(1e-4)}
SMALLEST = 1e-7  # probability in the released cross-entropy


@full_precision
def symmetric_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    alpha: float = 0.1,
    beta: float = 1.0,
    form: str = "paper",
    log_zero: float | None = None,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Symmetric cross-entropy :math:`-\alpha\log p_y - \beta A (1-p_y)` (SCE; Wang et al., ICCV 2019).

    The second term is the reverse cross-entropy :math:`-\sum_k p_k \log q_k` with the one-hot label q, whose log 0 is
    taken to be A. It is bounded, and so is its gradient: a wrong label cannot pull for ever. p = softmax(logits).

    Args:
        logits: (N, C).
        labels: int64 (N,); rows labelled -1 take no part, even if they hold NaN.
        alpha: weight of the cross-entropy; the paper has 0.1 for CIFAR-10 and 6 for CIFAR-100.
        beta: weight of the reverse one; there 1 and 0.1.
        form: ``"paper"``; ``"released"``: A = ln 1e-4, and probabilities below 1e-7 count as 1e-7 in the cross-entropy
            (and get no gradient from it).
        log_zero: A, below 0; None is the form's: -4 (paper) or -9.21 (released).
        sample_weight: (N,).
        class_weight: (C,), multiplied with the sample weight by label.
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` or ``"none"``: (N,).

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or labels outside -1..C-1 (read on the CPU).

    >>> symmetric_cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
    tensor(2.0693)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_symmetric(alpha, beta, form, log_zero)
    check_floating(logits, "logits")
    check_shape(logits, "logits", ("N", "C"))
    size, num_classes = logits.shape
    check_labels(labels, size)
    check_device(logits, labels=labels)
    complete = check_label_range(labels, num_classes)
    flag_out_of_range(labels, num_classes)
    (logits,) = promote(logits)
    weight = combine_weights(labels, size, logits, sample_weight, class_weight, num_classes, complete)
    if weight is not None:
        logits = zero_rows(logits, weight != 0)
    log_p = log_probability(logits, labels)
    cross_entropy = -(log_p if form == "paper" else log_p.clamp_min(math.log(SMALLEST)))
    reverse = (LOG_ZERO[form] if log_zero is None else log_zero) * torch.expm1(log_p)  # A (p - 1), exact near p = 1
    values = beta * reverse
    if alpha:  # 0 times an infinite cross-entropy is not there
        values = values + alpha * cross_entropy
    return reduce(values, reduction, weight)


def log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,): the logarithm of the label's probability; of class 0 where there is no label."""
    listed = labels.clamp(0, max(logits.shape[1] - 1, 0)).unsqueeze(1)
    return logits.log_softmax(1).gather(1, listed).squeeze(1)


def check_symmetric(alpha: float, beta: float, form: str, log_zero: float | None) -> None:
    check_number(alpha, "alpha", 0.0)
    check_number(beta, "beta", 0.0)
    check_choice(form, "form", SYMMETRIC_FORMS)
    if log_zero is not None:
        check_number(log_zero, "log_zero", high=0, open_high=True)
