"""Image files to uint8 arrays (Pillow, imported when used)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageError", "decode", "open_image"]


class ImageError(ValueError):
    """An image is missing or cannot be read; the message names the file (and, from a data set, its row)."""


def pillow() -> Any:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "ferkit[train]"') from error
    return PIL


def open_image(path: Path) -> Any:
    """A fully loaded 8-bit RGB or grey Pillow image, turned upright."""
    pil = pillow()
    if not path.is_file():
        raise ImageError(f"image is missing: {path}")
    try:
        with pil.Image.open(path) as image:
            image.load()  # the header alone does not tell that a file is cut off
            image = pil.ImageOps.exif_transpose(image)
            if image.mode in ("I", "I;16", "I;16L", "I;16B"):  # 16-bit grey: Pillow would clip instead of scaling
                values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
                return pil.Image.fromarray(values.astype(np.uint8))
            return image if image.mode == "L" else image.convert("RGB")
    except Exception as error:  # Pillow's plug-ins raise many kinds: OSError, SyntaxError, struct.error, its bomb error
        raise ImageError(f"image cannot be read: {path}: {type(error).__name__}: {error}") from error


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """RGB image resized (antialiased, aspect not kept) to uint8 (3, size, size).

    Raises:
        ImageError: missing or unreadable file.
    """
    image = open_image(path)
    if image.size != (size, size):
        image = image.resize((size, size), pillow().Image.Resampling.BILINEAR)  # a filter that widens when shrinking
    return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
