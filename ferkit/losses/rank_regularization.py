"""A margin between the confidences of a batch's surer part and of its rest."""

from __future__ import annotations

from torch import Tensor

from ferkit.functional.rank import check_rank, rank_regularization
from ferkit.losses._base import Loss

__all__ = ["RankRegularization"]


class RankRegularization(Loss):
    """SCN's rank regularisation (Wang et al., CVPR 2020); see `ferkit.functional.rank_regularization`.

    One value for a batch, so there is nothing to reduce.

    Args:
        share: of the batch that is its upper part, in (0, 1).
        margin: between the two parts' mean confidences.

    Call with confidence (N,) or (N, 1) and optionally sample_weight (N,).

    >>> import torch
    >>> RankRegularization()(torch.tensor([0.9, 0.8, 0.85]))
    tensor(0.0750)
    """

    settings = ("share", "margin")

    def __init__(self, share: float = 0.7, margin: float = 0.15) -> None:
        super().__init__("mean")
        check_rank(share, margin)
        self.share, self.margin = share, margin

    def forward(self, confidence: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return rank_regularization(confidence, self.share, self.margin, sample_weight)
