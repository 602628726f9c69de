"""The three layouts AffectNet is found in, each read into the same rows."""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferkit.data._progress import progress as progress_line
from ferkit.data.emotions import EMOTIONS
from ferkit.data.readers.name_lists import read_list

__all__ = ["CODES", "COLUMNS", "POINTS", "FaceRows", "find_csv", "find_lists", "read_csv_files", "read_lists"]

CODES = {str(number): name for number, name in enumerate((*EMOTIONS, "none", "uncertain", "no face"))}
COLUMNS = (
    *("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height"),
    *("facial_landmarks", "expression", "valence", "arousal"),
)
REQUIRED = ("subDirectory_filePath", "expression", "valence", "arousal")
CSV_FILES = {"train": "training.csv", "valid": "validation.csv"}
CSV_FOLDERS = ("Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated_file_lists", ".")
IMAGES = (
    "Manually_Annotated_Images",
    "Manually_Annotated/Manually_Annotated_Images",
    "Manually_Annotated_compressed/Manually_Annotated_Images",
    "../Manually_Annotated_Images",
)
LIST_FOLDERS = {"train": ("train_set",), "valid": ("valid_set", "val_set")}
POINTS = 68


@dataclass
class FaceRows:
    """Faces of an emotion that is kept, a row each; ``other`` names the faces that are left out for theirs."""

    classes: int
    split: list[str] = field(default_factory=list)
    image: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    expression: list[int] = field(default_factory=list)
    affect: array[float] = field(default_factory=lambda: array("d"))  # valence, arousal, valence, ...
    points: array[float] = field(default_factory=lambda: array("d"))  # one buffer: 400,000 faces are 450 MB
    other: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def keeps(self, expression: int, image: str) -> bool:
        """Whether this emotion is wanted; if not, the face is counted."""
        if expression < self.classes:
            return True
        self.other.append(image)
        self.count(f"faces of expression {expression} ({CODES[str(expression)]})")
        return False

    def count(self, reason: str) -> None:
        self.notes[reason] = self.notes.get(reason, 0) + 1

    def add(self, split: str, image: str, row: int, expression: int) -> None:
        self.split.append(split)
        self.image.append(image)
        self.rows.append(row)
        self.expression.append(expression)


def expression_code(text: str) -> int:
    """``3``, ``3.0`` or `` 3 `` as 3. ValueError for what is no code of AffectNet's."""
    value = float(text)
    if not (value.is_integer() and 0 <= value < len(CODES)):
        raise ValueError
    return int(value)


def expected_code(got: str) -> str:
    return f"expected 0..{len(CODES) - 1} (8 none, 9 uncertain, 10 no face), got {got!r}"


