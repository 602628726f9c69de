"""Predicted beside true label distributions for chosen faces."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ferkit.checks import check_number
from ferkit.reports._files import save_figure
from ferkit.reports._style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LIGHT,
    ORANGE,
    RED,
    check_texts,
    clean,
    frame,
    names_width,
    new_figure,
    note_empty,
    to_distributions,
    to_images,
)

__all__ = ["plot_distributions"]

FACE, BARS, GAP, HEAD = 1.2, 1.6, 0.40, 0.36  # inches


def plot_distributions(
    predicted: Any,
    true: Any,
    classes: Sequence[str],
    path: str | os.PathLike[str],
    images: Any = None,
    titles: Sequence[str] | None = None,
    columns: int = 3,
    reference: str = "true",
) -> None:
    """Draw the predicted distributions of some faces beside the true ones, with the total variation between them.

    Args:
        predicted: (N, C) in [0, 1], or a mapping from a method's name to such an array (at most 4).
        true: label distributions (N, C).
        classes: C names.
        path: picture to write; it appears whole or not at all.
        images: the faces, (N, 3, H, W) uint8.
        titles: a text above each face.
        columns: faces a row.
        reference: what the legend calls ``true``.

    Raises:
        TypeError, ValueError: wrong dtype, shape or values.
    """
    target = to_distributions(true, "true", "N", classes)
    n = len(target)
    named = predicted if isinstance(predicted, Mapping) else {"predicted": predicted}
    if not 1 <= len(named) <= 4:
        raise ValueError(f"predicted: expected 1 to 4 methods, got {len(named)}")
    methods = {k: to_distributions(v, f"predicted[{k!r}]", n, classes) for k, v in named.items()}
    faces = None if images is None else to_images(images, n)
    check_texts(titles, "titles", n)
    check_number(columns, "columns", 1, 100, integer=True)

    series = {reference: target, **methods}
    colours = (LIGHT, BLUE, RED, GREEN, ORANGE)
    columns = max(1, min(columns, n))
    rows = max(1, -(-n // columns))
    face = FACE if faces is not None else 0.0
    tall = max(face, len(classes) * 0.075 * (1 + len(series)))
    distances = 0.16 * len(methods)
    names = names_width(classes, 7)
    cell_width, cell = face + names + BARS + GAP, HEAD + tall + distances + 0.1
    width, height = columns * cell_width + GAP, rows * cell + 0.42
    fig = new_figure(width, height)
    if not n:
        note_empty(fig, "no face to show")
    for i in range(n):
        left = (i % columns) * cell_width + GAP / 2
        top = height - 0.40 - (i // columns) * cell
        if titles:
            fig.text(left / width, (top - 0.2) / height, titles[i], va="baseline", fontsize=8.5, color=INK)
        if faces is not None:
            axes = fig.add_axes((left / width, (top - HEAD - FACE) / height, FACE / width, FACE / height))
            axes.imshow(faces[i], interpolation="bicubic")
            frame(axes, LIGHT, 0.6)
        box = ((left + face + names) / width, (top - HEAD - tall) / height, BARS / width, tall / height)
        axes = fig.add_axes(box)
        high = 0.84 / len(series)
        for s, (values, colour) in enumerate(zip(series.values(), colours)):
            offset = (s - (len(series) - 1) / 2) * high
            edge = GREY if s == 0 else "none"
            axes.barh(np.arange(len(classes)) + offset, values[i], height=high, color=colour, edgecolor=edge, lw=0.5)
        axes.set_xlim(0, 1.01)
        axes.set_ylim(len(classes) - 0.5, -0.5)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100 %"], fontsize=6.5)
        axes.xaxis.tick_top()
        axes.grid(axis="x", color=LIGHT, lw=0.6)
        axes.set_axisbelow(True)
        clean(axes, "left")
        axes.tick_params(axis="both", length=0, pad=2)
        for s, (name, values) in enumerate(methods.items()):
            distance = 0.5 * np.abs(values[i] - target[i]).sum()
            y = (top - HEAD - tall - 0.05 - 0.15 * s) / height
            fig.text(box[0], y, f"{name}: total variation {distance:.2f}", va="top", fontsize=7, color=INK)
    _legend(fig, list(series), colours, height)
    save_figure(fig, path)


def _legend(fig: Any, names: list[str], colours: Sequence[str], height: float) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=c, edgecolor=GREY if i == 0 else "none") for i, c in enumerate(colours[: len(names)])]
    fig.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(0, 1 - 0.04 / height),
        ncols=len(names),
        frameon=False,
        fontsize=9,
        borderaxespad=0.1,
    )
