"""DMUE's two cross-entropies: confidence-weighted logits, and branches that each leave one class out."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import (
    IGNORED_LABEL,
    check_choice,
    check_device,
    check_floating,
    check_label_range,
    check_labels,
    check_shape,
)
from ferkit.functional._inputs import as_vector, full_precision, promote
from ferkit.ops import flag_out_of_range
from ferkit.ops.scaled_cross_entropy import scaled_cross_entropy as _op
from ferkit.reduction import REDUCTIONS, combine_weights, reduce, safe_divide

__all__ = ["auxiliary_cross_entropy", "check_auxiliary_logits", "weighted_logit_cross_entropy"]


@full_precision
def weighted_logit_cross_entropy(
    logits: Tensor,
    confidence: Tensor,
    labels: Tensor,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy of logits scaled by a confidence per sample, :math:`-\log\mathrm{softmax}(\alpha_n z_n)_{y_n}`.

    DMUE, equation 9 (SCN uses the same); paper and released code agree. The gradient reaches the confidence:
    :math:`\partial/\partial\alpha_n = \sum_k (p_k - 1[k=y_n]) z_{nk}`.

    Args:
        logits: (N, C), from a classifier without bias if the confidence is to scale the whole of it.
        confidence: (N,) or (N, 1), usually in (0, 1).
        labels: int64 (N,); rows labelled -1 take no part.
        sample_weight: (N,).
        class_weight: (C,), multiplied with the sample weight by label.
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` or ``"none"``.

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or labels outside -1..C-1 (read on the CPU).

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> weighted_logit_cross_entropy(logits, torch.tensor([1.0, 0.5]), torch.tensor([0, 0]), reduction="none")
    tensor([0.1269, 1.3133])
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_floating(logits, "logits")
    check_shape(logits, "logits", ("N", "C"))
    size, num_classes = logits.shape
    confidence = as_vector(confidence, "confidence")
    check_shape(confidence, "confidence", (size,))
    check_labels(labels, size)
    check_device(logits, confidence=confidence, labels=labels)
    complete = check_label_range(labels, num_classes)
    logits, confidence = promote(logits, confidence)
    if reduction == "mean" and sample_weight is None and class_weight is None:
        return _op(logits, confidence, labels, mean=True)  # one op less, forward and backward
    weight = combine_weights(labels, size, logits, sample_weight, class_weight, num_classes, complete)
    if weight is not None:
        labels = torch.where(weight == 0, IGNORED_LABEL, labels)  # a row of weight 0 gives no gradient, not 0 * NaN
    return reduce(_op(logits, confidence, labels), reduction, weight)


@full_precision
def auxiliary_cross_entropy(
    auxiliary_logits: Tensor,
    labels: Tensor,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross-entropy of C branches, of which branch j sees the samples not labelled j and has their C-1 classes.

    :math:`L = \frac1C \sum_j \frac1{N_j} \sum_{n: y_n\ne j} -\log\mathrm{softmax}(a_j(x_n))_{y_n}` (DMUE, equations
    1-2; paper and released code agree). In branch j class k has index k if k < j, else k-1.

    Args:
        auxiliary_logits: (C, N, C-1), C at least 2. Row n of branch y_n is ignored.
        labels: int64 (N,); samples labelled -1 take no part.
        sample_weight: (N,).
        class_weight: (C,), multiplied with the sample weight by label.
        reduction: ``"mean"``: the mean of the C branches' (weighted) means, where a branch without samples is 0 and
            still counts (the released code has NaN there); ``"none"``: (N,), each sample's weight times its mean over
            the C-1 branches that see it; ``"sum"``: the sum of those.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or labels outside -1..C-1 (read on the CPU).

    >>> auxiliary_cross_entropy(torch.zeros(3, 2, 2), torch.tensor([0, 2]))
    tensor(0.6931)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    num_classes, size, complete = check_auxiliary_logits(auxiliary_logits, labels)
    (logits,) = promote(auxiliary_logits)
    weight = combine_weights(labels, size, logits, sample_weight, class_weight, num_classes, complete)
    branches = torch.arange(num_classes, device=labels.device).unsqueeze(1)
    seen = labels != branches
    if weight is not None:
        seen = seen & (weight != 0)
    index = (labels - (labels > branches).to(labels.dtype)).clamp(0, num_classes - 2)
    # rows that take no part are blanked before the softmax, whose gradient would make NaN of 0 * NaN
    logits = torch.where(seen.unsqueeze(-1), logits, 0)
    values = -logits.log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)
    share = seen.to(values.dtype) if weight is None else torch.where(seen, weight, 0)
    values = values * share
    if reduction == "mean":
        return safe_divide(values.sum(1), share.sum(1)).mean()
    return reduce(values.sum(0) / (num_classes - 1), reduction)


def check_auxiliary_logits(auxiliary_logits: Tensor, labels: Tensor) -> tuple[int, int, bool]:
    """Check logits (C, N, C-1) and labels (N,); C, N, and whether every label is known to be there."""
    check_floating(auxiliary_logits, "auxiliary_logits")
    check_shape(auxiliary_logits, "auxiliary_logits", ("C", "N", "C-1"))
    num_classes, size, width = auxiliary_logits.shape
    if num_classes < 2 or width != num_classes - 1:
        shape = tuple(auxiliary_logits.shape)
        raise ValueError(f"auxiliary_logits: expected shape (C, N, C-1) with C of 2 or more, got {shape}")
    check_labels(labels, size)
    check_device(auxiliary_logits, labels=labels)
    complete = check_label_range(labels, num_classes)
    flag_out_of_range(labels, num_classes)
    return num_classes, size, complete