def find_csv(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The CSV file of each split, and what was looked for."""
    folders = [folder for folder in CSV_FOLDERS if any((root / folder / f).is_file() for f in CSV_FILES.values())]
    folder = root / (folders[0] if folders else CSV_FOLDERS[0])
    found = {split: folder / file for split, file in CSV_FILES.items() if (folder / file).is_file()}
    return found, [f"{CSV_FOLDERS[0]}/{file}" for file in CSV_FILES.values()]


def read_csv_files(root: Path, files: dict[str, Path], classes: int, landmarks: bool, progress: bool) -> FaceRows:
    """``training.csv`` and ``validation.csv``, row by row: each row's columns stay together."""
    folder = next((name for name in IMAGES if (root / name).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"root: expected the images' folder in {root}, looked for {', '.join(IMAGES)}")
    faces = FaceRows(classes)
    for split, path in files.items():
        total = _lines(path) if progress else 0
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle)
            lines = ((reader.line_num, line) for line in reader if line)
            _read_csv(
                faces, path, split, folder, landmarks, progress_line(lines, total, f"Reading {path.name}", progress)
            )
    return faces


def _lines(path: Path) -> int:
    with open(path, "rb") as handle:
        count, end = 0, b"\n"
        while block := handle.read(1 << 20):
            count, end = count + block.count(b"\n"), block[-1:]
        return count + (end != b"\n")


def _read_csv(
    faces: FaceRows, path: Path, split: str, folder: str, landmarks: bool, lines: Iterator[tuple[int, list[str]]]
) -> None:
    header: Sequence[str] | None = None
    place: dict[str, int] = {}
    for row, line in lines:
        if header is None:
            first = [cell.strip() for cell in line]
            named = bool({name.casefold() for name in first} & {name.casefold() for name in REQUIRED})
            header = first if named else COLUMNS  # copies of validation.csv have no header
            folded = [name.casefold() for name in header]
            place = {name: folded.index(name.casefold()) for name in COLUMNS if name.casefold() in folded}
            missing = [name for name in REQUIRED if name not in place]
            if missing:
                raise ValueError(f"{path}: row {row}: expected the columns {', '.join(REQUIRED)}, missing {missing}")
            if named:
                continue
        if len(line) != len(header):
            raise ValueError(f"{path}: row {row}: expected {len(header)} cells, got {len(line)}")
        name, code, valence, arousal = (line[place[column]].strip() for column in REQUIRED)
        name = name.replace("\\", "/")
        try:
            expression = expression_code(code)
        except ValueError:
            raise ValueError(f"{path}: row {row}, column 'expression': {expected_code(code)}") from None
        image = f"{folder}/{name}"
        if not name:
            raise ValueError(f"{path}: row {row}, column {REQUIRED[0]!r}: expected a path, got ''")
        if not faces.keeps(expression, image):
            continue
        faces.add(split, image, row, expression)
        for column, cell in (("valence", valence), ("arousal", arousal)):
            faces.affect.append(affect_value(cell, f"{path}: row {row}, column {column!r}"))
        if landmarks:
            cell = line[place["facial_landmarks"]] if "facial_landmarks" in place else ""
            faces.points.extend(_points(faces, cell))
    if header is None:
        raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}, got an empty file")


def affect_value(text: str, where: str) -> float:
    """A number in [-2, 2] (-2 stands for unknown, a little outside [-1, 1] is clipped later), empty: nan."""
    try:
        value = float(text) if text else np.nan
    except ValueError:
        raise ValueError(f"{where}: expected a number, got {text!r}") from None
    if abs(value) > 2:  # no rounding: another column
        raise ValueError(f"{where}: expected a value in [-1, 1] or -2 (unknown), got {value}")
    return value


def _points(faces: FaceRows, cell: str) -> list[float] | NDArray[np.float64]:
    """``x0;y0;x1;...``; what is not that is unknown, and counted: the face keeps its labels."""
    try:
        points = [float(number) for number in cell.split(";")]
        if len(points) == 2 * POINTS:
            return points
    except ValueError:
        pass
    faces.count("faces without landmarks (kept)")
    return np.full(2 * POINTS, np.nan)


def find_lists(root: Path) -> tuple[dict[str, Path], list[str]]:
    """POSTER's list of each split, and what was looked for."""
    found = {}
    for split, folders in LIST_FOLDERS.items():
        files = [path for folder in folders for path in sorted((root / folder).glob("*_annotations_8class.txt"))]
        if len(files) > 1:
            raise ValueError(f"root: expected one list a split, got {', '.join(map(str, files))}")
        if files:
            found[split] = files[0]
    return found, [f"{folders[0]}/*_annotations_8class.txt" for folders in LIST_FOLDERS.values()]


def read_lists(root: Path, files: dict[str, Path], classes: int) -> FaceRows:
    """``name label`` a line; images are in ``images`` beside the list."""
    faces = FaceRows(classes)
    for split, path in files.items():
        listing = read_list(path, ["label"], "root")
        folder = os.path.relpath(path.parent, root)
        for name, row, (cell,) in zip(listing.names, listing.rows, listing.cells):
            try:
                expression = expression_code(cell)
            except ValueError:
                raise ValueError(f"{path}: row {row}: {expected_code(cell)}") from None
            image = f"{folder}/images/{name.replace(os.sep, '/').removeprefix('./').removeprefix('images/')}"
            if faces.keeps(expression, image):
                faces.add(split, image, row, expression)
    return faces
