"""Guidance by the predictions of neighbours in an auxiliary label space."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_choice
from ferkit.functional.neighbor import DIRECTIONS, check_detach, check_normalize, neighbor_guidance_loss
from ferkit.losses._base import Loss

__all__ = ["NeighborGuidanceLoss"]


class NeighborGuidanceLoss(Loss):
    """Affinity-weighted divergence from the neighbours' predictions (LDL-ALSG, eq. 4).

    See `ferkit.functional.neighbor_guidance_loss`.

    Args:
        detach: ``"neighbors"`` (the paper): no gradient reaches the neighbours' logits; ``None``: it does.
        reduction: ``"mean"`` (over the sum of the sample weights), ``"sum"`` (the paper) or ``"none"``.
        direction: ``"neighbor-to-center"`` (the paper): KL(neighbour‖centre); ``"center-to-neighbor"``: the other way.
        normalize: ``None`` (the paper): the sum over the neighbours; ``"weights"``: over the sum of the affinities;
            ``"neighbors"``: over K.

    Call with logits (N, C), neighbor_logits (N, K, C), affinity (N, K) and optionally sample_weight (N,).

    >>> import torch
    >>> logits, neighbors = torch.zeros(1, 2), torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    >>> NeighborGuidanceLoss()(logits, neighbors, torch.tensor([[1.0, 0.5]]))
    tensor(0.1639)
    """

    settings = ("detach", "reduction", "direction", "normalize")

    def __init__(
        self,
        detach: str | None = "neighbors",
        reduction: str = "mean",
        direction: str = "neighbor-to-center",
        normalize: str | None = None,
    ) -> None:
        super().__init__(reduction)
        check_detach(detach)
        check_normalize(normalize)
        self.detach = detach
        self.direction = check_choice(direction, "direction", DIRECTIONS)
        self.normalize = normalize

    def forward(
        self, logits: Tensor, neighbor_logits: Tensor, affinity: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return neighbor_guidance_loss(
            logits,
            neighbor_logits,
            affinity,
            self.detach,
            sample_weight,
            self.reduction,
            self.direction,
            self.normalize,
        )
