"""figures/decoder.png, drawn as training goes: the same noise each time, so that a row can be followed."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from ferkit.recipes import NoisyFER, Recipe
from ferkit.reports import decoder_sheet

__all__ = ["DecoderSheet", "has_decoder"]

ROWS, SHEETS, SEED = 6, 20, 0  # noise vectors; sheets in a run


class DecoderSheet(Callback):
    """Draws what the recipe's decoder makes of every class, about twenty times in a run and at its end.

    Nothing of the run is changed by it: the noise is drawn from a generator of its own.
    """

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self.path, self.classes = path, classes

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, NoisyFER)
        done, last = trainer.current_epoch + 1, trainer.max_epochs or 1
        if bool(pl_module.game.broken):  # the run is about to be stopped, and the sheet of a good epoch stays
            return
        if done == last or done % max(last // SHEETS, 1) == 0:
            images = pl_module.decode(ROWS, torch.Generator().manual_seed(SEED)).cpu()
            decoder_sheet(images.transpose(0, 1).flatten(0, 1), self.classes, self.path, f"epoch {done}")


def has_decoder(recipe: Recipe) -> bool:
    """Whether there is a decoder, and a class to ask it for."""
    return isinstance(recipe, NoisyFER) and recipe.decoder is not None and bool(recipe.source_names)
