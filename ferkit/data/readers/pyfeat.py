"""Tables of py-feat (Fex saved as CSV)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

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

__all__ = ["is_pyfeat", "pyfeat"]

UNIT = re.compile(r"AU\d\d$")
POINT = re.compile(r"[xy]_\d+$")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg")


def is_pyfeat(header: tuple[str, ...]) -> bool:
    """Whether these column names are py-feat's."""
    return any(UNIT.match(name) for name in header) or ("FaceScore" in header and "x_0" in header)


def pyfeat(path: str | Path, space: str = "au", *, min_confidence: float = 0.5) -> DetectorTable:
    """Action units (0 to 1) or landmarks (pixels) that py-feat wrote.

    Where no face was found py-feat leaves cells empty: such rows are failed, as are those whose ``FaceScore`` is below
    ``min_confidence``. Of several faces of an image the one of the highest score is kept. Rows are named by ``input``;
    those of a video ``<video>/<frame>``.

    Args:
        path: the CSV file.
        space: "au" (``AU01``, ..., 20 of them) or "landmark" (``x_0``, ``y_0``, ...).
        min_confidence: in [0, 1].

    Raises:
        ValueError: naming file, and row or column, of what is not py-feat's.
    """
    check_choice(space, "space", ("au", "landmark"))
    check_number(min_confidence, "min_confidence", 0, 1)
    pattern = UNIT if space == "au" else POINT
    kept = {"FaceScore", "frame", *NAME_COLUMNS}
    data, header = read_frame(path, lambda name: name in kept or pattern.match(name) is not None)
    columns = [name for name in header if pattern.match(name)]
    if space == "landmark":
        columns = point_columns(columns)
    if not columns:
        wanted = "AU01, AU02, ..." if space == "au" else "x_0, ..., y_0, ..."
        raise ValueError(f"{path}: expected py-feat's columns {wanted}, got {', '.join(header[:8])}, ...")
    values = numbers(data, columns, path)
    score = numbers(data, ["FaceScore"], path)[:, 0] if "FaceScore" in header else np.ones(len(data))
    failed = ~(score >= min_confidence)
    names = image_names(data, header, path, "input" if "input" in header else None)
    if "frame" in header and any(name.lower().endswith(VIDEOS) for name in names):
        for row, (name, frame) in enumerate(zip(names, frame_numbers(data, path))):
            if name.lower().endswith(VIDEOS):
                names[row] = f"{Path(name).stem}/{frame}"
    return make_table(names, columns, values, score, failed, path)
