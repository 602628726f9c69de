"""Contact sheets of faces, with a title and the bars of a distribution where given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ferkit.checks import check_number
from ferkit.reports._files import save_figure
from ferkit.reports._style import (
    BLUE,
    LIGHT,
    check_texts,
    draw_bars,
    frame,
    names_width,
    new_figure,
    note_empty,
    to_distributions,
    to_images,
)

__all__ = ["face_sheet"]

WIDTH, TITLE, GAP = 1.25, 0.30, 0.10  # inches


def face_sheet(
    images: Any,
    path: str | os.PathLike[str],
    titles: Sequence[str] | None = None,
    bars: Any = None,
    classes: Sequence[str] | None = None,
    columns: int = 8,
) -> None:
    """Write a contact sheet of faces, row by row.

    Args:
        images: (N, 3, H, W) uint8, tensor or array.
        path: picture to write; it appears whole or not at all.
        titles: a short text above each face.
        bars: distributions (N, C), drawn under each face.
        classes: C names, needed with ``bars``.
        columns: faces a row.

    Raises:
        TypeError, ValueError: wrong dtype or shape, values outside [0, 1], classes missing.
    """
    faces = to_images(images)
    check_number(columns, "columns", 1, 100, integer=True)
    check_texts(titles, "titles", len(faces))
    values = None
    if bars is not None:
        if not classes:
            raise ValueError("classes: expected the names of the classes with bars, got none")
        values = to_distributions(bars, "bars", len(faces), classes)
    if not len(faces):
        fig = new_figure(3, 1)
        note_empty(fig, "no face to show")
        save_figure(fig, path)
        return

    columns = min(columns, len(faces))
    rows = -(-len(faces) // columns)
    tall = WIDTH * faces.shape[1] / faces.shape[2]
    above = TITLE * (1 + max(t.count("\n") for t in titles)) * 0.62 + GAP if titles else GAP
    names = names_width(classes, 6) if values is not None and classes else 0.0
    below = 0.125 * len(classes) + 0.06 if values is not None and classes else 0.0
    cell_width, cell_height = WIDTH + GAP + names, above + tall + below
    width, height = columns * cell_width + GAP, rows * cell_height + GAP
    fig = new_figure(width, height)
    for i, face in enumerate(faces):
        left = (i % columns) * cell_width + GAP + names
        top = height - (i // columns) * cell_height - above
        axes = fig.add_axes((left / width, (top - tall) / height, WIDTH / width, tall / height))
        axes.imshow(face, interpolation="bicubic", aspect="auto")
        frame(axes, LIGHT, 0.6)
        if titles:
            axes.set_title(titles[i], fontsize=7.5, pad=2.5, linespacing=1.1)
        if values is not None and classes:
            box = (left / width, (top - tall - below + 0.03) / height, WIDTH / width, (below - 0.06) / height)
            draw_bars(fig.add_axes(box), values[i], classes, [BLUE] * len(classes), size=6)
    save_figure(fig, path)
