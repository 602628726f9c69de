"""Cross-entropy of logits scaled by a confidence per sample."""

from __future__ import annotations

from torch import Tensor

from ferkit.functional.cross_entropy import weighted_logit_cross_entropy
from ferkit.losses._base import Loss

__all__ = ["WeightedLogitCrossEntropy"]


class WeightedLogitCrossEntropy(Loss):
    """Cross-entropy of confidence times logits (DMUE, eq. 9); see `ferkit.functional.weighted_logit_cross_entropy`.

    Args:
        class_weight: (C,) or None.
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` or ``"none"``.

    Call with logits (N, C), confidence (N,) or (N, 1), int64 labels (N,) and optionally sample_weight (N,).

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> WeightedLogitCrossEntropy()(logits, torch.tensor([1.0, 0.5]), torch.tensor([0, 1]))
    tensor(0.2201)
    """

    settings = ("class_weight", "reduction")

    def __init__(self, class_weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self._keep_class_weight(class_weight)

    def forward(
        self, logits: Tensor, confidence: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return weighted_logit_cross_entropy(
            logits, confidence, labels, sample_weight, self.class_weight, self.reduction
        )
