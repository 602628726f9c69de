"""The baseline: plain cross-entropy on the given labels."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ferkit.checks import check_number
from ferkit.recipes.base import Recipe

__all__ = ["CrossEntropy"]


class CrossEntropy(Recipe):
    """Softmax cross-entropy with the backbone, sampler, augmentation and optimiser of the other recipes.

    Args:
        num_classes: C.
        label_smoothing: as in ``torch.nn.functional.cross_entropy``.
        **options: of :class:`ferkit.recipes.Recipe`.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, **options: Any) -> None:
        check_number(label_smoothing, "label_smoothing", 0, 1)
        super().__init__(num_classes, mining="none", **options)
        self.save_hyperparameters()
        self.label_smoothing = label_smoothing

    def training_loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(images).logits
        loss = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=self.label_smoothing)
        return {"loss": loss}
