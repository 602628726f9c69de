"""Co-teaching: two networks that choose each other's training images."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from ferkit import functional
from ferkit.blocks.branched_backbone import BranchedBackbone
from ferkit.blocks.pretrained import load_pretrained
from ferkit.checks import check_choice, check_number
from ferkit.functional.co_teaching import CO_TEACHING_DIVISORS
from ferkit.recipes.backbone import BackboneRecipe
from ferkit.recipes.base import Batch, Recipe

__all__ = ["CoTeaching"]

NETWORKS = ("first", "both")


class CoTeaching(BackboneRecipe):
    """Co-teaching (Han et al., NeurIPS 2018): each network learns from the images that the other finds easy.

    Both see the same batches; they differ in their initial weights, with ``pretrained`` in those of their classifiers.
    Training costs twice as much as a single network's.

    Args:
        num_classes: C.
        forget_rate: share of each batch that is left out in the end: the share of wrong labels, where it is known (the
            paper takes the true one).
        forget_over: share of the run's epochs over which that rate is reached; the paper's 10 of 200 are 0.05.
        divisor: ``"kept"`` or ``"released"``, see :func:`ferkit.functional.co_teaching_loss`.
        networks: which predict: the ``"first"`` (the paper scores each by itself), or ``"both"``: the average of their
            distributions.
        **options: of :class:`ferkit.recipes.BackboneRecipe`, without its ``schedule="released"``.
    """

    schedules = Recipe.schedules

    def __init__(
        self,
        num_classes: int,
        forget_rate: float = 0.2,
        forget_over: float = 0.25,
        divisor: str = "kept",
        networks: str = "first",
        **options: Any,
    ) -> None:
        check_number(forget_rate, "forget_rate", 0, 1, open_high=True)
        check_number(forget_over, "forget_over", 0, 1)
        check_choice(divisor, "divisor", CO_TEACHING_DIVISORS)
        check_choice(networks, "networks", NETWORKS)
        super().__init__(num_classes, mining="none", **options)
        self.save_hyperparameters()
        self.forget_rate, self.forget_over, self.divisor, self.networks = forget_rate, forget_over, divisor, networks
        self.peer = BranchedBackbone(copy.deepcopy(self.backbone), num_classes, "none")
        self.peer.to(memory_format=torch.channels_last)
        if self.pretrained is not None:
            load_pretrained(self.peer, self.pretrained)
            self.peer.target_classifier.reset_parameters()  # two equal networks would stay so

    def batch_loss(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        rate = functional.forget_rate(self.current_epoch, self.forget_rate, self.share_of_run(self.forget_over))
        pair = self.model(images).logits, self.peer(images).logits
        loss = functional.co_teaching_loss(*pair, batch["label"], rate, self.divisor)
        return {"loss": loss, "forget_rate": loss.new_full((), rate)}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of uint8 images (N, 3, H, W); the logarithms of a distribution where both networks predict."""
        if self.networks == "first":
            return super().forward(images)
        seen = self.prepared(images)
        both = torch.stack([network(seen).logits.log_softmax(1) for network in (self.model, self.peer)])
        return both.logsumexp(0) - math.log(2)
