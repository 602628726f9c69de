"""Cross-entropy of branches that each leave one class out."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_number, check_shape
from ferkit.functional.cross_entropy import auxiliary_cross_entropy
from ferkit.losses._base import Loss, check_branches

__all__ = ["AuxiliaryCrossEntropy"]


class AuxiliaryCrossEntropy(Loss):
    """Leave-one-class-out cross-entropy (DMUE, equations 1-2); see `ferkit.functional.auxiliary_cross_entropy`.

    Args:
        num_classes: C, the number of branches, 2 or more.
        class_weight: (C,) or None.
        reduction: ``"mean"`` of the branches' means, ``"none"`` (N,) or ``"sum"``.

    Call with auxiliary_logits (C, N, C-1), int64 labels (N,) and optionally sample_weight (N,).

    >>> import torch
    >>> AuxiliaryCrossEntropy(num_classes=3)(torch.zeros(3, 2, 2), torch.tensor([0, 2]))
    tensor(0.6931)
    """

    settings = ("num_classes", "class_weight", "reduction")

    def __init__(self, num_classes: int, class_weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        check_number(num_classes, "num_classes", 2, integer=True)
        self.num_classes = num_classes
        self._keep_class_weight(class_weight)
        if class_weight is not None:
            check_shape(class_weight, "class_weight", (num_classes,))

    def forward(self, auxiliary_logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        check_branches(auxiliary_logits, "auxiliary_logits", self.num_classes)
        return auxiliary_cross_entropy(auxiliary_logits, labels, sample_weight, self.class_weight, self.reduction)
