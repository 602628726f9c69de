"""Squared distance from the mined latent distribution."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_choice
from ferkit.functional.latent import DIVISORS, latent_distribution_loss
from ferkit.losses._base import Loss

__all__ = ["LatentDistributionLoss"]


class LatentDistributionLoss(Loss):
    """Soft loss against the latent distribution (DMUE, eq. 4); see `ferkit.functional.latent_distribution_loss`.

    Args:
        divisor: ``"paper"`` divides a sample's squares by C-1, ``"released"`` by C.
        class_weight: (C,) or None.
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` or ``"none"``.

    Call with logits (N, C), distribution (N, C), int64 labels (N,) and optionally sample_weight (N,).

    >>> import torch
    >>> LatentDistributionLoss()(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0]))
    tensor(0.2778)
    """

    settings = ("divisor", "class_weight", "reduction")

    def __init__(self, divisor: str = "paper", class_weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.divisor = check_choice(divisor, "divisor", DIVISORS)
        self._keep_class_weight(class_weight)

    def forward(
        self, logits: Tensor, distribution: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return latent_distribution_loss(
            logits, distribution, labels, self.divisor, sample_weight, self.class_weight, self.reduction
        )
