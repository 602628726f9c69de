"""Symmetric cross-entropy as a whole method."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ferkit import functional
from ferkit.blocks.branched_backbone import BranchedOutput
from ferkit.functional.symmetric import check_symmetric
from ferkit.recipes.backbone import BackboneRecipe

__all__ = ["SCE"]


class SCE(BackboneRecipe):
    """Symmetric cross-entropy (Wang et al., ICCV 2019) in place of :class:`ferkit.recipes.CrossEntropy`'s loss.

    Args:
        num_classes: C.
        alpha: weight of the cross-entropy; the paper has 0.1 for ten classes, 6 for a hundred, in long runs. With few
            images and epochs too little is learned with 0.1 (docs/baselines.md).
        beta: weight of the reverse one; there 1 and 0.1.
        form: ``"paper"`` or ``"released"``, see :func:`ferkit.functional.symmetric_cross_entropy`.
        **options: of :class:`ferkit.recipes.BackboneRecipe`.
    """

    def __init__(
        self, num_classes: int, alpha: float = 1.0, beta: float = 1.0, form: str = "paper", **options: Any
    ) -> None:
        check_symmetric(alpha, beta, form, None)
        super().__init__(num_classes, mining="none", **options)
        self.save_hyperparameters()
        self.alpha, self.beta, self.form = alpha, beta, form

    def classification_loss(
        self,
        output: BranchedOutput,
        labels: Tensor,
        target: Tensor | None = None,
        class_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        if target is not None:
            raise TypeError("target: expected None, since symmetric cross-entropy is of labels, got distributions")
        settings = (self.alpha, self.beta, self.form)
        return {"loss": functional.symmetric_cross_entropy(output.logits, labels, *settings, class_weight=class_weight)}
