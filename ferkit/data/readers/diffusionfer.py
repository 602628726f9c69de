"""DiffusionFER: faces made by a diffusion model, with the prompt's label, a corrected one, affect and action units."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferkit.checks import check_choice
from ferkit.data.emotions import EMOTIONS, canonical_emotion
from ferkit.data.manifest import Manifest
from ferkit.data.manifest_table import to_numbers
from ferkit.data.readers.ferplus_votes import read_csv

__all__ = ["diffusionfer"]

CLASSES = EMOTIONS[:7]  # nobody was asked for contempt
SHEETS = ("sheet.csv", "dataset_sheet.csv")
IMAGE = ("image", "subDirectory_filePath")
UNIT = re.compile(r"AU(\d\d)$")
UNKNOWN = -2.0  # AffectNet's mark of an unknown valence or arousal


def diffusionfer(root: str | os.PathLike[str], labels: str = "sheet") -> Manifest:
    """Read DiffusionFER's sheet: image, valence, arousal, expression, folder_label, and py-feat's AU01 ... AU43.

    The prompt's emotion, after which the folders are named, differs from the sheet's in 15 % of the faces: a real
    case of label noise whose truth is known.

    Args:
        root: folder with ``sheet.csv`` (or ``dataset_sheet.csv``, as published), from which image paths start, or
            that file itself. Columns: ``image`` or ``subDirectory_filePath``; ``valence`` and ``arousal`` in [-1, 1]
            (empty or -2: unknown); ``expression``, a name or 0 to 6 in AffectNet's order; ``folder_label``, without
            which it is the folder in the image's path that is named after an emotion; and any number of ``AU<nn>``.
        labels: what ``label`` is: ``"sheet"`` (the expression) or ``"folder"`` (the prompt's).

    Returns:
        A manifest with seven classes and the one split ``train``; the source labels ``true`` (the sheet's) and, where
        known, ``folder``; action units by number (``01``), in py-feat's units (0 to 1).

    Raises:
        ValueError, FileNotFoundError: naming file, row and column.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "sheet.csv").write_text(
        ...     "image,valence,arousal,expression,folder_label,AU01,AU12\\n"
        ...     "images/0.jpg,0.6,0.1,happy,happy,0.2,0.9\\nimages/1.jpg,-0.5,0.4,anger,disgust,0.1,0\\n"
        ... )
        >>> manifest = diffusionfer(root, labels="folder")
        >>> manifest.label.tolist(), manifest.source_labels["true"].tolist(), list(manifest.action_units)
        ([1, 5], [1, 6], ['01', '12'])
    """
    check_choice(labels, "labels", ("sheet", "folder"))
    path = _sheet(Path(root))
    (_, header), *lines = read_csv(path) or [(1, [])]
    image = next((name for name in IMAGE if name in header), None)
    wanted = (image or "image", "valence", "arousal", "expression")
    missing = [name for name in wanted if name not in header]
    if missing:
        raise ValueError(f"{path}: row 1: expected the columns {', '.join(wanted)}, missing {missing}, got {header}")
    if not lines:
        raise ValueError(f"{path}: expected rows below the header, got none")
    for row, line in lines:
        if len(line) != len(header):
            raise ValueError(f"{path}: row {row}: expected {len(header)} cells as in the header, got {len(line)}")
    rows = [row for row, _ in lines]
    columns = {name: [line[i] for _, line in lines] for i, name in enumerate(header)}
    names = columns[wanted[0]]
    if "" in names:
        raise ValueError(f"{path}: row {rows[names.index('')]}, column {wanted[0]!r}: expected a path, got ''")
    true = _labels(path, rows, "expression", columns["expression"])
    sources = {"true": true}
    if "folder_label" in header:
        sources["folder"] = _labels(path, rows, "folder_label", columns["folder_label"])
    elif all(_folder(name) for name in names):
        sources["folder"] = _labels(path, rows, wanted[0], [str(_folder(name)) for name in names])
    elif labels == "folder":
        raise ValueError(f"{path}: row 1: labels 'folder' needs the column 'folder_label', or folders of emotions")
    units = {match[1]: name for name in header if (match := UNIT.match(name))}
    manifest = Manifest(
        image=np.array(names, dtype=np.object_),
        split=np.full(len(rows), "train", dtype=np.object_),
        label=true,
        classes=CLASSES,
        root=path.parent,
        valence=_affect(path, rows, "valence", columns["valence"]),
        arousal=_affect(path, rows, "arousal", columns["arousal"]),
        action_units={code: to_numbers(columns[name], rows, str(path), name) for code, name in units.items()},
        source_labels=sources,
        source=str(path),
        rows=np.array(rows, dtype=np.int64),
    )
    return manifest if labels == "sheet" else replace(manifest, label=sources["folder"])


def _sheet(root: Path) -> Path:
    found = [root] if root.is_file() else [root / name for name in SHEETS if (root / name).is_file()]
    if not found:
        raise FileNotFoundError(f"root: expected {' or '.join(SHEETS)} in {root}, got none")
    return found[0]


def _folder(name: str) -> str | None:
    """The innermost folder of a path that is named after an emotion."""
    folders = name.replace("\\", "/").split("/")[:-1]
    return next((folder for folder in reversed(folders) if canonical_emotion(folder)), None)


def _labels(path: Path, rows: Sequence[int], column: str, cells: Sequence[str]) -> NDArray[np.int64]:
    names = {str(number): name for number, name in enumerate(CLASSES)}
    labels = []
    for row, cell in zip(rows, cells):
        name = canonical_emotion(names.get(cell, cell))
        if cell and name not in CLASSES:
            wanted = f"one of {', '.join(CLASSES)}, or 0..{len(CLASSES) - 1}"
            raise ValueError(f"{path}: row {row}, column {column!r}: expected {wanted}, got {cell!r}")
        labels.append(CLASSES.index(str(name)) if cell else -1)
    return np.array(labels, dtype=np.int64)


def _affect(path: Path, rows: Sequence[int], column: str, cells: Sequence[str]) -> NDArray[np.float64]:
    values = to_numbers(cells, rows, str(path), column)
    values[values == UNKNOWN] = np.nan
    outside = np.flatnonzero(np.abs(values) > 1)
    if len(outside):
        row, value = rows[outside[0]], values[outside[0]]
        raise ValueError(f"{path}: row {row}, column {column!r}: expected a value in [-1, 1], got {value}")
    return values
