"""LDL-ALSG's guidance: a sample's prediction is drawn to those of its neighbours in an auxiliary label space."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import check_choice, check_device, check_floating, check_shape
from ferkit.functional._inputs import full_precision, promote
from ferkit.ops.neighbor_divergence import neighbor_divergence as _op
from ferkit.reduction import REDUCTIONS, combine_weights, reduce, safe_divide

__all__ = ["DIRECTIONS", "check_detach", "check_normalize", "neighbor_guidance_loss"]

DIRECTIONS = ("neighbor-to-center", "center-to-neighbor")


@full_precision
def neighbor_guidance_loss(
    logits: Tensor,
    neighbor_logits: Tensor,
    affinity: Tensor,
    detach: str | None = "neighbors",
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
    direction: str = "neighbor-to-center",
    normalize: str | None = None,
) -> Tensor:
    r"""Weighted Kullback-Leibler divergence of the neighbours' predictions from each sample's own.

    :math:`\frac1N \sum_n \sum_k a_{nk}\,\mathrm{KL}(\mathrm{softmax}(v_{nk}) \,\|\, \mathrm{softmax}(z_n))` (LDL-ALSG,
    equation 4, which sums over n: ``reduction="sum"``). The neighbour's distribution comes first, and it is not divided
    by K or by the sum of the affinities. The gradient by the logits is :math:`\sum_k a_{nk} (p_n - q_{nk})`. Neighbours
    from several graphs (action units and landmarks, say) are set side by side along K; the paper weighs their sum by
    0.0005 to 0.001 against the cross-entropy. No released code.

    Args:
        logits: (N, C), z.
        neighbor_logits: (N, K, C), v.
        affinity: (N, K), a, usually in [0, 1]. A neighbour of affinity 0 takes no part, even if it holds NaN: pad with
            it where a sample has fewer neighbours.
        detach: ``"neighbors"`` (the paper): no gradient reaches them; ``None``: it does.
        sample_weight: (N,).
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` or ``"none"``: (N,).
        direction: ``"neighbor-to-center"`` (the paper): KL(neighbour‖centre); ``"center-to-neighbor"``: KL(centre‖
            neighbour), which is not the paper, though a third-party port has it.
        normalize: ``None`` (the paper): the plain sum over the neighbours; not the paper: ``"weights"`` divides it by
            the sum of each sample's affinities, ``"neighbors"`` by K.

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient. Never negative where
        the affinities are not, exact to a few roundings even where the predictions all but agree.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices or choices.

    >>> logits, neighbors = torch.zeros(1, 2), torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    >>> neighbor_guidance_loss(logits, neighbors, torch.tensor([[1.0, 0.5]]))
    tensor(0.1639)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_detach(detach)
    check_choice(direction, "direction", DIRECTIONS)
    check_normalize(normalize)
    check_floating(logits, "logits")
    check_floating(neighbor_logits, "neighbor_logits")
    check_floating(affinity, "affinity")
    check_shape(logits, "logits", ("N", "C"))
    size, num_classes = logits.shape
    check_shape(neighbor_logits, "neighbor_logits", (size, "K", num_classes))
    check_shape(affinity, "affinity", neighbor_logits.shape[:2])
    check_device(logits, neighbor_logits=neighbor_logits, affinity=affinity)
    if detach is not None:
        neighbor_logits = neighbor_logits.detach()
    logits, neighbor_logits, affinity = promote(logits, neighbor_logits, affinity)
    forward = direction == DIRECTIONS[0]
    if sample_weight is None and reduction == "mean" and normalize is None and forward:
        return _op(logits, neighbor_logits, affinity, mean=True)  # one op less, forward and backward
    weight = combine_weights(None, size, logits, sample_weight)
    if weight is not None:  # a sample of weight 0 loses its neighbours, and with them every gradient
        affinity = torch.where((weight == 0).unsqueeze(1), 0, affinity)
    if normalize == "weights":
        affinity = torch.where(affinity == 0, 0, affinity)  # no gradient through the sum either
        affinity = safe_divide(affinity, affinity.sum(1, keepdim=True).expand_as(affinity))
    elif normalize == "neighbors":
        affinity = affinity / max(affinity.shape[1], 1)
    values = (_op if forward else _reversed)(logits, neighbor_logits, affinity)
    return reduce(values, reduction, weight)


def _reversed(logits: Tensor, neighbor_logits: Tensor, affinity: Tensor) -> Tensor:
    """The op with the roles exchanged: every neighbour is a centre, whose one neighbour is the sample."""
    size, count, num_classes = neighbor_logits.shape
    sample = logits.unsqueeze(1).expand(size, count, num_classes).reshape(size * count, 1, num_classes)
    values = _op(neighbor_logits.reshape(size * count, num_classes), sample, affinity.reshape(size * count, 1))
    return values.view(size, count).sum(1)


def check_detach(detach: str | None) -> None:
    if detach not in (None, "neighbors"):
        raise ValueError(f"detach: expected None or 'neighbors', got {detach!r}")


def check_normalize(normalize: str | None) -> None:
    if normalize not in (None, "weights", "neighbors"):
        raise ValueError(f"normalize: expected None, 'weights' or 'neighbors', got {normalize!r}")
