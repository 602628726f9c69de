"""Cross-entropy and reverse cross-entropy together."""

from __future__ import annotations

from torch import Tensor

from ferkit.functional.symmetric import check_symmetric, symmetric_cross_entropy
from ferkit.losses._base import Loss

__all__ = ["SymmetricCrossEntropy"]


class SymmetricCrossEntropy(Loss):
    """Symmetric cross-entropy (SCE; Wang et al., ICCV 2019); see `ferkit.functional.symmetric_cross_entropy`.

    Args:
        alpha: weight of the cross-entropy.
        beta: weight of the reverse one.
        form: ``"paper"`` or ``"released"``.
        log_zero: what the logarithm of 0 is taken to be; None: -4 in the paper's form, ln 1e-4 in the released one.
        class_weight: (C,) or None.
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` or ``"none"``.

    Call with logits (N, C), int64 labels (N,) and optionally sample_weight (N,).

    >>> import torch
    >>> SymmetricCrossEntropy()(torch.zeros(1, 2), torch.tensor([0]))
    tensor(2.0693)
    """

    settings = ("alpha", "beta", "form", "log_zero", "class_weight", "reduction")

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 1.0,
        form: str = "paper",
        log_zero: float | None = None,
        class_weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        check_symmetric(alpha, beta, form, log_zero)
        self.alpha, self.beta, self.form, self.log_zero = alpha, beta, form, log_zero
        self._keep_class_weight(class_weight)

    def forward(self, logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        settings = (self.alpha, self.beta, self.form, self.log_zero)
        return symmetric_cross_entropy(logits, labels, *settings, sample_weight, self.class_weight, self.reduction)
