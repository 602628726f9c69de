"""Distances between label distributions: Jeffreys divergence, and losses towards a distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import (
    check_choice,
    check_device,
    check_floating,
    check_label_range,
    check_labels,
    check_not_negative,
    check_number,
    check_shape,
    readable,
)
from ferkit.functional._inputs import full_precision, promote, zero_rows
from ferkit.ops import flag_out_of_range
from ferkit.reduction import REDUCTIONS, combine_weights, reduce

__all__ = [
    "DIVERGENCES",
    "DIVISORS",
    "check_detach_distribution",
    "jeffreys_divergence",
    "label_distribution_loss",
]

DIVERGENCES = ("kl", "cross-entropy")
DIVISORS = ("weights", "samples")
ROUNDING = 1e-2  # of a row's sum; bfloat16 has three digits


@full_precision
def jeffreys_divergence(
    p: Tensor, q: Tensor, eps: float = 1e-6, sample_weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    r"""Jeffreys divergence :math:`\sum_j (p_j - q_j) \log(p_j / q_j)` = KL(p‖q) + KL(q‖p), in nats.

    LDLVA's supplement takes its mean over the samples to compare predicted with voted distributions. Both arguments are
    clipped at ``eps`` from below and renormalised, so that it is finite; with zeros in either (a one-hot label, say)
    the value depends on ``eps``: compare figures at one ``eps`` only. `ferkit.metrics.JeffreysDivergence` accumulates
    the same over batches and leaves out samples without votes.

    Args:
        p, q: (N, C), 0 or more, rows summing to 1. Symmetric; gradients reach both, but no value below ``eps``.
        eps: in (0, 1].
        sample_weight: (N,).
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` or ``"none"``: (N,).

    Returns:
        0 or more; float32 for half precision and under autocast; 0 for the empty set, with a zero gradient.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or negative values (read on the CPU).

    >>> jeffreys_divergence(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.8, 0.2]]))
    tensor(0.4159)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_number(eps, "eps", 0.0, 1.0, open_low=True)
    check_floating(p, "p")
    check_floating(q, "q")
    check_shape(p, "p", ("N", "C"))
    check_shape(q, "q", p.shape)
    check_device(p, q=q)
    check_not_negative(p, "p")
    check_not_negative(q, "q")
    p, q = promote(p, q)
    weight = combine_weights(None, p.shape[0], p, sample_weight)
    if weight is not None:
        p, q = zero_rows(p, weight != 0), zero_rows(q, weight != 0)
    p, q = _clip(p, eps), _clip(q, eps)
    return reduce(((p - q) * (p.log() - q.log())).sum(1), reduction, weight)


def _clip(distribution: Tensor, eps: float) -> Tensor:
    clipped = distribution.clamp_min(eps)
    return clipped / clipped.sum(1, keepdim=True)


@full_precision
def label_distribution_loss(
    logits: Tensor,
    distribution: Tensor,
    labels: Tensor | None = None,
    divergence: str = "kl",
    detach: str | None = None,
    eps: float = 0.0,
    divisor: str = "weights",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Divergence of a prediction from a label distribution d, p = softmax(logits).

    ``"kl"``: :math:`\mathrm{KL}(d\|p) = \sum_j d_j \log(d_j/p_j)`; ``"cross-entropy"``: :math:`-\sum_j d_j \log p_j`.
    By the logits both have the gradient p - d; by the distribution they differ. LDLVA's classification loss, as
    released, is the cross-entropy with ``eps=1e-10``, ``divisor="samples"`` and a target that is not detached.

    Args:
        logits: (N, C). A logit of -inf is a class that cannot be, and allowed where d is 0.
        distribution: d, (N, C), 0 or more, rows summing to 1 (votes: divide by their sum). A row of zeros has the value
            0, and counts in the mean.
        labels: int64 (N,) or None; needed for class weights, and rows labelled -1 take no part.
        divergence: see above.
        detach: ``None`` (LDLVA): the distribution gets its gradient; ``"distribution"``: a constant target. At d_j = 0
            the entropy's infinite derivative counts as 0.
        eps: added to p inside its logarithm; 0 is exact, the released code has 1e-10.
        divisor: ``"mean"`` divides by the sum of the ``"weights"``, or by the number of ``"samples"`` of weight not 0
            (released: class weights do not enter the divisor).
        sample_weight: (N,).
        class_weight: (C,), multiplied with the sample weight by label.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``: (N,).

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or (read on the CPU) labels outside -1..C-1
            a negative distribution, or rows of one that sum neither to 1 nor to 0.

    >>> d = torch.tensor([[0.75, 0.25]])
    >>> label_distribution_loss(torch.zeros(1, 2), d)
    tensor(0.1308)
    >>> label_distribution_loss(torch.zeros(1, 2), d, divergence="cross-entropy")
    tensor(0.6931)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_choice(divergence, "divergence", DIVERGENCES)
    check_choice(divisor, "divisor", DIVISORS)
    check_detach_distribution(detach)
    check_number(eps, "eps", 0.0, 1.0)
    check_floating(logits, "logits")
    check_floating(distribution, "distribution")
    check_shape(logits, "logits", ("N", "C"))
    size, num_classes = logits.shape
    check_shape(distribution, "distribution", (size, num_classes))
    check_device(logits, distribution=distribution, labels=labels)
    complete = False
    if labels is not None:
        check_labels(labels, size)
        complete = check_label_range(labels, num_classes)
        flag_out_of_range(labels, num_classes)
    check_not_negative(distribution, "distribution")
    if detach is not None:
        distribution = distribution.detach()
    logits, distribution = promote(logits, distribution)
    weight = combine_weights(labels, size, logits, sample_weight, class_weight, num_classes, complete)
    if weight is not None:
        logits, distribution = zero_rows(logits, weight != 0), zero_rows(distribution, weight != 0)
    _check_sums(distribution)
    log_p = logits.log_softmax(1) if eps == 0 else (logits.softmax(1) + eps).log()
    absent = distribution == 0
    values = -(distribution * torch.where(absent & (log_p == -torch.inf), 0, log_p)).sum(1)
    if divergence == "kl":
        values = values + (distribution * torch.where(absent, 1, distribution).log()).sum(1)
    if divisor == "samples" and reduction == "mean" and weight is not None:
        return reduce(values, "sum", weight) / (weight != 0).sum().clamp_min(1)
    return reduce(values, reduction, weight)


def _check_sums(distribution: Tensor) -> None:
    """Raise ValueError for rows that are no distributions: votes, for one (where values can be read)."""
    if not readable(distribution):
        return
    sums = distribution.detach().sum(1)
    wrong = ((sums - 1).abs() > ROUNDING) & (sums != 0)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        found = f"{float(sums[row]):g} in row {row}"
        raise ValueError(f"distribution: expected rows summing to 1 (votes: divide by their sum), got {found}")


def check_detach_distribution(detach: str | None) -> None:
    if detach not in (None, "distribution"):
        raise ValueError(f"detach: expected None or 'distribution', got {detach!r}")
