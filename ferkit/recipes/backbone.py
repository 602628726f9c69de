"""What the recipes over a branched backbone share: the network, and the loss of its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ferkit import functional
from ferkit.blocks.branched_backbone import BranchedBackbone, BranchedOutput
from ferkit.blocks.pretrained import load_pretrained
from ferkit.blocks.routed_backbone import RoutedBackbone
from ferkit.checks import check_choice, renamed
from ferkit.data.augment import gaussian_noise, random_erasing
from ferkit.recipes._released_schedule import released_adam
from ferkit.recipes.base import Batch, Recipe

__all__ = ["BackboneRecipe", "distribution_cross_entropy"]

EXTRA = 2  # the stream of draws of the released augmentation, beside the crops' and dropout's


class BackboneRecipe(Recipe):
    """A backbone with a classifier, and the branches that a loss asks for.

    Subclasses give ``classification_loss(output, labels, target) -> dict`` whose entry ``"loss"`` is minimised and
    whose other entries are logged; what else a loss reads of the batch, it gets by ``batch_loss``.

    Args:
        num_classes: C.
        mining: how :class:`~ferkit.blocks.BranchedBackbone` branches; ``"none"`` for a plain classifier, ``"by-label"``
            for :class:`~ferkit.blocks.RoutedBackbone`.
        backbone: a name in ``ferkit.blocks.BACKBONES``, ``"timm:NAME:STAGE"`` or ``"torchvision:NAME:STAGE"``.
        pretrained: a checkpoint of the backbone that :func:`~ferkit.blocks.load_pretrained` reads (ImageNet-style, a
            face-recognition trainer's, released DMUE, ferkit's own), or None to start from scratch.
        augmentation: ``"crop-flip"``, or ``"released"`` (DMUE's code): Gaussian noise of variance 30 on a quarter of
            the images before that, and with probability 0.5 a rectangle of 2 to 25 % erased after it.
        **options: of :class:`ferkit.recipes.Recipe`. ``schedule="released"`` is DMUE's code: Adam with rates by epoch,
            one for the backbone (1e-4 and less) and one for what stands on it (1e-3 and less), made for 36 epochs;
            ``learning_rate`` is not read.
    """

    schedules = (*Recipe.schedules, "released")
    may_route = True  # whether batches are of the kind that branches can share out by label
    target_eps = 0.0  # of ``distribution_cross_entropy``

    def __init__(
        self,
        num_classes: int,
        mining: str,
        backbone: str = "small",
        pretrained: str | None = None,
        augmentation: str = "crop-flip",
        **options: Any,
    ) -> None:
        check_choice(augmentation, "augmentation", ("crop-flip", "released"))
        if mining == "by-label" and not self.may_route:
            raise ValueError(
                f"mining: expected 'leave-one-out' or 'all-class' in {type(self).__name__}, whose batches "
                "(images and their neighbours) need not hold every class, got 'by-label'"
            )
        super().__init__(num_classes, **options)
        self.augmentation, self.backbone, self.pretrained = augmentation, backbone, pretrained
        self.model: BranchedBackbone
        if mining == "by-label":
            self.model, self.min_per_class = RoutedBackbone(backbone, num_classes), 2
        else:
            self.model = BranchedBackbone(backbone, num_classes, mining)
        # Convolutions on the CPU and on tensor cores are faster with channels last; the results are the same sums.
        self.model.to(memory_format=torch.channels_last)
        if pretrained is not None:
            with renamed(checkpoint="pretrained"):
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

    def augmented(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.augmentation == "crop-flip":
            return super().augmented(batch, batch_idx)
        draws = self._generator(batch_idx, EXTRA)
        images = super().augmented({**batch, "image": gaussian_noise(batch["image"], draws)}, batch_idx)
        return random_erasing(images, draws).contiguous(memory_format=torch.channels_last)

    def scheduled_adam(self, parameters: list[nn.Parameter]) -> dict[str, Any]:
        if self.schedule != "released":
            return super().scheduled_adam(parameters)
        stages = (self.model.trunk, self.model.target, self.model.branches)
        backbone = {parameter for stage in stages for parameter in stage.parameters()}
        return released_adam(
            [parameter for parameter in parameters if parameter in backbone],
            [parameter for parameter in parameters if parameter not in backbone],
            self.weight_decay,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of uint8 images (N, 3, H, W)."""
        logits: Tensor = self.model(self.prepared(images)).logits
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
