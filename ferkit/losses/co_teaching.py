"""The losses of two networks that choose each other's samples."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_choice
from ferkit.functional.co_teaching import CO_TEACHING_DIVISORS, co_teaching_loss
from ferkit.losses._base import Loss

__all__ = ["CoTeachingLoss"]


class CoTeachingLoss(Loss):
    """Co-teaching's two losses, added up (Han et al., NeurIPS 2018); see `ferkit.functional.co_teaching_loss`.

    Args:
        divisor: of the mean: the samples ``"kept"``, or ``"released"``, which divides by their number twice.
        class_weight: (C,) or None.
        reduction: ``"mean"`` (of each network, added up), ``"sum"`` or ``"none"``: (N,).

    Call with logits (N, C), peer_logits (N, C), int64 labels (N,), forget_rate in [0, 1) and optionally sample_weight
    (N,).

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> CoTeachingLoss()(logits, logits.flip(0), torch.tensor([0, 0]), forget_rate=0.5)
    tensor(1.3863)
    """

    settings = ("divisor", "class_weight", "reduction")

    def __init__(self, divisor: str = "kept", class_weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.divisor = check_choice(divisor, "divisor", CO_TEACHING_DIVISORS)
        self._keep_class_weight(class_weight)

    def forward(
        self,
        logits: Tensor,
        peer_logits: Tensor,
        labels: Tensor,
        forget_rate: float,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        options = (self.divisor, sample_weight, self.class_weight, self.reduction)
        return co_teaching_loss(logits, peer_logits, labels, forget_rate, *options)
