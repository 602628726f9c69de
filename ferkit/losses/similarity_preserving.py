"""Similarity preserving distillation."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_choice
from ferkit.functional.preserving import FORMS, similarity_preserving_loss
from ferkit.losses._base import Loss

__all__ = ["SimilarityPreservingLoss"]


class SimilarityPreservingLoss(Loss):
    """Similarity preserving loss of Tung and Mori (ICCV 2019); see `ferkit.functional.similarity_preserving_loss`.

    Args:
        form: ``"auto"``, ``"gram"`` or ``"factored"``: two exact ways to the same value.
        reduction: ``"mean"`` (the published value, over N²), ``"sum"`` (N times that), or ``"none"`` for each sample's
            share (N,).

    Call with student (N, ...), teacher (N, ...) and optionally sample_weight (N,). Nothing is detached.

    >>> import torch
    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> SimilarityPreservingLoss()(student, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor(0.2929)
    """

    settings = ("form", "reduction")

    def __init__(self, form: str = "auto", reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.form = check_choice(form, "form", FORMS)

    def forward(self, student: Tensor, teacher: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return similarity_preserving_loss(student, teacher, sample_weight, self.form, self.reduction)
