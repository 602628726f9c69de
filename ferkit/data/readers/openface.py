"""Tables of OpenFace 2 (images and videos) and OpenFace 3."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferkit.checks import check_choice, check_number
from ferkit.data.readers.detector_table import (
    NAME_COLUMNS,
    DetectorTable,
    frame_numbers,
    image_names,
    make_table,
    numbers,
    point_columns,
    read_frame,
)

__all__ = ["is_openface", "openface"]

UNIT = re.compile(r"AU\d\d_r$")
POINT = re.compile(r"[xy]_\d+$")
# OpenFace 3 numbers its eight outputs; what they are is reported by its users, not by its documentation.
OPENFACE3 = dict(zip((f"AU0{i}_r" for i in range(1, 9)), ("01", "06", "12", "15", "17", "02", "09", "10")))


def is_openface(header: tuple[str, ...]) -> bool:
    """Whether these column names are OpenFace's."""
    return any(UNIT.match(name) for name in header) or ("confidence" in header and "x_0" in header)


def openface(path: str | Path, space: str = "au", *, min_confidence: float = 0.5) -> DetectorTable:
    """Action unit intensities or landmarks that OpenFace wrote.

    Headers may have leading blanks (OpenFace 2.0). A detection with ``success`` 0 or less confidence than
    ``min_confidence`` is NaN; of several faces of an image the most certain is kept. Rows are named by a column of file
    names where there is one, else ``<file>/<frame>`` (a video), else by the file (one image a file).

    Args:
        path: a CSV file, or a folder of them (OpenFace writes one a image or video).
        space: "au" (``AU01_r`` and so on, 0 to 5; OpenFace 3's eight by the units they stand for) or "landmark"
            (``x_0``, ``y_0``, ..., pixels).
        min_confidence: in [0, 1].

    Raises:
        ValueError: naming file, and row or column, of what is not OpenFace's.
    """
    check_choice(space, "space", ("au", "landmark"))
    check_number(min_confidence, "min_confidence", 0, 1)
    path = Path(path)
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: expected CSV files in the folder, got none")
    parts = [_read(file, space, min_confidence) for file in files]
    columns = parts[0][1]
    other = next((file for file, part in zip(files, parts) if part[1] != columns), None)
    if other is not None:
        raise ValueError(f"{other}: expected the same columns as {files[0]}")
    names = [name for part in parts for name in part[0]]
    values, confidence = (np.concatenate([part[i] for part in parts]) for i in (2, 3))
    failed = np.concatenate([part[4] for part in parts])
    return make_table(names, columns, values, confidence, failed, path)


def _read(
    path: Path, space: str, min_confidence: float
) -> tuple[list[str], tuple[str, ...], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    pattern = UNIT if space == "au" else POINT
    kept = {"frame", "face", "face_id", "confidence", "success", *NAME_COLUMNS}
    data, header = read_frame(path, lambda name: name in kept or pattern.match(name) is not None)
    columns = [name for name in header if pattern.match(name)]
    if space == "landmark":
        columns = point_columns(columns)
    if not columns:
        wanted = "AU01_r, AU02_r, ..." if space == "au" else "x_0, ..., y_0, ..."
        raise ValueError(f"{path}: expected OpenFace's columns {wanted}, got {', '.join(header[:8])}, ...")
    values = numbers(data, columns, path)
    confidence = numbers(data, ["confidence"], path)[:, 0] if "confidence" in header else np.ones(len(data))
    failed = ~(confidence >= min_confidence)
    if "success" in header:
        failed |= numbers(data, ["success"], path)[:, 0] != 1
    if any(name in header for name in NAME_COLUMNS):
        names = image_names(data, header, path)
    elif "frame" in header:
        names = [f"{path.stem}/{frame}" for frame in frame_numbers(data, path)]
    else:
        names = [path.stem] * len(data)
    if space == "au":
        three = set(columns) == set(OPENFACE3)
        columns = ["AU" + OPENFACE3[name] if three else name.removesuffix("_r") for name in columns]
    return names, tuple(columns), values, confidence, failed
