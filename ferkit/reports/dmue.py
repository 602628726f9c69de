"""The sheet that shows what DMUE mined: faces with given label, latent distribution and confidence."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
    RED,
    draw_bars,
    frame,
    names_width,
    new_figure,
    note_empty,
    to_array,
    to_distributions,
    to_images,
    to_labels,
)

__all__ = ["dmue_sheet"]

FACE, BARS, LINE, HEAD, FOOT, GAP = 1.2, 1.25, 0.16, 0.40, 0.46, 0.25  # inches


def dmue_sheet(
    images: Any,
    given_labels: Any,
    distributions: Any,
    confidence: Any,
    classes: Sequence[str],
    path: str | os.PathLike[str],
    true_labels: Any = None,
    columns: int = 4,
) -> None:
    """Write a sheet of training faces, each with its given label, mined distribution and confidence.

    Where the true label is known, a wrong given label is said in words, in another colour and by a thick frame, and
    the name and bar of the true class are green, with an arrow before the name. The bar of the given class is empty by
    construction when the distribution was mined by leaving that class out.

    Args:
        images: (N, 3, H, W) uint8.
        given_labels: (N,) labels as trained on, -1 = unlabelled.
        distributions: mined distributions (N, C), in [0, 1].
        confidence: (N,) in [0, 1].
        classes: C names.
        path: picture to write; it appears whole or not at all.
        true_labels: (N,) where known, -1 = not known.
        columns: faces a row.

    Raises:
        TypeError, ValueError: wrong dtype, shape or values.
    """
    faces = to_images(images)
    n = len(faces)
    given = to_labels(given_labels, "given_labels", n, classes)
    true = [-1] * n if true_labels is None else to_labels(true_labels, "true_labels", n, classes)
    mined = to_distributions(distributions, "distributions", n, classes)
    sure = to_array(confidence, "confidence", (n,)).astype(np.float64)
    if n and not (sure.min() >= 0 and sure.max() <= 1):
        raise ValueError(f"confidence: expected values in [0, 1], got {sure.min():.4g}..{sure.max():.4g}")
    check_number(columns, "columns", 1, 100, integer=True)

    columns = max(1, min(columns, n))
    rows = max(1, -(-n // columns))
    tall = max(FACE, 0.15 * len(classes))
    names = names_width([*classes, "▸ "]) + 0.1
    cell_width, cell = FACE + names + BARS + GAP, HEAD + tall + FOOT
    width, height = max(7.1, columns * cell_width + 0.1), rows * cell + 0.40
    fig = new_figure(width, height)
    fig.text(0.1 / width, 1 - 0.12 / height, _caption(given, true), va="top", fontsize=9, color=GREY)
    if not n:
        note_empty(fig, "no face to show")

    def place(left: float, top: float, wide: float, high: float) -> Any:
        return fig.add_axes((left / width, (top - high) / height, wide / width, high / height))

    for i in range(n):
        left, top = (i % columns) * cell_width + 0.12, height - 0.38 - (i // columns) * cell
        wrong = true[i] >= 0 and given[i] >= 0 and given[i] != true[i]
        _heading(fig, left / width, (top - HEAD + 0.07) / height, LINE / height, given[i], true[i], classes)
        axes = place(left, top - HEAD, FACE, FACE)
        axes.imshow(faces[i], interpolation="bicubic")
        frame(axes, RED if wrong else LIGHT, 2.5 if wrong else 0.6)
        axes = place(left + FACE + names, top - HEAD, BARS, tall)
        news = true[i] if true[i] != given[i] else -1  # the true class, where the given label does not tell it
        marked = [f"▸ {name}" if k == news else name for k, name in enumerate(classes)]
        draw_bars(axes, mined[i], marked, [GREEN if k == news else BLUE for k in range(len(classes))])
        for k, text in enumerate(axes.get_yticklabels()):
            if k == given[i]:
                text.set_fontweight("bold")
            if k == news or (k == given[i] and wrong):
                text.set_color(GREEN if k == news else RED)
        _confidence(place(left, top - HEAD - FACE - 0.19, FACE, 0.07), float(sure[i]))
    save_figure(fig, path)


def _caption(given: list[int], true: list[int]) -> str:
    text = "Bars: mined distribution. Bold: given label."
    known = [(g, t) for g, t in zip(given, true) if g >= 0 and t >= 0]
    if known:
        text += (
            f" ▸ and green: true label where the given one is wrong ({sum(g != t for g, t in known)} of {len(known)})."
        )
    return text


def _heading(fig: Any, x: float, y: float, line: float, given: int, true: int, classes: Sequence[str]) -> None:
    """One or two lines that end just above the face."""
    first = f"given: {classes[given]}" if given >= 0 else "no label"
    wrong = true >= 0 and given >= 0 and given != true
    colour = RED if wrong else INK
    if wrong:
        first += "  ✗ wrong"
    elif true >= 0 and given >= 0:
        first += "  ✓"
    second = f"true: {classes[true]}" if true >= 0 and given != true else ""
    fig.text(
        x,
        y + line * bool(second),
        first,
        va="baseline",
        fontsize=8.5,
        color=colour,
        fontweight="bold" if wrong else "normal",
    )
    fig.text(x, y, second, va="baseline", fontsize=8.5, color=GREEN, fontweight="bold")


def _confidence(axes: Any, value: float) -> None:
    axes.barh([0], [1], height=1, color=LIGHT)
    axes.barh([0], [value], height=1, color=GREY)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, 0.5)
    axes.set_axis_off()
    axes.text(0, 0.9, f"confidence {value:.2f}", va="bottom", fontsize=7, color=INK)
