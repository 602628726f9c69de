"""FERPlus's pictures from FER2013's table of pixels."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np

from ferkit.data._progress import progress as progress_line
from ferkit.data.images import pillow
from ferkit.data.manifest_files import replace_file
from ferkit.data.readers.ferplus_votes import FOLDERS, joined_rows

__all__ = ["write_ferplus_images"]

EDGE = 48


def write_ferplus_images(root: str | os.PathLike[str], progress: bool = False) -> int:
    """Write the PNGs that FERPlus's vote files name, from ``root/fer2013.csv`` (emotion, pixels, Usage).

    FERPlus publishes votes only. Pixels and votes are joined by row order (the number in a picture's name is not its
    row, for rows without a face were not counted); of two rows with one name the later one is kept, as in FERPlus's
    own script.

    Returns:
        Number of pictures in ``root/FER2013{Train,Valid,Test}``.

    Raises:
        ValueError: tables that do not fit each other, or a row that does not hold 48 x 48 values in 0..255.
    """
    base = Path(root)
    image = pillow().Image
    written = set()
    rows = joined_rows(base / "fer2013.csv", base / "fer2013new.csv")
    for split, name, row, _, text in progress_line(rows, len(rows), "Writing images", progress):
        try:
            pixels = np.array(text.split(), dtype=np.int64)
        except ValueError:
            pixels = np.zeros(0, dtype=np.int64)
        if pixels.shape != (EDGE * EDGE,) or pixels.min() < 0 or pixels.max() > 255:
            wanted = f"{EDGE * EDGE} integers in 0..255"
            raise ValueError(
                f"{base / 'fer2013.csv'}: row {row}, column 'pixels': expected {wanted}, got {text[:40]!r}"
            )
        path = base / FOLDERS[split] / name
        path.parent.mkdir(exist_ok=True)
        picture = image.fromarray(pixels.reshape(EDGE, EDGE).astype(np.uint8))
        replace_file(path, partial(picture.save, format="PNG"))
        written.add(path)
    return len(written)
