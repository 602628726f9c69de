"""Class centres in feature space: distances from them as a loss, and the steps that move them (centre loss, LDLVA)."""

from __future__ import annotations

from typing import Any

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
    check_unit_interval,
)
from ferkit.distributed import all_reduce_sum, resolve_group
from ferkit.functional._inputs import as_vector, full_precision, promote, zero_rows
from ferkit.ops import flag_out_of_range
from ferkit.reduction import REDUCTIONS, combine_weights, reduce

__all__ = [
    "SPREADS",
    "center_loss",
    "check_detach_certainty",
    "inter_class_loss",
    "inter_class_step",
    "intra_class_step",
    "uncertainty_center_loss",
]

SPREADS = ("dim", "sqrt-dim")


@full_precision
def center_loss(
    features: Tensor,
    labels: Tensor,
    centers: Tensor,
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Centre loss :math:`\frac12 \|f_n - c_{y_n}\|^2` of each sample (Wen et al., ECCV 2016, equation 2).

    The paper sums over the samples (``reduction="sum"``) and weighs the sum against the cross-entropy's.

    Args:
        features: (N, D), f.
        labels: int64 (N,); rows labelled -1 take no part, even if they hold NaN.
        centers: (C, D), c. Gradients reach them if they ask for it; the paper moves them by `intra_class_step` instead.
        sample_weight: (N,).
        class_weight: (C,), multiplied with the sample weight by label.
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` (the paper) or ``"none"``: (N,).

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or labels outside -1..C-1 (read on the CPU).

    >>> center_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), torch.zeros(3, 2))
    tensor(2.5000)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    complete = _check_rows(features, labels, centers)
    return _distance(features, labels, centers, None, sample_weight, class_weight, reduction, complete)


@full_precision
def uncertainty_center_loss(
    features: Tensor,
    labels: Tensor,
    certainty: Tensor,
    centers: Tensor,
    detach: str | None = "certainty",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""LDLVA's discriminative loss, :math:`\frac{1}{2M} \sum_m \lambda_m \|f_m - c_{y_m}\|^2`.

    As the released code has it: rows are the centre images and their neighbours (whose features the caller detaches),
    M is their number, and the certainty is a constant. The mean divides by the number (or the weights) of the samples
    and not by the sum of the certainties, so that a batch of doubtful labels counts less.

    Args:
        features: (M, D), f.
        labels: int64 (M,); rows labelled -1 take no part, even if they hold NaN.
        certainty: (M,) or (M, 1), lambda in [0, 1].
        centers: (C, D), c, as in `center_loss`.
        detach: ``"certainty"`` (released): no gradient reaches it; ``None``: it does, and lowers it without bound.
        sample_weight, class_weight, reduction: as in `center_loss`.

    Returns, raises: as `center_loss`; ValueError for a certainty outside [0, 1] (read on the CPU).

    >>> features, labels = torch.tensor([[1.0, 2.0], [0.0, 2.0]]), torch.tensor([1, 0])
    >>> uncertainty_center_loss(features, labels, torch.tensor([0.5, 1.0]), torch.zeros(3, 2))
    tensor(1.6250)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_detach_certainty(detach)
    complete = _check_rows(features, labels, centers)
    certainty = _check_certainty(certainty, features)
    if detach is not None:
        certainty = certainty.detach()
    return _distance(features, labels, centers, certainty, sample_weight, class_weight, reduction, complete)


def _distance(
    features: Tensor,
    labels: Tensor,
    centers: Tensor,
    certainty: Tensor | None,
    sample_weight: Tensor | None,
    class_weight: Tensor | None,
    reduction: str,
    complete: bool,
) -> Tensor:
    num_classes = centers.shape[0]
    if certainty is None:
        features, centers = promote(features, centers)
    else:
        features, centers, certainty = promote(features, centers, certainty)
    weight = combine_weights(labels, features.shape[0], features, sample_weight, class_weight, num_classes, complete)
    # a lookup whose gradient is summed in a fixed order, on the GPU too
    own = torch.nn.functional.embedding(labels.clamp(0, num_classes - 1), centers)
    difference = features - own
    if weight is not None:
        difference = zero_rows(difference, weight != 0)
    values = 0.5 * difference.square().sum(1)
    if certainty is not None:
        values = values * (certainty if weight is None else torch.where(weight != 0, certainty, 0))
    return reduce(values, reduction, weight)


@full_precision
def intra_class_step(
    centers: Tensor,
    features: Tensor,
    labels: Tensor,
    certainty: Tensor | None = None,
    rate: float = 0.5,
    per_sample: bool = False,
    process_group: Any = None,
) -> Tensor:
    r"""New centres, each moved towards the features of its class: :math:`c_j - \alpha \Delta_j`.

    :math:`\Delta_j = \sum_{m: y_m=j} \lambda_m (c_j - f_m) / (1 + n_j)` with n_j the number of rows of class j, and
    lambda = 1 without certainty (Wen et al., equation 4). LDLVA's released code divides by the number M of all rows
    once more: ``per_sample=True``. A class without rows stays where it is.

    Args:
        centers: (C, D), not written to.
        features: (M, D). Rows labelled -1, and rows that are not finite (as mixed precision has them before its scale
            is found), take no part and do not count.
        labels: int64 (M,).
        certainty: (M,) or (M, 1) or None.
        rate: alpha, in [0, 1].
        per_sample: divide by M too.
        process_group: ``None``: this process's rows; ``"global"`` or a ProcessGroup: those of all ranks.

    Returns:
        (C, D) in the dtype of the centres, detached; summed in float64.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, or labels outside -1..C-1 (read on the CPU).

    >>> intra_class_step(torch.zeros(2, 1), torch.tensor([[2.0], [4.0]]), torch.tensor([0, 0]))
    tensor([[1.],
            [0.]])
    """
    check_number(rate, "rate", 0.0, 1.0)
    _check_rows(features, labels, centers)
    if certainty is not None:
        certainty = _check_certainty(certainty, features).detach().double()
    old, rows = centers.detach().double(), features.detach().double()
    member = labels.unsqueeze(1) == torch.arange(centers.shape[0], device=labels.device)
    taking = rows.isfinite().all(1) & member.any(1)
    if certainty is not None:
        taking = taking & certainty.isfinite()
    share = (member & taking.unsqueeze(1)).double()  # (M, C); one product with it sums classes in a fixed order
    weighted = share if certainty is None else share * torch.where(taking, certainty, 0).unsqueeze(1)
    # sums of f, of lambda, and counts: what the ranks exchange
    rows = torch.cat([zero_rows(rows, taking), rows.new_ones(len(rows), 1)], 1)
    sums = torch.cat([weighted.T @ rows, share.sum(0).unsqueeze(1)], 1)
    group = resolve_group(process_group)
    if group is not None:
        sums = all_reduce_sum(sums, group)
    total, mass, count = sums[:, :-2], sums[:, -2:-1], sums[:, -1:]
    step = (mass * old - total) / (1 + count)
    if per_sample:
        step = step / count.sum().clamp_min(1)
    return (old - rate * step).to(centers.dtype)


@full_precision
def inter_class_loss(centers: Tensor, spread: str = "dim") -> Tensor:
    r"""How near the centres lie: :math:`\sum_{i<j} \exp(-\|c_i - c_j\|^2 / V)`, a scalar (LDLVA).

    Args:
        centers: (C, D). Gradients reach them.
        spread: V is D (``"dim"``, released) or its root (``"sqrt-dim"``, what the paper is said to print; unconfirmed).

    >>> inter_class_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    tensor(0.3679)
    """
    _check_centers(centers)
    check_choice(spread, "spread", SPREADS)
    (centers,) = promote(centers)
    near, _ = _nearness(centers, spread)
    return near.triu(1).sum()


@full_precision
def inter_class_step(centers: Tensor, rate: float = 0.05, spread: str = "dim") -> Tensor:
    r"""New centres, moved apart: one gradient step of ``rate`` down `inter_class_loss`.

    LDLVA's released rate is 0.5 times a weight of 0.1. Centres that coincide, as they do at the start, stay together.

    Args:
        centers: (C, D), not written to.
        rate: 0 or more.
        spread: as in `inter_class_loss`.

    Returns:
        (C, D) in the dtype of the centres, detached; summed in float64.

    >>> inter_class_step(torch.tensor([[0.0], [1.0]]), rate=0.5)
    tensor([[-0.3679],
            [ 1.3679]])
    """
    _check_centers(centers)
    check_number(rate, "rate", 0.0)
    check_choice(spread, "spread", SPREADS)
    old = centers.detach().double()
    near, scale = _nearness(old, spread)
    apart = (near.unsqueeze(2) * (old.unsqueeze(1) - old)).sum(1)
    return (old + rate * (2 / scale) * apart).to(centers.dtype)


def _nearness(centers: Tensor, spread: str) -> tuple[Tensor, float]:
    """exp(-‖c_i - c_j‖²/V), (C, C), and V."""
    scale = max(float(centers.shape[1]), 1.0) ** (1.0 if spread == "dim" else 0.5)
    return torch.exp(-(centers.unsqueeze(1) - centers).square().sum(2) / scale), scale


def check_detach_certainty(detach: str | None) -> None:
    if detach not in (None, "certainty"):
        raise ValueError(f"detach: expected None or 'certainty', got {detach!r}")


def _check_centers(centers: Tensor) -> None:
    check_floating(centers, "centers")
    check_shape(centers, "centers", ("C", "D"))
    if centers.shape[0] == 0:
        raise ValueError(f"centers: expected shape (C, D) with C of 1 or more, got {tuple(centers.shape)}")


def _check_certainty(certainty: Tensor, features: Tensor) -> Tensor:
    certainty = as_vector(certainty, "certainty")
    check_shape(certainty, "certainty", features.shape[:1])
    check_device(features, certainty=certainty)
    check_unit_interval(certainty, "certainty")
    return certainty


def _check_rows(features: Tensor, labels: Tensor, centers: Tensor) -> bool:
    """Check all three, flag labels out of range; whether every row is known to be labelled."""
    _check_centers(centers)
    check_floating(features, "features")
    check_shape(features, "features", ("N", centers.shape[1]))
    check_labels(labels, features.shape[0])
    check_device(features, labels=labels, centers=centers)
    complete = check_label_range(labels, centers.shape[0])
    flag_out_of_range(labels, centers.shape[0])
    return complete
