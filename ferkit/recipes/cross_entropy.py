"""The baseline: plain cross-entropy on the given labels."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ferkit.blocks.branched_backbone import BranchedOutput
from ferkit.checks import check_number
from ferkit.recipes.backbone import BackboneRecipe, distribution_cross_entropy

__all__ = ["CrossEntropy"]


class CrossEntropy(BackboneRecipe):
    """Softmax cross-entropy with the backbone, sampler, augmentation and optimiser of the other recipes.

    Args:
        num_classes: C.
        label_smoothing: as in ``torch.nn.functional.cross_entropy``.
        **options: of :class:`ferkit.recipes.BackboneRecipe`.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, **options: Any) -> None:
        check_number(label_smoothing, "label_smoothing", 0, 1)
        super().__init__(num_classes, mining="none", **options)
        self.save_hyperparameters()
        self.label_smoothing = label_smoothing

    def classification_loss(
        self,
        output: BranchedOutput,
        labels: Tensor,
        target: Tensor | None = None,
        class_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        smoothing = self.label_smoothing
        if target is not None:
            target = (1 - smoothing) * target + smoothing / self.num_classes
            return {"loss": distribution_cross_entropy(output.logits, target, labels, class_weight, self.target_eps)}
        total = F.cross_entropy(output.logits, labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
        return {"loss": total / (labels >= 0).sum().clamp_min(1)}  # 0, not NaN, where nothing is labelled
