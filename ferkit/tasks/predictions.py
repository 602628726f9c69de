"""What a trained recipe says of every image of a set, and the table that it is kept in."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ferkit.data.manifest import canonical_split
from ferkit.recipes import LabelSetRecipe, Recipe
from ferkit.reports import can_be_made, write_text

__all__ = ["Predictions", "annotate", "check_replaceable", "check_table_path", "predict", "save_predictions"]


class Predictions(NamedTuple):
    """What a recipe says of N images, in the dataset's order."""

    probabilities: Tensor | None  # (N, C); None of a recipe that learned values alone
    values: Tensor  # (N, V), V = 0 without any
    value_names: tuple[str, ...]

    @property
    def uncertainty(self) -> Tensor | None:
        """(N,): the distribution's entropy as a share of the largest, ln C: 0 is sure, 1 knows nothing."""
        if self.probabilities is None:
            return None
        entropy: Tensor = torch.special.entr(self.probabilities.double()).sum(1)
        return (entropy / math.log(self.probabilities.shape[1])).clamp(0, 1)


def predict(recipe: Recipe, dataset: Any, batch_size: int = 256) -> Tensor:
    """Class probabilities (N, C) of every image, without augmentation, in the dataset's order."""
    probabilities = annotate(recipe, dataset, batch_size).probabilities
    if probabilities is None:
        raise ValueError("recipe: expected one that predicts classes, got one of values alone: use annotate")
    return probabilities


@torch.no_grad()
def annotate(recipe: Recipe, dataset: Any, batch_size: int = 256) -> Predictions:
    """Probabilities and, where the recipe predicts any, values of every image, in one pass without augmentation."""
    names = recipe.value_names if isinstance(recipe, LabelSetRecipe) else ()
    classless = isinstance(recipe, LabelSetRecipe) and not recipe.source_names
    shares, values = [torch.zeros(0, recipe.num_classes)], [torch.zeros(0, len(names))]
    training = recipe.training
    recipe.eval()
    try:
        # a generator of its own: a loader takes its seed from the global one otherwise
        for batch in DataLoader(dataset, batch_size, generator=torch.Generator()):
            images = batch["image"].to(recipe.device)
            if isinstance(recipe, LabelSetRecipe):
                found = recipe.annotate(images)
                each = found.probabilities
                shares.append((each[:, 0] if recipe.head == "first" else each.mean(1)).cpu())
                values.append(found.values.float().cpu())
            else:
                shares.append(recipe(images).softmax(1).cpu())
    finally:
        recipe.train(training)
    return Predictions(None if classless else torch.cat(shares), torch.cat(values), names)


def check_table_path(path: str | os.PathLike[str]) -> Path:
    """``path`` of a table that can be written; ValueError for a folder or another kind of file, before any work."""
    target = Path(path)
    if target.suffix.lower() != ".csv" or target.is_dir() or not can_be_made(target):
        raise ValueError(f"save_predictions: expected a .csv file in a folder that can be written, got {str(path)!r}")
    return target


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a file that does not begin as these tables do: no manifest is lost."""
    if not Path(path).exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        names = file.readline().strip().split(",")
    if names != [""] and not (names[0] == "index" and "split" in names and "label" not in names):
        raise ValueError(f"save_predictions: expected a new file, or predictions to replace, got {str(path)!r}")


def save_predictions(
    path: str | os.PathLike[str], found: Predictions, dataset: Any, split: str, classes: Sequence[str]
) -> None:
    """Write predictions as a CSV file, whole or not at all, one row an image (its first) in the dataset's order.

    Columns: ``index`` (of the image in the set), ``image`` (the manifest's path, where there is a manifest), ``split``
    (as a manifest names it), ``predicted`` (the likeliest class) and ``p_<class>`` where the recipe predicts classes,
    and a column a value (``valence``, ``arousal``) where it predicts some.
    """
    check_table_path(path)
    manifest = getattr(dataset, "manifest", None)
    columns: dict[str, Sequence[Any]] = {"index": range(len(dataset))}
    if manifest is not None:
        columns["image"] = [str(image) for image in manifest.image]
    columns["split"] = [canonical_split(split)] * len(dataset)
    if found.probabilities is not None:
        columns["predicted"] = [classes[best] for best in found.probabilities.argmax(1).tolist()]
        for name, shares in zip(classes, found.probabilities.unbind(1)):
            columns[f"p_{name}"] = [f"{share:.6f}" for share in shares.tolist()]
    for name, values in zip(found.value_names, found.values.unbind(1)):
        columns[name] = [f"{value:.6f}" for value in values.tolist()]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    written: set[Any] = set()
    for image, *cells in zip(columns.get("image", columns["index"]), *columns.values()):
        if image not in written:  # an image of several rows is one picture
            table.writerow(cells)
        written.add(image)
    write_text(path, text.getvalue())
