"""DMUE's similarity preserving loss over class branches."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ferkit.checks import check_choice, check_number
from ferkit.functional.preserving import FORMS, NORMALIZE, check_detach, msp_loss
from ferkit.losses._base import Loss, check_branches

__all__ = ["MSPLoss"]


class MSPLoss(Loss):
    """Multi-branch similarity preserving loss (DMUE, equations 13-17); see `ferkit.functional.msp_loss`.

    Args:
        num_classes: C, the number of auxiliary branches.
        normalize: ``"batch"`` (the paper's equations 14-17) or ``"subset"`` (the released code).
        form: ``"auto"``, ``"gram"`` or ``"factored"``: two exact ways to the same value.
        reduction: ``"mean"`` over the branches, ``"sum"``, or ``"none"`` for one value per branch (C,).
        detach: the side that gets no gradient, ``"target"`` or ``"auxiliary"``; published: neither.
        process_group: None (this process), ``"global"`` or a ProcessGroup: the exact value over all its ranks' batches.

    Call with target (N, Dt), auxiliary (C, N, Da), int64 labels (N,) and optionally sample_weight (N,).

    >>> import torch
    >>> loss = MSPLoss(num_classes=2)
    >>> target = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> loss(target, torch.stack([target, -target]), torch.tensor([0, 1, 0]))
    tensor(0.)
    """

    settings = ("num_classes", "normalize", "form", "reduction", "detach", "process_group")

    def __init__(
        self,
        num_classes: int,
        normalize: str = "batch",
        form: str = "auto",
        reduction: str = "mean",
        detach: str | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(reduction)
        check_number(num_classes, "num_classes", 1, integer=True)
        check_detach(detach)
        self.num_classes = num_classes
        self.normalize = check_choice(normalize, "normalize", NORMALIZE)
        self.form = check_choice(form, "form", FORMS)
        self.detach = detach
        self.process_group = process_group

    def forward(self, target: Tensor, auxiliary: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        check_branches(auxiliary, "auxiliary", self.num_classes)
        return msp_loss(
            target,
            auxiliary,
            labels,
            self.normalize,
            self.form,
            sample_weight,
            self.reduction,
            self.detach,
            self.process_group,
        )
