"""LDLVA's discriminative loss: distances from class centres, as far as the labels are certain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferkit.checks import check_choice, check_number
from ferkit.functional.centers import (
    SPREADS,
    check_detach_certainty,
    inter_class_loss,
    inter_class_step,
    intra_class_step,
    uncertainty_center_loss,
)
from ferkit.losses._base import Loss

__all__ = ["UncertaintyCenterLoss"]

TERMS = ("intra", "inter", "both")


class UncertaintyCenterLoss(Loss):
    """Certainty-weighted distance of features from their class's centre, and the centres' two steps (LDLVA).

    The defaults are the released code's, since the paper could not be consulted: the value is the intra-class term
    alone, and `update_centers` pulls the centres towards their features, then apart. The centres are a buffer (C, D)
    that starts at 0 and is saved in the state dict. See `ferkit.functional.uncertainty_center_loss`.

    Args:
        num_classes: C.
        dim: D.
        rate: of the centres' steps, in [0, 1].
        inter_weight: of the inter-class term, in its step (of size rate times inter_weight) and its value.
        spread: the inter-class term's V: ``"dim"`` (D, released) or ``"sqrt-dim"`` (recalled of the paper).
        per_sample: the intra-class step is divided by the number of rows once more (released), or is that of Wen et al.
        terms: what the value holds: ``"intra"`` (released), ``"inter"``, or ``"both"`` (recalled of the paper); the
            inter-class term depends on the centres only, and is added to a mean or a sum.
        updates: the steps that `update_centers` makes: ``"both"`` (released), ``"intra"`` or ``"inter"``.
        detach: ``"certainty"`` (released): no gradient reaches it; ``None``: it does.
        class_weight: (C,) or None, of the intra-class term.
        reduction: ``"mean"`` (over the number of rows, or the sum of their weights), ``"sum"`` or ``"none"``.
        process_group: over whose rows the centres' step sums: ``None``, ``"global"`` or a ProcessGroup.

    Call with features (M, D), int64 labels (M,), certainty (M,) and optionally sample_weight (M,).

    >>> loss = UncertaintyCenterLoss(num_classes=3, dim=2)
    >>> features, labels, certainty = torch.tensor([[1.0, 2.0]]), torch.tensor([1]), torch.tensor([0.5])
    >>> loss(features, labels, certainty)
    tensor(1.2500)
    >>> loss.update_centers(features, labels, certainty)
    >>> loss.centers[1]
    tensor([0.1370, 0.2740])
    """

    settings = (
        *("num_classes", "dim", "rate", "inter_weight", "spread", "per_sample", "terms", "updates", "detach"),
        *("class_weight", "reduction", "process_group"),
    )
    centers: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        rate: float = 0.5,
        inter_weight: float = 0.1,
        spread: str = "dim",
        per_sample: bool = True,
        terms: str = "intra",
        updates: str = "both",
        detach: str | None = "certainty",
        class_weight: Tensor | None = None,
        reduction: str = "mean",
        process_group: Any = None,
    ) -> None:
        super().__init__(reduction)
        check_number(num_classes, "num_classes", 1, integer=True)
        check_number(dim, "dim", 1, integer=True)
        check_number(rate, "rate", 0.0, 1.0)
        check_number(inter_weight, "inter_weight", 0.0)
        check_detach_certainty(detach)
        self.num_classes, self.dim, self.rate, self.inter_weight = num_classes, dim, rate, inter_weight
        self.spread = check_choice(spread, "spread", SPREADS)
        self.per_sample = per_sample
        self.terms = check_choice(terms, "terms", TERMS)
        self.updates = check_choice(updates, "updates", TERMS)
        if terms != "intra" and reduction == "none":
            raise ValueError(f"terms: expected 'intra' with reduction='none', got {terms!r}")
        self.detach = detach
        self.process_group = process_group
        self._keep_class_weight(class_weight, num_classes)
        self.register_buffer("centers", torch.zeros(num_classes, dim))

    def forward(
        self, features: Tensor, labels: Tensor, certainty: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        value = uncertainty_center_loss(
            features, labels, certainty, self.centers, self.detach, sample_weight, self.class_weight, self.reduction
        )
        if self.terms == "intra":
            return value
        apart = self.inter_weight * inter_class_loss(self.centers, self.spread)
        return value + apart if self.terms == "both" else apart + 0 * value

    @torch.no_grad()
    def update_centers(self, features: Tensor, labels: Tensor, certainty: Tensor) -> None:
        """The intra-class step, then the inter-class step; see `ferkit.functional.intra_class_step`."""
        centers = self.centers
        if self.updates != "inter":
            group = self.process_group
            centers = intra_class_step(centers, features, labels, certainty, self.rate, self.per_sample, group)
        if self.updates != "intra":
            centers = inter_class_step(centers, self.rate * self.inter_weight, self.spread)
        self.centers.copy_(centers)
