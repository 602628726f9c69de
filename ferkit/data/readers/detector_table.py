"""What a face-analysis tool reports, a row an image, and which row belongs to which image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DetectorTable", "Match", "best_faces", "read_columns", "read_frame"]

NAME_COLUMNS = ("image", "input", "filename", "file", "name", "path", "image_path", "subDirectory_filePath")
SHOWN = 5


@dataclass(frozen=True, eq=False, repr=False)
class DetectorTable:
    """One row an image.

    Attributes:
        names: what each row calls its image: a path, a file name, a stem, or video/frame.
        columns: names of the values.
        values: float64 (R, D); NaN in rows where no face was found. Landmarks: x0, y0, x1, y1, ...
        failed: bool (R,), those rows.
        source: file or folder that it was read from.
        notes: counts: failed, further_faces (left out: another face of the image is more certain).
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    failed: NDArray[np.bool_]
    source: str
    notes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        notes = "".join(f", {name}={count}" for name, count in self.notes.items() if count)
        return f"DetectorTable({len(self)} rows of {self.source}, {len(self.columns)} columns{notes})"

    def match(self, images: Sequence[str]) -> Match:
        """The row of each image, by path, file name or file name without its ending, whichever first tells them apart.

        A frame of a video, ``video/12``, is the image ``video/00012.jpg``. Aligned copies (``_aligned``) match too.

        Raises:
            ValueError: if nothing matches, or two images have one row.
        """
        rows = np.full(len(images), -1, dtype=np.int64)
        for key in KEYS:
            wanted, held = [key(name) for name in images], [key(name) for name in self.names]
            once = {name for name, count in Counter(held).items() if count == 1}
            place = {name: row for row, name in enumerate(held) if name in once}
            for i, name in enumerate(wanted):
                if rows[i] < 0:
                    rows[i] = place.get(name, -1)
        match = Match(rows, tuple(images), self.names, self.source)
        if len(images) and not (rows >= 0).any():
            raise ValueError(
                f"{self.source}: no row belongs to any of the {len(images)} images: "
                f"rows are named {_first(self.names)}, images {_first(images)}"
            )
        used = Counter(rows[rows >= 0].tolist())
        doubled = next((row for row, count in used.items() if count > 1), None)
        if doubled is not None:
            both = [images[int(i)] for i in np.flatnonzero(rows == doubled)]
            raise ValueError(f"{self.source}: row {self.names[doubled]!r} fits {len(both)} images: {_first(both)}")
        return match

    def take(self, match: Match) -> DetectorTable:
        """One row an image of a match; images without a row are NaN and failed."""
        there = match.rows >= 0
        values = np.where(there[:, None], self.values[match.rows], np.nan)
        failed = ~there | self.failed[match.rows]
        notes = {**self.notes, "without_row": int((~there).sum())}
        return DetectorTable(match.images, self.columns, values, failed, self.source, notes)


@dataclass(frozen=True, eq=False)
class Match:
    """Which row each image has, int64 (N,), -1 for none."""

    rows: NDArray[np.int64]
    images: tuple[str, ...]
    names: tuple[str, ...]
    source: str

    @property
    def missing(self) -> list[str]:
        """Images without a row."""
        return [self.images[i] for i in np.flatnonzero(self.rows < 0)]

    @property
    def unused(self) -> list[str]:
        """Rows without an image."""
        left = set(range(len(self.names))) - set(self.rows.tolist())
        return [self.names[i] for i in sorted(left)]

    def __str__(self) -> str:
        text = f"{self.source}: {int((self.rows >= 0).sum())} of {len(self.images)} images have a row"
        if self.missing:
            text += f"; {len(self.missing)} have none: {_first(self.missing)}"
        if self.unused:
            text += f"; {len(self.unused)} rows have no image: {_first(self.unused)}"
        return text


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _slashes(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _stem(name: str) -> str:
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", _slashes(name)).rsplit("/", 1)[-1]
    return stem.removesuffix("_aligned")


def _frame(name: str) -> str:
    """``video/00012.jpg`` and ``video/12`` as one key; others keep their path."""
    parts = _slashes(name).split("/")
    stem = _stem(name)
    if len(parts) < 2 or not stem.isdigit():
        return _slashes(name)
    return f"{parts[-2]}/{int(stem)}"


KEYS: tuple[Callable[[str], str], ...] = (
    _slashes,
    lambda name: "/".join(_slashes(name).split("/")[-2:]),
    _frame,
    lambda name: _slashes(name).rsplit("/", 1)[-1],
    _stem,
)


def read_frame(path: str | Path, wanted: Callable[[str], bool]) -> tuple[Any, tuple[str, ...]]:
    """The columns of a CSV file for which ``wanted`` holds (pandas), and all its headers without their blanks."""
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ImportError('tables of detectors need pandas: pip install "ferkit[train]"') from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"table: no such file: {path}")
    _check_widths(Path(path))
    # index_col: with a comma at the end of each row pandas would take the first column for the rows' names
    options: dict[str, Any] = {"encoding": "utf-8-sig", "index_col": False}
    try:
        header = tuple(str(name).strip() for name in pandas.read_csv(path, nrows=0, **options).columns)
        data = pandas.read_csv(path, usecols=lambda name: wanted(name.strip()), low_memory=False, **options)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV table ({error})") from error
    data.columns = [str(name).strip() for name in data.columns]
    return data, header


