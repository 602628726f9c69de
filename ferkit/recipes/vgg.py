"""The baseline of noisyFER: its encoder with plain losses."""

from __future__ import annotations

from typing import Any

from ferkit.recipes.label_sets import LabelSetRecipe

__all__ = ["VGG"]


class VGG(LabelSetRecipe):
    """noisyFER's encoder trained by the supervised loss alone, on one label set or several.

    The published baseline is ``width=1, hidden=4096`` on one set of labels, such as the majority vote.

    Args:
        num_classes: C.
        **options: of :class:`ferkit.recipes.LabelSetRecipe`.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, latent=0, **options)
        self.save_hyperparameters()
