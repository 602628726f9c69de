"""The paper's figures from the finished runs of a study: mined distributions, their course, confidence, loss curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ferkit.metrics import other_classes
from ferkit.recipes import DMUE
from ferkit.reports import plot_anchors, plot_compared_curves, plot_distributions, plot_mined_course, write_text
from ferkit.tasks._anchors import chosen_anchors, follow_anchors
from ferkit.tasks._label_figures import read_labels
from ferkit.tasks._mined_course import chosen_faces
from ferkit.tasks.run import Run, load_recipe

__all__ = ["COURSE", "draw_anchors", "draw_course", "draw_losses", "draw_mined"]

COURSE = "course.csv"  # in the folder of a run
LOSSES = {
    "train_wce": "cross-entropy of the target",
    "train_aux": "cross-entropy of the branches",
    "train_soft": "soft loss",
    "val_loss": "validation: cross-entropy",
}


def draw_mined(runs: Mapping[str, Path], dataset: Any, path: Path) -> bool:
    """Mined distributions of chosen faces against the votes, the given class left out and the rest renormalised.

    A face all of whose votes are for the given class has nothing to compare and is passed over. Returns whether there
    was anything to draw.

    Args:
        runs: folders by name of the way to mine, trained on the same labels.
        dataset: their training images.
        path: picture to write.
    """
    if dataset.distributions is None:
        return False
    faces = torch.tensor(chosen_faces(dataset, 12), dtype=torch.int64)
    votes = other_classes(dataset.distributions[faces], dataset.labels[faces])
    faces, votes = faces[votes.sum(1) > 0], votes[votes.sum(1) > 0]
    if not len(faces):
        return False
    given = dataset.labels[faces]
    mined = {}
    for name, folder in runs.items():
        found = read_labels(Run(folder).labels, dataset)
        rows = torch.searchsorted(found["index"], faces)
        mined[name] = other_classes(found["mined"][rows], given)
    plot_distributions(
        mined,
        votes,
        dataset.classes,
        path,
        images=_images(dataset, faces),
        titles=[_title(dataset, int(face)) for face in faces],
        reference="votes without the given class",
    )
    return True


def draw_course(folder: Path, dataset: Any, path: Path) -> None:
    """How the distributions of chosen faces were mined over the epochs of a run."""
    with open(folder / COURSE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = sorted({int(row["epoch"]) for row in rows})
    positions = list(dict.fromkeys(int(row["index"]) for row in rows))
    shares = torch.zeros(len(epochs), len(positions), len(dataset.classes))
    for row in rows:
        place = epochs.index(int(row["epoch"])), positions.index(int(row["index"]))
        shares[place] = torch.tensor([float(row[f"mined_{name}"]) for name in dataset.classes])
    faces = torch.tensor(positions, dtype=torch.int64)
    given, votes = dataset.labels[faces], dataset.distributions
    plot_mined_course(
        shares,
        torch.tensor(epochs),
        _images(dataset, faces),
        given,
        dataset.classes,
        path,
        true_labels=None if dataset.true_labels is None else dataset.true_labels[faces],
        votes=None if votes is None else other_classes(votes[faces], given),
    )


def draw_anchors(folder: Path, dataset: Any, path: Path, table: Path) -> None:
    """Confidence and rank of two faces in many batches that hold every class; every batch in ``table``."""
    run = Run(folder)
    recipe, config = load_recipe(run), run.read_config()
    if not isinstance(recipe, DMUE) or recipe.uncertainty is None:
        return
    found = read_labels(run.labels, dataset)
    confidence = torch.full((len(dataset),), torch.nan)
    confidence[found["index"]] = found["confidence"]
    anchors = chosen_anchors(dataset, confidence)
    faces = torch.tensor(list(anchors.values()))
    followed = follow_anchors(recipe, dataset, faces.tolist(), config["batch_size"], config["min_per_class"])
    titles = [f"{name}: {_title(dataset, face)}" for name, face in anchors.items()]
    plot_anchors(_images(dataset, faces), titles, followed.confidence, followed.rank, config["batch_size"], path)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["anchor", "index", "batch", "confidence", "rank"])
    for row, (name, face) in enumerate(anchors.items()):
        for batch, (sure, rank) in enumerate(zip(followed.confidence[row].tolist(), followed.rank[row].tolist())):
            lines.writerow([name, face, batch, f"{sure:.4f}", rank])
    write_text(table, text.getvalue())


def draw_losses(runs: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Loss curves of variants, a thin line a seed."""
    files = {name: [Run(folder).metrics_csv for folder in folders] for name, folders in runs.items()}
    plot_compared_curves(files, LOSSES, path)


def _images(dataset: Any, positions: Tensor) -> Tensor:
    return torch.stack([dataset[int(position)]["image"] for position in positions])


def _title(dataset: Any, position: int) -> str:
    given = dataset.classes[dataset.labels[position]]
    true = -1 if dataset.true_labels is None else int(dataset.true_labels[position])
    return f"given {given}" + (
        f" (true: {dataset.classes[true]})" if true not in (-1, dataset.labels[position]) else ""
    )
