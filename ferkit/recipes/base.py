"""What every recipe shares: augmentation, optimiser, validation and prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from ferkit.checks import check_choice, check_number
from ferkit.data.augment import normalize_images, random_crop_flip

__all__ = ["Recipe"]

Batch = dict[str, Tensor]


class Recipe(lightning.LightningModule):
    """A network trained on batches ``{"image": uint8 (N,3,H,W), "label": (N,), "index": (N,)}``.

    Subclasses give ``forward(images) -> logits (N, C)`` and ``batch_loss(images, batch) -> dict``, whose entry
    ``"loss"`` is minimised and whose other entries are logged. Augmentation is a function of (seed, epoch, batch), so
    that a resumed run sees the same images.

    Args:
        num_classes: C.
        learning_rate: of Adam.
        weight_decay: of Adam (L2, as in the paper).
        schedule: ``"one-cycle"`` (up to ``learning_rate`` and down again, step by step), ``"step"``, ``"constant"``, or
            ``"linear"`` (constant for half of the run, then in a line down to 0, as image GANs are trained).
        milestones: for ``"step"``, the shares of the run after which the learning rate is multiplied by ``decay``;
            the paper's epochs 10 and 20 of 40 are 0.25 and 0.5.
        decay: the factor at a milestone.
        padding: largest shift of the random crop, in pixels; 3 of 48 is the paper's crop of 224 from 256.
        flip: probability of a mirror image.
        seed: of the augmentation.
    """

    schedules: tuple[str, ...] = ("one-cycle", "step", "constant", "linear")
    preferred_sampler = "coverage"  # what a command draws batches by where none is asked for
    min_per_class = 0  # images of every class that each batch must hold

    def __init__(
        self,
        num_classes: int,
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
        check_choice(schedule, "schedule", self.schedules)
        check_number(learning_rate, "learning_rate", 0, open_low=True)
        check_number(weight_decay, "weight_decay", 0)
        check_number(decay, "decay", 0, 1)
        check_number(padding, "padding", 0, integer=True)
        check_number(flip, "flip", 0, 1)
        check_number(seed, "seed", 0, integer=True)
        for share in milestones:
            check_number(share, "milestones", 0, 1)
        self.num_classes = num_classes
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.schedule, self.milestones, self.decay = schedule, tuple(milestones), decay
        self.padding, self.flip, self.seed = padding, flip, seed
        self.load_report: object = None  # what was loaded of a checkpoint, where a recipe starts from one; printed
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro", ignore_index=-1)

    def batch_loss(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss of a whole batch, whose images come augmented and normalised."""
        raise TypeError(f"{type(self).__name__} must define batch_loss")

    def augmented(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's images (N, 3, H, W), shifted, mirrored and normalised."""
        return self.prepared(random_crop_flip(batch["image"], self._generator(batch_idx), self.padding, self.flip))

    def prepared(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) as the network takes them: normalised, channels last."""
        return normalize_images(images).contiguous(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        losses = self.batch_loss(self.augmented(batch, batch_idx), batch)
        self.log_dict(
            {f"train_{name}": value.detach() for name, value in losses.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(batch["image"]),
        )
        self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False)
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        labelled = int((batch["label"] >= 0).sum())
        if not labelled:  # the loss would be NaN, the accuracy 0
            return
        logits = self(batch["image"])
        loss = F.cross_entropy(logits, batch["label"], ignore_index=-1)
        self.val_accuracy(logits, batch["label"])
        self.log_dict({"val_loss": loss, "val_accuracy": self.val_accuracy}, prog_bar=True, batch_size=labelled)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities (N, C)."""
        return self(batch["image"]).softmax(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of uint8 images (N, 3, H, W)."""
        raise TypeError(f"{type(self).__name__} must define forward")

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves: all parameters, unless a recipe moves some of them itself."""
        return list(self.parameters())

    def configure_optimizers(self) -> Any:
        return self.scheduled_adam(self.trained_parameters())

    def scheduled_adam(
        self, parameters: list[nn.Parameter] | list[dict[str, Any]], beta1: float = 0.9
    ) -> dict[str, Any]:
        """Adam over these parameters, or groups with an ``lr`` of their own, with the schedule, as Lightning has it."""
        betas = (beta1, 0.999)
        optimizer = torch.optim.Adam(parameters, self.learning_rate, betas, weight_decay=self.weight_decay, fused=True)
        if self.schedule == "constant":
            return {"optimizer": optimizer}
        if self.schedule == "linear":
            steps = self.trainer.estimated_stepping_batches
            if math.isinf(steps):
                raise ValueError("max_epochs: expected a number of epochs or of steps (for a schedule), got neither")
            line = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, 2 * max(1 - done / steps, 0)))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": line, "interval": "step"}}
        if self.schedule == "one-cycle":
            steps = max(int(self.trainer.estimated_stepping_batches), 6)  # fewer leave a phase without a step
            cycle = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, [group["lr"] for group in optimizer.param_groups], steps, pct_start=0.2, cycle_momentum=False
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
        turns = sorted(max(round(share * self.total_epochs), 1) for share in self.milestones)  # one may come twice
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, turns, self.decay),
        }

    @property
    def total_epochs(self) -> int:
        """Epochs of the run; of a trainer with ``max_steps`` alone, those that the steps take."""
        if (self.trainer.max_epochs or 0) > 0:
            return int(self.trainer.max_epochs or 1)
        if self.trainer.max_steps <= 0:
            raise ValueError("max_epochs: expected a number of epochs or of steps (for a schedule), got neither")
        self.trainer.fit_loop.setup_data()
        batches = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        return max(math.ceil(batches / self.trainer.num_training_batches), 1)

    def share_of_run(self, share: float) -> float:
        """That share of the run's epochs; 0 of a run without an end, too."""
        return share * self.total_epochs if share else 0.0

    def on_train_epoch_start(self) -> None:
        sampler = getattr(self.trainer.train_dataloader, "batch_sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.current_epoch)

    def _generator(self, batch_idx: int, *stream: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Another for each (seed, epoch, batch), and each ``stream`` of draws within it."""
        entropy = np.random.SeedSequence([self.seed, self.current_epoch, batch_idx, self.global_rank, *stream])
        return torch.Generator(device).manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
