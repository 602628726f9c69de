"""The baseline of noisyFER: its encoder with plain losses."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ferkit.recipes._game import seeded
from ferkit.recipes.base import Batch
from ferkit.recipes.label_sets import LabelSetRecipe

__all__ = ["VGG"]


class VGG(LabelSetRecipe):
    """noisyFER's encoder trained by the supervised loss alone, on one label set or several.

    The published baseline is ``width=1, hidden=4096`` on one set of labels, such as the majority vote.

    Args:
        num_classes: C.
        **options: of :class:`ferkit.recipes.LabelSetRecipe`.

    >>> import torch
    >>> recipe = VGG(7, sources=("annotator1", "annotator2"), values=("valence", "arousal"), width=0.1).eval()
    >>> said = recipe.annotate(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    >>> said.probabilities.shape, said.values.shape
    (torch.Size([4, 2, 7]), torch.Size([4, 2]))
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, latent=0, **options)
        self.save_hyperparameters()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        # Dropout draws by (seed, epoch, batch), as augmentation does, so that a resumed run is the same run.
        with seeded(self._generator(batch_idx, 1, device=self.device)):
            return super().training_step(batch, batch_idx)
