"""LDLVA's target: the given label, as far as it is certain, and the neighbours' predictions for the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import (
    check_device,
    check_floating,
    check_label_range,
    check_labels,
    check_not_negative,
    check_shape,
    check_unit_interval,
    out_of_range,
)
from ferkit.functional._inputs import as_vector, full_precision, poison_rows, promote
from ferkit.functional.neighbor import check_detach
from ferkit.ops import flag_out_of_range
from ferkit.reduction import safe_divide

__all__ = ["va_target_distribution"]


@full_precision
def va_target_distribution(
    labels: Tensor,
    certainty: Tensor,
    neighbor_probabilities: Tensor,
    contribution: Tensor,
    detach: str | None = "neighbors",
) -> Tensor:
    r"""Label distribution :math:`d_i = \lambda_i e_{y_i} + (1-\lambda_i) \sum_k c_{ik} p_k / \sum_k c_{ik}` of LDLVA.

    As the released code has it: lambda is the weight of the *given label* (the paper is said to name the neighbours'
    weight instead), and the target is not detached, so that gradients reach certainty and contribution.

    Args:
        labels: int64 (N,), y. The row of a sample labelled -1 is all 0 and gives no gradient; pass the labels to
            `label_distribution_loss` too, and it takes no part.
        certainty: (N,) or (N, 1), lambda in [0, 1] (`SampleCertainty` gives it).
        neighbor_probabilities: (N, K, C), p, each row summing to 1 (probabilities, not logits).
        contribution: (N, K), c of 0 or more: affinity times calibration (`AdaptiveSimilarity`). A neighbour of
            contribution 0 takes no part, even if it holds NaN; a sample with no other gets its one-hot label, whatever
            its certainty, which then gets no gradient.
        detach: ``"neighbors"`` (released): no gradient reaches the neighbours' probabilities; ``None``: it does.

    Returns:
        (N, C), rows summing to 1; float32 for half precision and under autocast.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or (read on the CPU) labels outside -1..C-1,
            certainty outside [0, 1], negative contributions or probabilities.

    >>> near = torch.tensor([[[0.2, 0.8], [0.6, 0.4]]])
    >>> va_target_distribution(torch.tensor([0]), torch.tensor([0.5]), near, torch.tensor([[1.0, 1.0]]))
    tensor([[0.7000, 0.3000]])
    """
    check_detach(detach)
    check_floating(neighbor_probabilities, "neighbor_probabilities")
    check_shape(neighbor_probabilities, "neighbor_probabilities", ("N", "K", "C"))
    size, count, num_classes = neighbor_probabilities.shape
    check_labels(labels, size)
    certainty = as_vector(certainty, "certainty")
    check_shape(certainty, "certainty", (size,))
    check_floating(contribution, "contribution")
    check_shape(contribution, "contribution", (size, count))
    check_device(labels, certainty=certainty, neighbor_probabilities=neighbor_probabilities, contribution=contribution)
    check_label_range(labels, num_classes)
    check_unit_interval(certainty, "certainty")
    check_not_negative(contribution, "contribution")
    check_not_negative(neighbor_probabilities, "neighbor_probabilities")
    flag_out_of_range(labels, num_classes)
    if detach is not None:
        neighbor_probabilities = neighbor_probabilities.detach()
    certainty, neighbors, contribution = promote(certainty, neighbor_probabilities, contribution)
    labelled = labels != -1
    # what takes no part is blanked before the arithmetic: its NaN must reach neither value nor gradient
    certainty = torch.where(labelled, certainty, 0).unsqueeze(1)
    present = (contribution != 0) & labelled.unsqueeze(1)
    neighbors = torch.where(present.unsqueeze(2), neighbors, 0)
    contribution = torch.where(present, contribution, 0)
    # divided by the largest first, whose choice changes nothing: a sum of very small contributions stays a sum
    largest = contribution.detach().amax(1, keepdim=True) if count else contribution.new_zeros(size, 1)
    share = safe_divide(contribution, largest.expand_as(contribution))
    share = safe_divide(share, share.sum(1, keepdim=True).expand_as(share))
    around = (share.unsqueeze(2) * neighbors).sum(1)
    one_hot = (labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)).to(neighbors.dtype)
    target = certainty * one_hot + (1 - certainty) * around
    target = torch.where(present.any(1, keepdim=True), target, one_hot + 0 * certainty)
    return poison_rows(target, out_of_range(labels, num_classes))
