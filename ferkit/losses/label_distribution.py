"""Divergence of a prediction from a label distribution."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_choice, check_number
from ferkit.functional.divergence import (
    DIVERGENCES,
    DIVISORS,
    check_detach_distribution,
    label_distribution_loss,
)
from ferkit.losses._base import Loss

__all__ = ["LabelDistributionLoss"]


class LabelDistributionLoss(Loss):
    """KL or cross-entropy of softmax(logits) to a distribution; see `ferkit.functional.label_distribution_loss`.

    LDLVA's classification loss as released: ``LabelDistributionLoss("cross-entropy", eps=1e-10, divisor="samples")``.

    Args:
        divergence: ``"kl"``: KL(distribution‖prediction); ``"cross-entropy"``: that plus the distribution's entropy.
        detach: ``None``: the distribution gets a gradient; ``"distribution"``: a constant target.
        eps: added to the probability inside its logarithm; 0 is exact, released: 1e-10.
        divisor: ``"mean"`` divides by the sum of the ``"weights"`` or by the number of ``"samples"`` (released).
        class_weight: (C,) or None; needs labels in the call.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Call with logits (N, C), distribution (N, C), and optionally int64 labels (N,) and sample_weight (N,).

    >>> import torch
    >>> LabelDistributionLoss()(torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]))
    tensor(0.1308)
    """

    settings = ("divergence", "detach", "eps", "divisor", "class_weight", "reduction")

    def __init__(
        self,
        divergence: str = "kl",
        detach: str | None = None,
        eps: float = 0.0,
        divisor: str = "weights",
        class_weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        check_detach_distribution(detach)
        check_number(eps, "eps", 0.0, 1.0)
        self.divergence = check_choice(divergence, "divergence", DIVERGENCES)
        self.detach = detach
        self.eps = eps
        self.divisor = check_choice(divisor, "divisor", DIVISORS)
        self._keep_class_weight(class_weight)

    def forward(
        self,
        logits: Tensor,
        distribution: Tensor,
        labels: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        return label_distribution_loss(
            logits,
            distribution,
            labels,
            self.divergence,
            self.detach,
            self.eps,
            self.divisor,
            sample_weight,
            self.class_weight,
            self.reduction,
        )
