"""What a face-analysis tool reports, a row an image, and which row belongs to which image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferkit.data.readers.row_match import Match, match_rows

__all__ = ["DetectorTable", "best_faces", "read_columns", "read_frame"]

NAME_COLUMNS = ("image", "input", "filename", "file", "name", "path", "image_path", "subDirectory_filePath")


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

        A frame of a video, ``video/12``, is the image ``video/00012.jpg`` and no other ``12.jpg``. Aligned copies
        (``_aligned``) match too. Where folders tell some images apart, no image gets a row of another folder.

        Raises:
            ValueError: if nothing matches, or two images have one row.
        """
        return match_rows(self.names, images, self.source)

    def take(self, match: Match) -> DetectorTable:
        """One row an image of a match; images without a row are NaN and failed."""
        there = match.rows >= 0
        values = np.where(there[:, None], self.values[match.rows], np.nan)
        failed = ~there | self.failed[match.rows]
        notes = {**self.notes, "without_row": int((~there).sum())}
        return DetectorTable(match.images, self.columns, values, failed, self.source, notes)


def read_frame(
    path: str | Path, wanted: Callable[[str], bool], names: str | None = None
) -> tuple[Any, tuple[str, ...]]:
    """The columns of a CSV file for which ``wanted`` holds (pandas), and all its headers without their blanks.

    The column ``names`` and the usual columns of image names are text. ValueError for a wanted column that is there
    twice: which of the two is meant cannot be told.
    """
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
        raw = [str(name) for name in pandas.read_csv(path, nrows=0, **options).columns]
        header = tuple(name.strip() for name in raw)
        # as they are written: pandas makes a second "a" an "a.1"
        written = pandas.read_csv(path, nrows=1, header=None, dtype=str, keep_default_na=False, **options).iloc[0]
        # names as they are written: 00012 is not 12
        options["dtype"] = {name: str for name in raw if name.strip() in (*NAME_COLUMNS, names)}
        data = pandas.read_csv(path, usecols=lambda name: wanted(name.strip()), low_memory=False, **options)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV table ({error})") from error
    counts = Counter(str(name).strip() for name in written)
    doubled = [name for name, count in counts.items() if count > 1 and wanted(name)]
    if doubled:
        raise ValueError(f"{path}: row 1: expected every column once, got more than one {', '.join(doubled)}")
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
    data, header = read_frame(
        path, lambda name: name in columns or name == name_column or name in NAME_COLUMNS, name_column
    )
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
    names = ["" if name != name else str(name).strip() for name in data[column]]  # an empty cell is NaN
    if "" in names:
        raise ValueError(f"{path}: row {names.index('') + 2}, column {column!r}: expected an image's name, got none")
    return names


def frame_numbers(data: Any, path: str | Path) -> list[int]:
    """The column ``frame``; ValueError naming the row of what is no whole number."""
    values = numbers(data, ["frame"], path)[:, 0]
    bad = np.flatnonzero(~(np.mod(values, 1) == 0))  # NaN too
    if len(bad):
        raise ValueError(f"{path}: row {bad[0] + 2}, column 'frame': expected a whole number, got {values[bad[0]]:g}")
    return [int(value) for value in values]
