"""course.csv: what DMUE mines of a few chosen training faces as training goes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from ferkit.metrics import other_classes
from ferkit.recipes import DMUE
from ferkit.reports import write_text

__all__ = ["MinedCourse", "chosen_faces"]

FACES, POINTS, SEED = 8, 20, 0  # faces; times at most that they are looked at in a run; of the choice
SPREAD = 0.2  # share of the votes outside the given class that makes a face worth showing


def chosen_faces(dataset: Any, count: int = FACES) -> list[int]:
    """Positions of faces to follow: half with a wrong label where such are known, the rest with spread votes if any."""
    rng = np.random.default_rng(SEED)
    labelled = dataset.labels >= 0
    wrong = torch.zeros_like(labelled)
    if dataset.true_labels is not None:
        wrong = labelled & (dataset.true_labels >= 0) & (dataset.true_labels != dataset.labels)
    spread = labelled & ~wrong
    if dataset.distributions is not None:
        outside = other_classes(dataset.distributions, dataset.labels).sum(1) > 0
        own = dataset.distributions.double().gather(1, dataset.labels.clamp_min(0)[:, None])[:, 0]
        own = own / dataset.distributions.double().sum(1)
        some = spread & outside & (own <= 1 - SPREAD)
        spread = some if bool(some.any()) else spread
    groups = [mask.nonzero()[:, 0].numpy() for mask in (wrong, spread)]
    taken = [rng.permutation(groups[0])[: count // 2]]
    taken.append(rng.permutation(groups[1])[: count - len(taken[0])])
    return [int(position) for part in taken for position in part]


class MinedCourse(Callback):
    """Mines the chosen faces before training, about twenty times in it and at its end; the run is as it would be.

    The rows travel in the checkpoint, so that a resumed run continues its table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[list[float]] = []  # epochs done, position, given label, a share a class

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self.rows:
            self._look(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        done, last = trainer.current_epoch + 1, trainer.max_epochs or 1
        if done * POINTS // last > (done - 1) * POINTS // last:  # each of at most POINTS equal parts, at its end
            self._look(trainer, pl_module, done)

    def _look(self, trainer: lightning.Trainer, recipe: lightning.LightningModule, done: int) -> None:
        assert isinstance(recipe, DMUE)
        dataset: Any = trainer.train_dataloader.dataset  # type: ignore[union-attr]
        faces = [dataset[position] for position in chosen_faces(dataset)]
        if not faces:
            return
        batch = {
            "image": torch.stack([face["image"] for face in faces]),
            **{name: torch.tensor([int(face[name]) for face in faces]) for name in ("label", "index")},
        }
        training = recipe.training
        recipe.eval()
        try:
            mined = recipe.mine({name: value.to(recipe.device) for name, value in batch.items()})
        finally:
            recipe.train(training)
        shares = mined.distribution.float().cpu().tolist()
        new = [[done, i, y, *row] for i, y, row in zip(batch["index"].tolist(), batch["label"].tolist(), shares)]
        self.rows = [*(row for row in self.rows if row[0] < done), *new]
        self._write(dataset.classes)

    def _write(self, classes: tuple[str, ...]) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["epoch", "index", "label", *(f"mined_{name}" for name in classes)])
        for epoch, index, label, *shares in self.rows:
            table.writerow([int(epoch), int(index), classes[int(label)], *(f"{share:.4f}" for share in shares)])
        write_text(self.path, text.getvalue())

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
