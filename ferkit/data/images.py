"""Images, in files or in an LMDB, to uint8 arrays (Pillow and lmdb, imported when used)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferkit.data.lmdb_images import find_lmdb, has_key, read_pixels

__all__ = ["ImageError", "decode", "eight_bit_image", "image_exists", "open_image", "pixels_of"]


class ImageError(ValueError):
    """An image is missing or cannot be read; the message names the file (and, from a data set, its row)."""


def pillow() -> Any:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "ferkit[train]"') from error
    return PIL


def image_exists(path: Path) -> bool:
    """Whether there is such a file, or such a key in an LMDB that the path leads into."""
    if os.path.isfile(path):  # unlike Path's own, no error for a key that is longer than file names may be
        return True
    place = find_lmdb(path)
    try:
        return place is not None and has_key(*place)
    except OSError as error:
        raise ImageError(f"image cannot be read: {path}: {error}") from error


def _stored_image(path: Path) -> Any:
    place = find_lmdb(path)
    try:
        pixels = None if place is None else read_pixels(*place)
    except (OSError, ValueError) as error:
        raise ImageError(f"image cannot be read: {path}: {error}") from error
    if pixels is None:
        raise ImageError(f"image is missing: {path}")
    return pillow().Image.fromarray(pixels)


def open_image(path: Path) -> Any:
    """A fully loaded 8-bit RGB or grey Pillow image, turned upright; the path may lead into an LMDB."""
    if not os.path.isfile(path):
        return _stored_image(path)
    try:
        with pillow().Image.open(path) as image:
            return _upright(image)
    except Exception as error:  # Pillow's plug-ins raise many kinds: OSError, SyntaxError, struct.error, its bomb error
        raise ImageError(f"image cannot be read: {path}: {type(error).__name__}: {error}") from error


def eight_bit_image(image: Any, name: str) -> Any:
    """A Pillow image as ``open_image`` would give it; ImageError, with its name, where it cannot be loaded."""
    try:
        return _upright(image)
    except Exception as error:
        raise ImageError(f"image cannot be read: {name}: {type(error).__name__}: {error}") from error


def _upright(image: Any) -> Any:
    pil, kind = pillow(), image.format
    image.load()  # the header alone does not tell that a file is cut off
    image = pil.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # grey of more than 8 bits: Pillow would clip instead of scaling
        return pil.Image.fromarray(_eight_bits(image, kind))
    if image.mode == "F":  # from 0 to 1, or to 255: Pillow would clip
        raise ValueError("expected 8 or 16 bits a pixel, got floating-point numbers")
    return image if image.mode == "L" else image.convert("RGB")


def _eight_bits(image: Any, kind: str) -> NDArray[np.uint8]:
    """Whole numbers as 0..255: as they are where they fit, for 16 bits would make them black; else of 16 bits."""
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 255:
        if image.mode == "I" and kind not in ("PNG", "PPM"):  # these are of 16 bits also in Pillow's 32-bit mode
            raise ValueError(f"expected 8 or 16 bits a pixel, or 32-bit numbers of 0..255 only, got {low}..{high}")
        values >>= 8
    return values.astype(np.uint8)


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """RGB image resized (antialiased, aspect not kept) to uint8 (3, size, size).

    Raises:
        ImageError: missing or unreadable file. ImportError: an LMDB without the package for it.
    """
    return pixels_of(open_image(path), size)


def pixels_of(image: Any, size: int) -> NDArray[np.uint8]:
    """An RGB or grey Pillow image, resized (antialiased, aspect not kept) to uint8 (3, size, size)."""
    if image.size != (size, size):
        image = image.resize((size, size), pillow().Image.Resampling.BILINEAR)  # a filter that widens when shrinking
    return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
