"""Distributions over the classes other than the annotated one, which is what DMUE mines."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_labels, check_shape, check_tensor

__all__ = ["other_classes"]


def other_classes(distributions: Tensor, labels: Tensor) -> Tensor:
    """Rows with the share of the annotated class set to 0 and the rest divided by its sum (figure 13 of DMUE).

    Args:
        distributions: probabilities or votes (N, C), >= 0.
        labels: annotated classes (N,) int64; a row labelled -1 is divided by its sum alone.

    Returns:
        (N, C) float64. A row with nothing outside its annotated class is 0, which the distances of
        ``ferkit.metrics`` take as a target without votes.

    Raises:
        TypeError, ValueError: wrong dtype or shape, labels out of range.

    Source: She et al., CVPR 2021, section 4.6 and figure 13.

    >>> import torch
    >>> other_classes(torch.tensor([[6, 3, 1], [10, 0, 0]]), torch.tensor([0, 0]))
    tensor([[0.0000, 0.7500, 0.2500],
            [0.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    check_tensor(distributions, "distributions")
    check_shape(distributions, "distributions", ("N", "C"))
    check_labels(labels, len(distributions), distributions.shape[1])
    rest = distributions.detach().double().clone()
    known = (labels >= 0).nonzero()[:, 0]
    rest[known, labels[known]] = 0.0
    total = rest.sum(1, keepdim=True)
    return rest / total.where(total > 0, total.new_ones(()))
