"""Finding wrong labels: one score, fixed beforehand, and the area under its ROC curve."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import check_device, check_floating, check_labels, check_shape, check_tensor
from ferkit.metrics._rows import check_probabilities

__all__ = ["flip_auc", "suspicion"]


def suspicion(probabilities: Tensor, labels: Tensor) -> Tensor:
    r"""How likely a given label is wrong: :math:`\max_{k\ne y} p_k - p_y`, in [-1, 1]; higher is more suspicious.

    The probabilities are those of the deployed model (``eval()``) on the training images without augmentation; the
    score reads nothing else, so every method is scored alike. Above 0 the model prefers another class.

    Args:
        probabilities: (N, C), rows summing to 1, C >= 2.
        labels: given labels (N,) int64.

    Returns:
        (N,) float64; NaN for samples labelled -1, which have no label to doubt.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device, rows that are no probabilities, C < 2.

    >>> suspicion(torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]), torch.tensor([0, 1]))
    tensor([-0.5000,  0.5000], dtype=torch.float64)
    """
    p = check_probabilities(probabilities, "probabilities")
    if p.shape[1] < 2:
        raise ValueError(f"probabilities: expected at least 2 classes, got {p.shape[1]}")
    check_labels(labels, p.shape[0], p.shape[1])
    check_device(p, labels=labels)
    given = labels[:, None] == torch.arange(p.shape[1], device=p.device)
    other = p.masked_fill(given, -1.0).amax(1)
    own = (p * given).sum(1)
    return (other - own).masked_fill(labels < 0, float("nan"))


def flip_auc(score: Tensor, is_flipped: Tensor) -> Tensor:
    """Area under the ROC curve with which ``score`` finds the flipped labels: 1 perfect, 0.5 chance, 0 reversed.

    It is the share of (flipped, clean) pairs in which the flipped sample has the higher score, ties counting half.

    Args:
        score: (N,), higher = more suspicious, finite; any scale (only the order counts).
        is_flipped: (N,) bool.

    Returns:
        A float64 scalar; NaN if there is no flipped or no clean sample.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device, scores that are not finite.

    >>> flip_auc(torch.tensor([-0.9, 0.2, -0.5, 0.6]), torch.tensor([False, True, True, True]))
    tensor(1., dtype=torch.float64)
    """
    from torchmetrics.functional.classification import binary_auroc

    check_floating(score, "score")
    check_shape(score, "score", ("N",))
    check_tensor(is_flipped, "is_flipped")
    if is_flipped.dtype != torch.bool:
        raise TypeError(f"is_flipped: expected dtype torch.bool, got {is_flipped.dtype}")
    check_shape(is_flipped, "is_flipped", tuple(score.shape))
    check_device(score, is_flipped=is_flipped)
    if not bool(torch.isfinite(score).all()):
        raise ValueError("score: expected finite values, got NaN or infinity (leave unlabelled samples out first)")
    flipped = int(is_flipped.sum())
    if flipped in (0, len(score)):
        return torch.full((), float("nan"), dtype=torch.float64, device=score.device)
    # Ranks in [0, 1]: torchmetrics would squash scores outside it through a sigmoid, which makes near scores equal.
    rank = torch.unique(score.detach(), return_inverse=True)[1].double()
    return binary_auroc(rank / rank.amax().clamp_min(1), is_flipped.long()).double()
