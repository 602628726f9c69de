"""One minus the concordance correlation coefficient."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_choice
from ferkit.functional.concordance import CONVENTIONS, concordance_loss
from ferkit.losses._base import Loss

__all__ = ["CCCLoss"]


class CCCLoss(Loss):
    """1 - CCC, the mean over the targets (noisyFER's similarity loss); see `ferkit.functional.concordance_loss`.

    Args:
        convention: ``"population"`` (every moment over N) or ``"released"`` (variances over N-1, covariance over N).
        reduction: ``"mean"`` over the targets, ``"sum"``, or ``"none"`` for one value per target (T,).

    Call with prediction (N, T), target (N, T) and optionally sample_weight (N,).

    >>> import torch
    >>> CCCLoss()(torch.tensor([[0.0], [0.5], [1.0]]), torch.tensor([[0.0], [0.5], [0.7]]))
    tensor(0.1139)
    """

    settings = ("convention", "reduction")

    def __init__(self, convention: str = "population", reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.convention = check_choice(convention, "convention", CONVENTIONS)

    def forward(self, prediction: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return concordance_loss(prediction, target, sample_weight, self.convention, self.reduction)
