"""LTNet: one distribution behind several annotators, and what each makes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferkit import functional
from ferkit.blocks.transition_matrix import TransitionMatrix
from ferkit.checks import check_number
from ferkit.recipes.vgg import VGG

__all__ = ["LTNet"]


class LTNet(VGG):
    """LTNet (Zeng et al., ECCV 2018): the network says the true class, a trained matrix what each annotator calls it.

    noisyFER's encoder, as in :class:`ferkit.recipes.VGG`, with one categorical output for all label sets; what it
    predicts is the distribution before the matrices. Continuous labels are learned as there.

    Args:
        num_classes: C.
        diagonal: share of right labels that the annotators are believed to give at first.
        hold: epochs for which that belief is held. A network that knows nothing yet would have the annotators explain
            everything.
        trace: weight of the matrices' mean trace (Tanno et al., CVPR 2019): LTNet has none, 0.
        **options: of :class:`ferkit.recipes.LabelSetRecipe`. ``head`` is without effect.

    >>> recipe = LTNet(7, sources=("annotator1", "annotator2"), width=0.1)
    >>> recipe.annotators().shape
    torch.Size([2, 7, 7])
    """

    def __init__(
        self, num_classes: int, diagonal: float = 0.8, hold: int = 0, trace: float = 0.0, **options: Any
    ) -> None:
        check_number(hold, "hold", 0, integer=True)
        check_number(trace, "trace", 0)
        super().__init__(num_classes, **options)
        if not self.source_names:
            raise ValueError("sources: expected at least one label set, got none")
        self.save_hyperparameters()
        self.hold, self.trace = hold, float(trace)
        self.transition = TransitionMatrix(num_classes, len(self.source_names), diagonal)

    @property
    def heads(self) -> int:
        return 1

    def categorical_loss(self, logits: Tensor, sources: Tensor) -> Tensor:
        transition = self.transition()
        if self.current_epoch < self.hold:
            transition = transition.detach()
        loss = functional.transition_cross_entropy(logits[:, 0], transition, sources)
        if self.trace:
            loss = loss + self.trace * functional.trace_regularization(transition)
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        self.transition.project()  # before any callback sees the weights

    @torch.no_grad()
    def annotators(self) -> Tensor:
        """(S, C, C): how often each label set calls a true class (row) by each name, as far as was learned."""
        return self.transition()
