"""A model's predictions as labels: the table that an evaluation writes, joined to a manifest by image name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferkit.data.emotions import class_index
from ferkit.data.manifest import Manifest
from ferkit.data.manifest_table import to_numbers
from ferkit.data.readers.ferplus_votes import read_csv
from ferkit.data.readers.name_lists import ImageNames

__all__ = ["Predictions", "join_predictions", "read_predictions"]

AFFECT = ("valence", "arousal")
RESERVED = ("true", "label", "majority")  # what is scored by, the data's own, and the vote


@dataclass(frozen=True)
class Predictions:
    """One entry an image: its name, the predicted class (-1: none), shares (N, C), and affect where predicted."""

    image: list[str]
    label: NDArray[np.int64]
    rows: list[int]
    source: str
    classes: tuple[str, ...] = ()
    probabilities: NDArray[np.float64] | None = None
    valence: NDArray[np.float64] | None = None
    arousal: NDArray[np.float64] | None = None


def read_predictions(path: str | os.PathLike[str], classes: Sequence[str]) -> Predictions:
    """Read a table of predictions: ``image``, ``predicted`` (a class name), ``p_<class>``, ``valence``, ``arousal``.

    Args:
        path: a CSV file, as ``ferkit evaluate --save-predictions`` writes; ``image`` and one of ``predicted``,
            ``valence``, ``arousal`` must be there. Empty cells: not predicted. Other columns are not read.
        classes: the names that ``predicted`` may have, in index order; emotions in any published spelling.

    Raises:
        ValueError, FileNotFoundError: naming file, row and column; for an image that is there twice, both rows.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "predictions.csv"
        >>> _ = path.write_text("image,predicted,p_neutral,p_happy\\na.png,happy,0.2,0.8\\n")
        >>> predictions = read_predictions(path, ("neutral", "happy"))
        >>> predictions.image, predictions.label, predictions.probabilities
        (['a.png'], array([1]), array([[0.2, 0.8]]))
    """
    source = str(path)
    (_, header), *lines = read_csv(Path(path)) or [(1, [])]
    if len(set(header)) < len(header):
        raise ValueError(f"{source}: row 1: expected every column once, got {', '.join(header)}")
    if "image" not in header or not {"predicted", *AFFECT} & set(header):
        hint = "; data without a manifest have no image names" if "image" not in header else ""
        wanted = "the column image and one of predicted, valence, arousal"
        raise ValueError(f"{source}: row 1: expected {wanted}, got {', '.join(header) or 'none'}{hint}")
    for row, line in lines:
        if len(line) != len(header):
            raise ValueError(f"{source}: row {row}: expected {len(header)} cells as in the header, got {len(line)}")
    rows = [row for row, _ in lines]
    columns = {name: [line[i] for _, line in lines] for i, name in enumerate(header)}
    first: dict[str, int] = {}
    for row, name in zip(rows, columns["image"]):
        if not name:
            raise ValueError(f"{source}: row {row}, column 'image': expected a name, got ''")
        if name in first:
            raise ValueError(f"{source}: row {row}, column 'image': {name!r} is there already, in row {first[name]}")
        first[name] = row
    numbers = {
        name: to_numbers(cells, rows, source, name)
        for name, cells in columns.items()
        if name in AFFECT or name.startswith("p_")
    }
    shares = [name for name in numbers if name.startswith("p_")]
    return Predictions(
        image=columns["image"],
        label=_indices(source, rows, columns.get("predicted", [""] * len(rows)), classes),
        rows=rows,
        source=source,
        classes=tuple(name.removeprefix("p_") for name in shares),
        probabilities=np.stack([numbers[name] for name in shares], axis=1) if shares else None,
        valence=numbers.get("valence"),
        arousal=numbers.get("arousal"),
    )


def _indices(source: str, rows: Sequence[int], cells: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    index = {"": -1, **class_index(classes)}
    for row, cell in zip(rows, cells):
        if cell.casefold() not in index:
            wanted = f"one of {', '.join(classes)}"
            raise ValueError(f"{source}: row {row}, column 'predicted': expected {wanted}, got {cell!r}")
    return np.array([index[cell.casefold()] for cell in cells], dtype=np.int64)


def join_predictions(
    manifest: Manifest, predictions: Predictions, name: str | None = None, values: bool = False
) -> Manifest:
    """The manifest with predictions as a further label set, as valence and arousal, or both (noisyFER's relabelling).

    Args:
        manifest: its rows stay as they are; every row of an image gets the image's prediction.
        predictions: of images of the manifest, by the names it has in ``image`` or the ends of these: a manifest that
            is written elsewhere has other folders in front.
        name: of the new source label; none is made without it.
        values: take the predicted valence and arousal, in [-1, 1] (others are clipped, as noisyFER does), in place of
            the manifest's. Splits of which no image has a prediction keep their own.

    Returns:
        A manifest; an image without a prediction has the label -1 and, in a split that has some, NaN, and is counted
        in ``notes["without prediction"]``.

    Raises:
        ValueError: nothing to join, a set that the manifest has already, an image it has not or that is there twice.

    Example:
        >>> manifest = Manifest(["a.png", "b.png"], ["train", "train"], [0, 1], ("neutral", "happy"))
        >>> found = Predictions(["b.png"], np.array([0]), [2], "predictions.csv")
        >>> join_predictions(manifest, found, "machine").source_labels["machine"].tolist()
        [-1, 0]
    """
    if not name and not values:
        raise ValueError("name: expected a name for the new label set, or values=True, got neither")
    if name and name.removeprefix("source_label_") in RESERVED:
        raise ValueError(f"name: expected none of {', '.join(RESERVED)}, which mean something else, got {name!r}")
    if name and name.removeprefix("source_label_") in manifest.source_labels:
        raise ValueError(f"name: expected none of {', '.join(manifest.source_labels)}, got {name!r}")
    affect = {key: getattr(predictions, key) for key in AFFECT if getattr(predictions, key) is not None}
    if values and not affect:
        raise ValueError(f"values: expected the columns valence or arousal in {predictions.source}, got none")
    if name and not (predictions.label >= 0).any():
        raise ValueError(f"name: expected predicted classes in {predictions.source}, got none")
    place = _places(manifest, predictions)
    none = len(predictions.image)
    taken = np.array([place.get(image, none) for image in manifest.image.tolist()], dtype=np.int64)
    changed: dict[str, Any] = {}
    if name:
        label = np.append(predictions.label, -1)[taken]
        changed["source_labels"] = {**manifest.source_labels, name.removeprefix("source_label_"): label}
    if values:
        # People's values of a validation set that nobody asked the model about are not thrown away.
        other = ~np.isin(manifest.split, list(set(manifest.split[taken < none].tolist())))
        for key, column in affect.items():
            given = getattr(manifest, key)
            predicted = np.append(np.clip(column, -1, 1), np.nan)[taken]
            changed[key] = predicted if given is None else np.where(other, given, predicted)
    changed["notes"] = {**manifest.notes, "without prediction": int((taken == none).sum())}
    return replace(manifest, **changed)


def _places(manifest: Manifest, predictions: Predictions) -> dict[str, int]:
    """Position of each image's prediction, by the image's name in the manifest."""
    images = list(dict.fromkeys(manifest.image.tolist()))  # an image may have several rows
    names, exact = ImageNames(images), {image: position for position, image in enumerate(images)}
    place: dict[str, int] = {}
    for position, (row, name) in enumerate(zip(predictions.rows, predictions.image)):
        found = exact[name] if name in exact else names.find(name)
        where = f"{predictions.source}: row {row}, column 'image'"
        if found == -2:
            raise ValueError(f"{where}: {name!r} is the end of several images' names in {manifest.source}")
        if found == -1:
            raise ValueError(f"{where}: expected an image of {manifest.source}, got {name!r}")
        other = place.setdefault(images[found], position)
        if other != position:
            raise ValueError(f"{where}: {name!r} is the image of row {predictions.rows[other]} already")
    return place
