"""One call for the tables of every detector: which one it is shows in the names of the columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ferkit.checks import check_choice
from ferkit.data.readers.detector_table import DetectorTable, point_columns, read_columns, read_frame
from ferkit.data.readers.openface import is_openface, openface
from ferkit.data.readers.pyfeat import is_pyfeat, pyfeat

__all__ = ["read_table"]


def read_table(
    path: str | Path,
    space: str = "au",
    columns: Sequence[str] = (),
    *,
    min_confidence: float = 0.5,
    name_column: str | None = None,
) -> DetectorTable:
    """Read a table of OpenFace 2 or 3, py-feat, or any other with a header.

    Args:
        path: a CSV file; for OpenFace also a folder of them.
        space: "au", "landmark", "va" (the columns ``valence`` and ``arousal``) or "columns".
        columns: the names for space "columns".
        min_confidence: detections below it count as failed, where the table has a confidence.
        name_column: the column of image names for "va" and "columns"; by default the first usual one (image, input,
            filename, ...).

    Raises:
        ValueError: naming file and column of what is missing or no number.
    """
    check_choice(space, "space", ("au", "landmark", "va", "columns"))
    if space in ("va", "columns"):
        return read_columns(path, ("valence", "arousal") if space == "va" else columns, name_column)
    if Path(path).is_dir():
        return openface(path, space, min_confidence=min_confidence)
    _, header = read_frame(path, lambda name: False)
    if is_openface(header):
        return openface(path, space, min_confidence=min_confidence)
    if is_pyfeat(header):
        return pyfeat(path, space, min_confidence=min_confidence)
    prefixes = ("au_",) if space == "au" else ("lm_x_", "lm_y_")
    found = [name for name in header if name.startswith(prefixes)]
    if space == "landmark":
        found = point_columns(found, "lm_")
    if not found:
        raise ValueError(
            f"{path}: expected a table of OpenFace (AU01_r, ..., x_0, ...), py-feat (AU01, ..., x_0, ...) or "
            f"a manifest ({prefixes[0]}<...>), got {', '.join(header[:8])}{', ...' if len(header) > 8 else ''}; "
            "for other tables name the columns: --space columns:<name>,<name>"
        )
    return read_columns(path, found, name_column)
