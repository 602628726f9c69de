"""The training labels looked at again: which ones the model doubts, and what DMUE mined of them."""

from __future__ import annotations

import csv
import io
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ferkit.metrics import flip_auc, suspicion
from ferkit.recipes import DMUE, SCN, AffectTargets, Recipe
from ferkit.recipes.dmue import Mined
from ferkit.reports import dmue_sheet, write_text
from ferkit.samplers import ClassCoverageBatchSampler
from ferkit.tasks.predictions import predict
from ferkit.tasks.run import Run

__all__ = ["mine", "review_labels"]


def review_labels(run: Run, recipe: Recipe, dataset: Any) -> dict[str, float]:
    """Write labels.csv, most doubtful label first, with what the method knows of it, and for DMUE the sheet of faces.

    Returns:
        ``flip_auc`` if the true labels are known and some differ: the area under the curve with which suspicion
        (docs/metrics.md) finds them.
    """
    probabilities = predict(recipe, dataset)
    doubt = suspicion(probabilities, dataset.labels)
    mined = mine(recipe, dataset) if isinstance(recipe, DMUE) else None
    write_text(run.labels, _table(dataset, probabilities, doubt, mined, _notes(recipe, dataset)))
    if mined is not None:
        _sheet(run, dataset, doubt, mined)
    known = (dataset.labels >= 0) & (dataset.true_labels >= 0) if dataset.true_labels is not None else None
    if known is None:
        return {}
    flipped = (dataset.labels != dataset.true_labels)[known]
    if not 0 < int(flipped.sum()) < len(flipped):
        return {}
    return {"flip_auc": float(flip_auc(doubt[known], flipped))}


@torch.no_grad()
def mine(recipe: DMUE, dataset: Any, batch_size: int = 144) -> Mined:
    """What DMUE mined of every image, in the dataset's order; each is seen first among all classes (eq. 7)."""
    recipe.eval()
    classes = len(dataset.classes)
    sampler = ClassCoverageBatchSampler(dataset.labels, max(batch_size, 2 * classes), 2, num_classes=classes)
    pieces = [
        recipe.mine({name: value.to(recipe.device) for name, value in batch.items()})
        for batch in DataLoader(dataset, batch_sampler=sampler)
    ]
    joined = Mined(*(torch.cat([getattr(piece, name) for piece in pieces]).cpu() for name in Mined._fields))
    first = torch.full((len(dataset),), -1)
    first[joined.position.flip(0)] = torch.arange(len(joined.position)).flip(0)
    return Mined(*(value[first] for value in joined))


@torch.no_grad()
def _notes(recipe: Recipe, dataset: Any) -> dict[str, list[str]]:
    """Columns that a method has of its own: LDLVA's certainty, SCN's confidence and the label that it gave instead."""
    if isinstance(recipe, AffectTargets):
        certainty = recipe.label_certainty()
        return {} if certainty is None else {"certainty": [f"{value:.4f}" for value in certainty.tolist()]}
    if not isinstance(recipe, SCN):
        return {}
    recipe.eval()
    alpha = [recipe.confidence_of(batch["image"].to(recipe.device)) for batch in DataLoader(dataset, 256)]
    columns = {"confidence": [f"{value:.4f}" for value in torch.cat(alpha).tolist()]}
    if recipe.cured is not None and recipe.given is not None:
        pairs = zip(recipe.given.tolist(), recipe.cured.tolist())
        columns["relabelled"] = ["" if new == old else dataset.classes[new] for old, new in pairs]
    return columns


def _table(dataset: Any, probabilities: Tensor, doubt: Tensor, mined: Mined | None, notes: dict[str, list[str]]) -> str:
    names = list(dataset.classes)
    manifest = getattr(dataset, "manifest", None)
    paths = None if manifest is None else manifest.image
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    header = ["index", *(["image"] if paths is not None else []), "label", "suggested", "suspicion"]
    header += notes
    if mined is not None:
        header += ["confidence", *(f"mined_{name}" for name in names)]
    table.writerow([*header, *(f"p_{name}" for name in names)])
    for i in doubt.argsort(descending=True, stable=True).tolist():
        if dataset.labels[i] < 0:
            continue
        row = [i, *([paths[i]] if paths is not None else [])]
        row += [names[dataset.labels[i]], names[int(probabilities[i].argmax())], f"{doubt[i]:.4f}"]
        row += [column[i] for column in notes.values()]
        if mined is not None:
            row += [f"{mined.confidence[i]:.4f}", *(f"{value:.4f}" for value in mined.distribution[i])]
        table.writerow([*row, *(f"{value:.4f}" for value in probabilities[i])])
    return text.getvalue()


def _sheet(run: Run, dataset: Any, doubt: Tensor, mined: Mined, count: int = 24) -> None:
    """Half the sheet the most doubtful labels, half spread evenly over the rest."""
    order = doubt.argsort(descending=True, stable=True)
    order = order[dataset.labels[order] >= 0]
    head = order[: count // 2]
    rest = order[count // 2 :]
    spread = rest[torch.linspace(0, max(len(rest) - 1, 0), min(count - len(head), len(rest))).long()]
    chosen = torch.cat([head, spread])
    dmue_sheet(
        torch.stack([dataset[int(i)]["image"] for i in chosen]),
        dataset.labels[chosen],
        mined.distribution[chosen],
        mined.confidence[chosen],
        dataset.classes,
        run.figures / "faces.png",
        true_labels=None if dataset.true_labels is None else dataset.true_labels[chosen],
    )