def _check_widths(path: Path) -> None:
    """Every row has as many cells as the header: pandas drops or adds cells where only some columns are asked for."""
    with open(path, "rb") as handle:
        header = handle.readline()
        commas = header.count(b",")
        for number, line in enumerate(handle, start=2):
            if b'"' in line or b'"' in header or not line.strip():
                continue  # commas within quotes are not counted here
            found = line.count(b",")
            if found != commas and not (found == commas + 1 and line.rstrip().endswith(b",")):
                raise ValueError(f"{path}: row {number}: expected {commas + 1} cells as in the header, got {found + 1}")


def numbers(data: Any, columns: Sequence[str], source: object) -> NDArray[np.float64]:
    """float64 (R, D) of columns, NaN for an empty cell; ValueError naming row and column of what is no number."""
    import pandas

    values = np.empty((len(data), len(columns)))
    for place, name in enumerate(columns):
        column = pandas.to_numeric(data[name], errors="coerce").to_numpy(dtype=np.float64, copy=True)
        text = data[name].astype(str).str.strip()
        bad = np.flatnonzero(np.isnan(column) & data[name].notna().to_numpy() & (text != "").to_numpy())
        bad = bad[~text.iloc[bad].str.lower().isin(["nan", "-nan", "-nan(ind)"]).to_numpy(dtype=bool)]
        if len(bad):
            got = data[name].iloc[bad[0]]
            raise ValueError(f"{source}: row {bad[0] + 2}, column {name!r}: expected a number, got {got!r}")
        column[np.isinf(column)] = np.nan
        values[:, place] = column
    return values


def point_columns(found: Sequence[str], prefix: str = "") -> list[str]:
    """x_0, y_0, x_1, y_1, ... of the columns that were found; none if a point lacks a coordinate.

    >>> point_columns(["x_0", "x_1", "y_0", "y_1"]), point_columns(["x_0", "x_1", "y_0"])
    (['x_0', 'y_0', 'x_1', 'y_1'], [])
    """
    columns = [f"{prefix}{axis}_{i}" for i in range(len(found) // 2) for axis in "xy"]
    return columns if sorted(columns) == sorted(found) else []


def best_faces(names: Sequence[str], confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows to keep, in order: of several faces of one image the most certain, the first where they are equal."""
    best: dict[str, int] = {}
    certainty = np.nan_to_num(confidence, nan=-np.inf)
    for row, name in enumerate(names):
        if name not in best or certainty[row] > certainty[best[name]]:
            best[name] = row
    return np.sort(np.fromiter(best.values(), dtype=np.int64, count=len(best)))


def make_table(
    names: Sequence[str],
    columns: Sequence[str],
    values: NDArray[np.float64],
    confidence: NDArray[np.float64],
    failed: NDArray[np.bool_],
    source: object,
) -> DetectorTable:
    """A table with the most certain face of each image, and NaN where none was found."""
    kept = best_faces(names, np.where(failed, -np.inf, confidence))
    failed = failed | ~np.isfinite(values).all(1)
    values = np.where(failed[:, None], np.nan, values)
    notes = {"failed": int(failed[kept].sum()), "further_faces": len(names) - len(kept)}
    chosen = tuple(str(names[i]) for i in kept)
    return DetectorTable(chosen, tuple(columns), values[kept], failed[kept], str(source), notes)


def read_columns(path: str | Path, columns: Sequence[str], name_column: str | None = None) -> DetectorTable:
    """Any columns of any CSV table; the images' names are in ``name_column``, by default the first usual one there.

    Raises:
        ValueError: naming the columns that are not there.
    """
    data, header = read_frame(path, lambda name: name in columns or name == name_column or name in NAME_COLUMNS)
    absent = [name for name in columns if name not in header]
    if absent:
        raise ValueError(f"{path}: expected the columns {', '.join(columns)}, missing {', '.join(absent)}")
    values = numbers(data, columns, path)
    names = image_names(data, header, path, name_column)
    return make_table(names, columns, values, np.zeros(len(data)), np.zeros(len(data), bool), path)


def image_names(data: Any, header: Sequence[str], path: str | Path, name_column: str | None = None) -> list[str]:
    """The images' names; without a column of names a row is ``<file>/<row>``, counted from 1."""
    if name_column is not None and name_column not in header:
        raise ValueError(f"{path}: expected a column {name_column!r} of image names, got {', '.join(header[:8])}, ...")
    column = name_column or next((name for name in NAME_COLUMNS if name in header), None)
    if column is None:
        return [f"{Path(path).stem}/{row + 1}" for row in range(len(data))]
    return [str(name).strip() for name in data[column]]
