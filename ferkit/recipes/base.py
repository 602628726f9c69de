"""What every recipe shares: backbone, augmentation, optimiser, validation and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from ferkit import functional
from ferkit.blocks.branched_backbone import BranchedBackbone, BranchedOutput
from ferkit.blocks.pretrained import load_pretrained
from ferkit.checks import check_choice, check_number
from ferkit.data.augment import normalize_images, random_crop_flip

__all__ = ["Recipe", "distribution_cross_entropy"]

Batch = dict[str, Tensor]


class Recipe(lightning.LightningModule):
    """A backbone trained on batches ``{"image": uint8 (N,3,H,W), "label": (N,), "index": (N,)}``.

    Subclasses give ``classification_loss(output, labels, target) -> dict`` whose entry ``"loss"`` is minimised and
    whose other entries are logged; what else a loss reads of the batch, it gets by ``batch_loss``. Augmentation is a
    function of (seed, epoch, batch), so that a resumed run sees the same images.

    Args:
        num_classes: C.
        mining: how :class:`~ferkit.blocks.BranchedBackbone` branches; ``"none"`` for a plain classifier.
        backbone: a name in ``ferkit.blocks.BACKBONES``.
        pretrained: an ImageNet-style checkpoint of the backbone, or None to start from scratch.
        learning_rate: of Adam.
        weight_decay: of Adam (L2, as in the paper).
        schedule: ``"one-cycle"`` (up to ``learning_rate`` and down again, step by step) or ``"step"``.
        milestones: for ``"step"``, the shares of the run after which the learning rate is multiplied by ``decay``;
            the paper's epochs 10 and 20 of 40 are 0.25 and 0.5.
        decay: the factor at a milestone.
        padding: largest shift of the random crop, in pixels; 3 of 48 is the paper's crop of 224 from 256.
        flip: probability of a mirror image.
        seed: of the augmentation.
    """

    target_eps = 0.0  # of ``distribution_cross_entropy``

    def __init__(
        self,
        num_classes: int,
        mining: str,
        backbone: str = "small",
        pretrained: str | None = None,
        learning_rate: float = 5e-3,
        schedule: str = "one-cycle",
        weight_decay: float = 1e-4,
        milestones: Sequence[float] = (0.25, 0.5),
        decay: float = 0.1,
        padding: int = 3,
        flip: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice(schedule, "schedule", ("one-cycle", "step"))
        check_number(learning_rate, "learning_rate", 0, open_low=True)
        check_number(weight_decay, "weight_decay", 0)
        check_number(decay, "decay", 0, 1)
        check_number(padding, "padding", 0, integer=True)
        check_number(flip, "flip", 0, 1)
        for share in milestones:
            check_number(share, "milestones", 0, 1)
        self.num_classes = num_classes
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.schedule, self.milestones, self.decay = schedule, tuple(milestones), decay
        self.padding, self.flip, self.seed = padding, flip, seed
        self.model = BranchedBackbone(backbone, num_classes, mining)
        # Convolutions on the CPU and on tensor cores are faster with channels last; the results are the same sums.
        self.model.to(memory_format=torch.channels_last)
        self.load_report = load_pretrained(self.model, pretrained) if pretrained is not None else None
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro", ignore_index=-1)

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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = normalize_images(random_crop_flip(batch["image"], self._generator(batch_idx), self.padding, self.flip))
        losses = self.batch_loss(images.contiguous(memory_format=torch.channels_last), batch)
        self.log_dict(
            {f"train_{name}": value.detach() for name, value in losses.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(images),
        )
        self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False)
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch["image"])
        loss = F.cross_entropy(logits, batch["label"], ignore_index=-1)
        self.val_accuracy(logits, batch["label"])
        self.log_dict({"val_loss": loss, "val_accuracy": self.val_accuracy}, prog_bar=True, batch_size=len(logits))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities (N, C) of the target branch."""
        return self(batch["image"]).softmax(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of uint8 images (N, 3, H, W)."""
        logits: Tensor = self.model(normalize_images(images).contiguous(memory_format=torch.channels_last)).logits
        return logits

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves: all parameters, unless a recipe moves some of them itself."""
        return list(self.parameters())

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(
            self.trained_parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        if self.schedule == "one-cycle":
            steps = max(int(self.trainer.estimated_stepping_batches), 6)  # fewer leave a phase without a step
            cycle = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.learning_rate, steps, pct_start=0.2, cycle_momentum=False
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
        epochs = max(self.trainer.max_epochs or 1, 1)
        turns = sorted({max(round(share * epochs), 1) for share in self.milestones})
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, turns, self.decay),
        }

    def on_train_epoch_start(self) -> None:
        sampler = getattr(self.trainer.train_dataloader, "batch_sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.current_epoch)

    def _generator(self, batch_idx: int) -> torch.Generator:
        entropy = np.random.SeedSequence([self.seed, self.current_epoch, batch_idx, self.global_rank])
        return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def distribution_cross_entropy(
    logits: Tensor, target: Tensor, labels: Tensor, class_weight: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """Mean over the labelled samples of the cross-entropy with distributions that may get a gradient (LDLVA).

    Class weights do not enter the divisor; ``eps`` is added to the probabilities inside their logarithm.
    """
    return functional.label_distribution_loss(
        logits, target, labels, divergence="cross-entropy", divisor="samples", class_weight=class_weight, eps=eps
    )
