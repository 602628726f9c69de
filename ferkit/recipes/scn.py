"""SCN: a weight for each image, a margin between the weights, and labels that are changed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ferkit import functional
from ferkit.blocks.branched_backbone import BranchedOutput
from ferkit.checks import check_choice, check_labels, check_number, check_tensor
from ferkit.functional.rank import check_rank
from ferkit.recipes.backbone import BackboneRecipe
from ferkit.recipes.base import Batch

__all__ = ["SCN"]

AMONG = ("rest", "all", "none")


class SCN(BackboneRecipe):
    r"""Self-Cure Network (Wang et al., CVPR 2020): weighted cross-entropy, rank regularisation and relabelling.

    A confidence alpha in (0, 1) is read from each image's features and scales its logits. In each batch the images are
    ranked by it, and the mean of the upper part is to lie above that of the rest by a margin. From ``relabel_from`` on,
    an image of the rest whose likeliest class is more probable than its label by more than ``relabel_margin`` has that
    class for its label. ``labels.csv`` of a run names what was changed.

    Args:
        num_classes: C.
        share: of a batch that is its upper part.
        margin: wanted between the parts' mean confidences.
        rank_weight: of the rank regularisation beside the cross-entropy; 1 is the released code's, and as large a share
            as in the paper's even mix of the two.
        relabel: whose labels may change: those of the ``"rest"``, the lower part (the paper), of ``"all"`` images (the
            released code), or ``"none"``.
        relabel_from: share of the run's epochs after which labels may change; published: 10 of 70, for a network that
            was trained on faces before. One from scratch must know something first (docs/baselines.md).
        relabel_margin: of the probabilities.
        **options: of :class:`ferkit.recipes.BackboneRecipe`.

    Call ``attach(labels)`` with the training set's labels before training, unless nothing is relabelled. Relabelling is
    part of ``batch_loss``: a recipe made of this one and another that has its own, such as ``NeighborGuidance``, has
    none; and of several processes each keeps labels of its own.
    """

    cured: Tensor | None
    given: Tensor | None

    def __init__(
        self,
        num_classes: int,
        share: float = 0.7,
        margin: float = 0.15,
        rank_weight: float = 1.0,
        relabel: str = "rest",
        relabel_from: float = 0.8,
        relabel_margin: float = 0.2,
        **options: Any,
    ) -> None:
        check_rank(share, margin)
        check_number(rank_weight, "rank_weight", 0)
        check_choice(relabel, "relabel", AMONG)
        check_number(relabel_from, "relabel_from", 0, 1)
        check_number(relabel_margin, "relabel_margin", 0, 1)
        super().__init__(num_classes, mining="none", **options)
        self.save_hyperparameters()
        self.share, self.margin, self.rank_weight = share, margin, rank_weight
        self.relabel, self.relabel_from, self.relabel_margin = relabel, relabel_from, relabel_margin
        self.attention = nn.Linear(self.model.target_classifier.in_features, 1)
        self.register_buffer("cured", None)
        self.register_buffer("given", None)

    def attach(self, labels: Tensor) -> None:
        """Take the training set's labels (N,), -1 unlabelled, by their index; those changed so far are forgotten."""
        check_labels(labels, len(check_tensor(labels, "labels").reshape(-1)), self.num_classes)
        self.given, self.cured = labels.clone().to(self.device), labels.clone().to(self.device)

    def confidence(self, features: Tensor) -> Tensor:
        """alpha (N,) of features (N, D)."""
        return self.attention(features).squeeze(1).sigmoid()

    def batch_loss(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        labels = self.labels_of(batch)
        output = self.model(images)
        losses = self.classification_loss(output, labels)
        if self.relabels:
            self.cure(output, labels, batch["index"])
        return losses

    def classification_loss(
        self,
        output: BranchedOutput,
        labels: Tensor,
        target: Tensor | None = None,
        class_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        if target is not None:
            raise TypeError("target: expected None, since SCN learns from labels, got distributions")
        alpha = self.confidence(output.features)
        wce = functional.weighted_logit_cross_entropy(output.logits, alpha, labels, class_weight=class_weight)
        rank = functional.rank_regularization(alpha, self.share, self.margin, (labels >= 0).to(alpha.dtype))
        return {"loss": wce + self.rank_weight * rank, "wce": wce, "rank": rank, "confidence": alpha.mean()}

    def labels_of(self, batch: Batch) -> Tensor:
        """The batch's labels as they are now."""
        if self.relabel == "none":
            return batch["label"]
        if self.cured is None:
            raise RuntimeError("SCN: call attach(labels) before training")
        return self.cured[batch["index"]]

    @property
    def relabels(self) -> bool:
        return self.relabel != "none" and self.current_epoch >= math.ceil(self.share_of_run(self.relabel_from) - 1e-9)

    @torch.no_grad()
    def cure(self, output: BranchedOutput, labels: Tensor, index: Tensor) -> None:
        """Change the labels (N,), those of the images ``index``, that the network thinks wrong by the margin."""
        assert self.cured is not None
        alpha = self.confidence(output.features)
        probabilities = (alpha.unsqueeze(1) * output.logits).float().softmax(1)
        best, likeliest = probabilities.max(1)
        own = probabilities.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1)
        wrong = (labels >= 0) & (best - own > self.relabel_margin)
        if self.relabel == "rest":
            wrong = wrong & ~functional.small_loss_selection(-alpha, 1 - self.share, labels >= 0)
        # an image that comes twice in a batch, shifted in two ways, has the larger of two new labels: any order will do
        changed = torch.where(wrong, likeliest, -1)
        latest = torch.full_like(self.cured, -1).scatter_reduce(0, index, changed, "amax")
        self.cured.copy_(torch.where(latest >= 0, latest, self.cured))

    def forward(self, images: Tensor) -> Tensor:
        """alpha times the logits, (N, C), of uint8 images (N, 3, H, W)."""
        output = self.model(self.prepared(images))
        return self.confidence(output.features).unsqueeze(1) * output.logits

    def confidence_of(self, images: Tensor) -> Tensor:
        """alpha (N,) of uint8 images (N, 3, H, W)."""
        return self.confidence(self.model(self.prepared(images)).features)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        """As usual; a recipe made without its training set takes its labels from the state."""
        for name in ("given", "cured"):
            saved = state_dict.get(f"{prefix}{name}")
            if saved is not None and getattr(self, name) is None:
                setattr(self, name, torch.empty_like(saved, device=self.attention.weight.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
