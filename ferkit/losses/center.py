"""Centre loss, with centres that follow the features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferkit.checks import check_number
from ferkit.functional.centers import center_loss, intra_class_step
from ferkit.losses._base import Loss

__all__ = ["CenterLoss"]


class CenterLoss(Loss):
    """Half the squared distance of features from their class's centre (Wen et al., ECCV 2016, eq. 2).

    The centres are a buffer (C, D) that starts at 0, is saved in the state dict, and is moved by `update_centers`, not
    by an optimiser; the paper does so once a step, after the loss. See `ferkit.functional.center_loss`.

    Args:
        num_classes: C.
        dim: D.
        rate: alpha of the centres' step, in [0, 1] (the paper: 0.5).
        class_weight: (C,) or None.
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` (the paper) or ``"none"``.
        process_group: over whose rows the centres' step sums: ``None``, ``"global"`` or a ProcessGroup.

    Call with features (N, D), int64 labels (N,) and optionally sample_weight (N,).

    >>> loss = CenterLoss(num_classes=3, dim=2)
    >>> features, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    >>> loss(features, labels)
    tensor(2.5000)
    >>> loss.update_centers(features, labels)
    >>> loss(features, labels)
    tensor(1.4062)
    """

    settings = ("num_classes", "dim", "rate", "class_weight", "reduction", "process_group")
    centers: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        rate: float = 0.5,
        class_weight: Tensor | None = None,
        reduction: str = "mean",
        process_group: Any = None,
    ) -> None:
        super().__init__(reduction)
        check_number(num_classes, "num_classes", 1, integer=True)
        check_number(dim, "dim", 1, integer=True)
        check_number(rate, "rate", 0.0, 1.0)
        self.num_classes = num_classes
        self.dim = dim
        self.rate = rate
        self.process_group = process_group
        self._keep_class_weight(class_weight, num_classes)
        self.register_buffer("centers", torch.zeros(num_classes, dim))

    def forward(self, features: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return center_loss(features, labels, self.centers, sample_weight, self.class_weight, self.reduction)

    @torch.no_grad()
    def update_centers(self, features: Tensor, labels: Tensor) -> None:
        """One step of the centres (eq. 4); see `ferkit.functional.intra_class_step`."""
        step = intra_class_step(self.centers, features, labels, None, self.rate, False, self.process_group)
        self.centers.copy_(step)
