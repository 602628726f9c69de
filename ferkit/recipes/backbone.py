"""What the recipes over a branched backbone share: the network, and the loss of its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferkit import functional
from ferkit.blocks.branched_backbone import BranchedBackbone, BranchedOutput
from ferkit.blocks.pretrained import load_pretrained
from ferkit.data.augment import normalize_images
from ferkit.recipes.base import Batch, Recipe

__all__ = ["BackboneRecipe", "distribution_cross_entropy"]


class BackboneRecipe(Recipe):
    """A backbone with a classifier, and the branches that a loss asks for.

    Subclasses give ``classification_loss(output, labels, target) -> dict`` whose entry ``"loss"`` is minimised and
    whose other entries are logged; what else a loss reads of the batch, it gets by ``batch_loss``.

    Args:
        num_classes: C.
        mining: how :class:`~ferkit.blocks.BranchedBackbone` branches; ``"none"`` for a plain classifier.
        backbone: a name in ``ferkit.blocks.BACKBONES``, ``"timm:NAME:STAGE"`` or ``"torchvision:NAME:STAGE"``.
        pretrained: a checkpoint of the backbone that :func:`~ferkit.blocks.load_pretrained` reads (ImageNet-style, a
            face-recognition trainer's, released DMUE, ferkit's own), or None to start from scratch.
        **options: of :class:`ferkit.recipes.Recipe`.
    """

    target_eps = 0.0  # of ``distribution_cross_entropy``

    def __init__(
        self,
        num_classes: int,
        mining: str,
        backbone: str = "small",
        pretrained: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, **options)
        self.model = BranchedBackbone(backbone, num_classes, mining)
        # Convolutions on the CPU and on tensor cores are faster with channels last; the results are the same sums.
        self.model.to(memory_format=torch.channels_last)
        if pretrained is not None:
            self.load_report = load_pretrained(self.model, pretrained)

    def classification_loss(
        self,
        output: BranchedOutput,
        labels: Tensor,
        target: Tensor | None = None,
        class_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss of labels (N,), -1 unlabelled, under ``"loss"``, and its parts.

        With ``target`` (N, C), the cross-entropy with the given labels becomes that with these distributions, its mean
        weighed by ``class_weight`` (C,) but still over the samples.
        """
        raise TypeError(f"{type(self).__name__} must define classification_loss")

    def training_loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of normalised images (N, 3, H, W) with labels (N,), and its parts."""
        return self.classification_loss(self.model(images), labels)

    def batch_loss(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss of a whole batch, whose images come augmented and normalised."""
        return self.training_loss(images, batch["label"])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of uint8 images (N, 3, H, W)."""
        logits: Tensor = self.model(normalize_images(images).contiguous(memory_format=torch.channels_last)).logits
        return logits


def distribution_cross_entropy(
    logits: Tensor, target: Tensor, labels: Tensor, class_weight: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """Mean over the labelled samples of the cross-entropy with distributions that may get a gradient (LDLVA).

    Class weights do not enter the divisor; ``eps`` is added to the probabilities inside their logarithm.
    """
    return functional.label_distribution_loss(
        logits, target, labels, divergence="cross-entropy", divisor="samples", class_weight=class_weight, eps=eps
    )
