"""Co-teaching: each of two networks learns from the samples on which the other's loss is small."""

from __future__ import annotations

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
    check_tensor,
)
from ferkit.functional._inputs import full_precision, promote, rank_among, zero_rows
from ferkit.functional.symmetric import log_probability
from ferkit.ops import flag_out_of_range
from ferkit.reduction import REDUCTIONS, combine_weights, reduce, safe_divide

__all__ = ["CO_TEACHING_DIVISORS", "co_teaching_loss", "forget_rate", "small_loss_selection"]

CO_TEACHING_DIVISORS = ("kept", "released")


@full_precision
def co_teaching_loss(
    logits: Tensor,
    peer_logits: Tensor,
    labels: Tensor,
    forget_rate: float,
    divisor: str = "kept",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""The two networks' losses of co-teaching, added up (Han et al., NeurIPS 2018, algorithm 1).

    Each network has the cross-entropy of the samples that the *other* one's cross-entropy is smallest on; the share
    ``forget_rate`` with the largest is left out. The choice has no gradient: each network's gradient is that of its own
    loss alone, and one optimiser over both does what the paper's two do.

    Args:
        logits, peer_logits: (N, C), of the two networks.
        labels: int64 (N,); rows labelled -1 take no part, even if they hold NaN.
        forget_rate: R in [0, 1): of M samples that take part, each network learns from floor((1 - R) M), at least one.
            See `ferkit.functional.forget_rate` for its course over the epochs.
        divisor: of the mean: the samples (or weights) ``"kept"``; ``"released"`` divides that by the number kept once
            more, as the published code does.
        sample_weight: (N,).
        class_weight: (C,), multiplied with the sample weight by label. No weight enters the choice, but 0: it equals
            removal.
        reduction: ``"mean"``: the sum of both networks' means; ``"sum"``, or ``"none"``: (N,), the sum over both.

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or labels outside -1..C-1 (read on the CPU).

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> co_teaching_loss(logits, logits.flip(0), torch.tensor([0, 0]), forget_rate=0.5)
    tensor(1.3863)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_choice(divisor, "divisor", CO_TEACHING_DIVISORS)
    check_number(forget_rate, "forget_rate", 0, 1, open_high=True)
    check_floating(logits, "logits")
    check_shape(logits, "logits", ("N", "C"))
    size, num_classes = logits.shape
    check_floating(peer_logits, "peer_logits")
    check_shape(peer_logits, "peer_logits", (size, num_classes))
    check_labels(labels, size)
    check_device(logits, peer_logits=peer_logits, labels=labels)
    complete = check_label_range(labels, num_classes)
    flag_out_of_range(labels, num_classes)
    logits, peer_logits = promote(logits, peer_logits)
    weight = combine_weights(labels, size, logits, sample_weight, class_weight, num_classes, complete)
    part = torch.ones_like(labels, dtype=torch.bool) if weight is None else weight != 0
    losses = [-log_probability(zero_rows(each, part), labels) for each in (logits, peer_logits)]
    total = logits.new_zeros(size if reduction == "none" else ())
    for own, other in (losses, losses[::-1]):
        kept = small_loss_selection(other, forget_rate, part)
        shown = kept | (part & own.isnan())  # a network that gives NaN is not hidden by what its peer leaves out
        if weight is not None:
            shown = shown | weight.isnan()
        value = reduce(own, reduction, torch.where(shown, 1 if weight is None else weight, 0).to(own.dtype))
        if divisor == "released" and reduction == "mean":
            value = safe_divide(value, kept.sum().to(value.dtype))
        total = total + value
    return total


def small_loss_selection(losses: Tensor, forget_rate: float, part: Tensor | None = None) -> Tensor:
    """Which samples co-teaching keeps: of M the floor((1 - R) M) of least loss, one at least.

    Of equal losses the earlier sample is kept; NaN counts as the largest. No gradient, no host sync.

    Args:
        losses: (N,).
        forget_rate: R in [0, 1).
        part: bool (N,), the M samples to choose from; None: all.

    Returns:
        bool (N,).

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices or a rate out of its range.

    >>> small_loss_selection(torch.tensor([0.3, 2.0, 0.1, 0.4]), 0.5)
    tensor([ True, False,  True, False])
    """
    check_floating(losses, "losses")
    check_shape(losses, "losses", ("N",))
    check_number(forget_rate, "forget_rate", 0, 1, open_high=True)
    losses = losses.detach()
    if part is None:
        part = torch.ones_like(losses, dtype=torch.bool)
    check_tensor(part, "part")
    if part.dtype != torch.bool:
        raise TypeError(f"part: expected dtype torch.bool, got {part.dtype}")
    check_shape(part, "part", losses.shape)
    check_device(losses, part=part)
    # a rounding more: the product may fall short of a whole number
    kept = ((1 - forget_rate) * part.sum().double() + 1e-9).floor().clamp_min(1)
    return (rank_among(losses, part) < kept) & part


def forget_rate(epoch: float, final: float, over: float) -> float:
    """Co-teaching's forget rate R(e) = final · min(e / over, 1): all samples at first, then fewer.

    Args:
        epoch: e, counted from 0, whole or not.
        final: the rate that is reached, in [0, 1): the share of wrong labels, where that is known.
        over: epochs until then (the paper: 10); 0: at once.

    Raises:
        TypeError, ValueError: for a number out of its range.

    >>> [round(forget_rate(epoch, 0.2, 10), 2) for epoch in (0, 5, 10, 50)]
    [0.0, 0.1, 0.2, 0.2]
    """
    check_number(epoch, "epoch", 0.0)
    check_number(final, "final", 0, 1, open_high=True)
    check_number(over, "over", 0.0)
    return final if epoch >= over else final * epoch / over
