"""The sheet of decoder images: what the generator takes each class to look like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ferkit.reports._files import save_figure
from ferkit.reports._style import frame, new_figure, note_empty, to_images

__all__ = ["decoder_sheet"]

SIDE, GAP, EDGE, HEAD, LETTER = 0.72, 0.03, 0.10, 0.30, 0.075  # inches


def decoder_sheet(images: Any, classes: Sequence[str], path: str | os.PathLike[str], title: str = "") -> None:
    """Write images as a grid, one column a class and its name above, one row a noise vector.

    Args:
        images: (R * C, 3, H, W) uint8, tensor or array, row by row: the C classes of the first noise vector first.
        classes: C names.
        path: picture to write; it appears whole or not at all.
        title: a line above the grid, such as the epoch.

    Raises:
        TypeError, ValueError: wrong dtype or shape, no class, or a number of images that is no multiple of C.

    >>> import tempfile, torch
    >>> target = tempfile.mkdtemp() + "/decoder.png"
    >>> decoder_sheet(torch.zeros(6, 3, 8, 8, dtype=torch.uint8), ("happy", "sad"), target, "epoch 3")
    """
    faces = to_images(images)
    if not classes:
        raise ValueError("classes: expected the names of the classes, got none")
    columns = len(classes)
    if len(faces) % columns:
        raise ValueError(f"images: expected whole rows of {columns} classes, got {len(faces)} images")
    if not len(faces):
        fig = new_figure(3, 1)
        note_empty(fig, "no image to show")
        save_figure(fig, path)
        return

    rows, tall = len(faces) // columns, SIDE * faces.shape[1] / faces.shape[2]
    across = max(SIDE, LETTER * max(len(name) for name in classes)) + GAP
    above = HEAD + (0.22 if title else 0.0)
    width, height = columns * across - GAP + 2 * EDGE, rows * (tall + GAP) - GAP + above + EDGE
    width = max(width, 2 * EDGE + LETTER * len(title))
    fig = new_figure(width, height)
    if title:
        fig.text(EDGE / width, 1 - 0.07 / height, title, ha="left", va="top", fontsize=8.5)
    for i, face in enumerate(faces):
        left = EDGE + (i % columns) * across + (across - GAP - SIDE) / 2
        top = height - above - (i // columns) * (tall + GAP)
        axes = fig.add_axes((left / width, (top - tall) / height, SIDE / width, tall / height))
        axes.imshow(face, interpolation="nearest", aspect="auto")  # its own pixels, not a smoother picture
        frame(axes, "white", 0.0)
        if i < columns:
            axes.set_title(classes[i], fontsize=8, pad=3)
    save_figure(fig, path, dpi=130)
