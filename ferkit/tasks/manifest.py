"""Work on manifests: write that of a data set, join a run's predictions as a further label set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.checks import renamed
from ferkit.data import Manifest, join_predictions, read_predictions
from ferkit.data.readers.cifar10 import is_labelled_folder
from ferkit.tasks.data import SPLITS, DataOptions, split_rows

__all__ = ["join_manifest", "write_manifest"]


def write_manifest(data: DataOptions, out: str, progress: bool = True) -> dict[str, float]:
    """Write the manifest of a data set of image files: the three splits, as a run with these options would have them.

    Training rows have the labels that are learned from, the others those that are scored by; what a run would hold out
    for validation is of the split ``valid`` (``validation_share=0``: nothing is). Other label sets, valence and
    arousal, votes and landmarks are written too.

    Args:
        data: which images, in files or an LMDB; not rendered ones, nor those inside torchvision's CIFAR-10.
        out: the manifest to write, .csv or .parquet. A .csv file does not hold the classes: where they are not the
            emotions, give them when it is read.
        progress: show a progress line where reading takes long.

    Returns:
        ``rows``, and those of each split.

    Raises:
        ValueError: for data without image files, or with ``folds``, whose validation and test set are one, or
            ``noise``, which every run adds for itself.
    """
    files = data.data not in ("synthetic", "cifar10") and (data.data != "cifar10n" or is_labelled_folder(data.root))
    if not files:
        raise ValueError(f"data: expected images in files, got {data.data!r}, whose images have none")
    if data.folds is not None or data.noise > 0:
        name = "noise" if data.folds is None else "folds"
        raise ValueError(f"{name}: expected none for a manifest of all splits, got {getattr(data, name)}")
    _check_out(out)
    rows = _together([split_rows(data, split, data.classes, progress, may_lack=True) for split in SPLITS])
    rows.write(out)
    return {"rows": float(len(rows)), **{name: float((rows.split == name).sum()) for name in rows.splits}}


def _check_out(out: str) -> None:
    """Raise ValueError for a manifest that cannot be written: now, and not after reading the data."""
    target = Path(out)
    if target.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"out: expected a .csv or .parquet file, got {out!r}")
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(f"out: expected a file in an existing folder, got {out!r}")


def _together(parts: Sequence[Manifest]) -> Manifest:
    """The rows of manifests of one reader, one after the other; training labels may have brought sets of their own."""
    changed: dict[str, Any] = {}
    for item in fields(Manifest):
        values = [getattr(part, item.name) for part in parts]
        if any(isinstance(value, np.ndarray) for value in values):
            whole = all(value is not None for value in values)
            changed[item.name] = np.concatenate(values) if whole else None
    units = [part.action_units for part in parts]
    changed["action_units"] = {name: np.concatenate([table[name] for table in units]) for name in units[0]}
    changed["source_labels"] = {
        name: np.concatenate([part.source_labels.get(name, np.full(len(part), -1)) for part in parts])
        for name in dict.fromkeys(name for part in parts for name in part.source_labels)
    }
    return replace(parts[0], **changed)


def join_manifest(
    manifest: str,
    predictions: str,
    out: str,
    name: str | None = None,
    values: bool = False,
    classes: Sequence[str] | None = None,
) -> dict[str, float]:
    """Write a manifest with a run's predictions as a label set, as valence and arousal, or both.

    This is how noisyFER relabels RAF-DB by a model of AffectNet (WACV 2021, section 4.2).

    Args:
        manifest: the images, a .csv or .parquet file.
        predictions: table of ``ferkit evaluate --save-predictions``: image, predicted, valence, arousal.
        out: the manifest to write, .csv or .parquet.
        name: of the new label set, the column source_label_<name>; none is made if not given.
        values: take the predicted valence and arousal in place of the manifest's.
        classes: class names in order, where the manifest's are not the emotions.

    Returns:
        ``rows`` of the manifest, those ``predicted`` and those ``without_prediction`` (-1 and NaN), and with ``name``
        and labels to compare with ``agreement``: the share of predicted classes that are the manifest's ``label``.

    Raises:
        ValueError: naming file and row, such as of a prediction that is there twice or of an image that is not.
    """
    _check_out(out)
    with renamed(path="manifest"):
        rows = Manifest.read(manifest, classes=classes)
    with renamed(root="predictions"):
        found = read_predictions(predictions, rows.classes)
    joined = join_predictions(rows, found, name, values)
    joined.write(out)
    lacking = joined.notes["without prediction"]
    figures = {
        "rows": float(len(rows)),
        "predicted": float(len(rows) - lacking),
        "without_prediction": float(lacking),
    }
    if name:
        labels = joined.source_labels[name.removeprefix("source_label_")]
        both = (labels >= 0) & (rows.label >= 0)
        if both.any():
            figures["agreement"] = float((labels == rows.label)[both].mean())
    return figures
