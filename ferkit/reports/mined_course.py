"""How the mined distributions of some faces came about: shares by epoch, beside the votes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ferkit.reports._files import save_figure
from ferkit.reports._style import (
    GREEN,
    GREY,
    INK,
    LIGHT,
    RED,
    frame,
    names_width,
    new_figure,
    note_empty,
    to_array,
    to_distributions,
    to_images,
    to_labels,
)

__all__ = ["plot_mined_course"]

FACE, COURSE, VOTES, TALL, HEAD, FOOT, GAP = 1.15, 2.3, 0.2, 1.2, 0.3, 0.38, 0.3  # inches


def plot_mined_course(
    shares: Any,
    epochs: Any,
    images: Any,
    labels: Any,
    classes: Sequence[str],
    path: str | os.PathLike[str],
    true_labels: Any = None,
    votes: Any = None,
    columns: int = 2,
) -> None:
    """Draw each face beside its mined distribution by epoch, dark for a large share; at the right what people voted.

    The given label is bold, red where it is wrong; the true label is then green, with an arrow.

    Args:
        shares: mined distributions (E, N, C), in [0, 1].
        epochs: epochs (E,) after which they were mined, 0 before training.
        images: (N, 3, H, W) uint8.
        labels: given labels (N,).
        classes: C names.
        path: picture to write; it appears whole or not at all.
        true_labels: (N,) where known, -1 = not known.
        votes: distributions (N, C) over the classes other than the given one; a row of 0 is left blank.
        columns: faces a row.

    Raises:
        TypeError, ValueError: wrong dtype, shape or values.
    """
    faces = to_images(images)
    n = len(faces)
    given = to_labels(labels, "labels", n, classes)
    true = [-1] * n if true_labels is None else to_labels(true_labels, "true_labels", n, classes)
    course = to_array(shares, "shares", ("E", n, len(classes))).astype(np.float64)
    times = to_array(epochs, "epochs", (len(course),)).tolist()
    voted = None if votes is None else to_distributions(votes, "votes", n, classes)
    columns = max(1, min(columns, n))
    rows, names = max(1, -(-n // columns)), names_width([*classes, "▸ "], 7)
    wide = FACE + names + COURSE + (VOTES + 0.08 if voted is not None else 0) + GAP
    cell = HEAD + TALL + FOOT
    width, height = columns * wide + 0.2, rows * cell + 0.35
    fig = new_figure(width, height)
    fig.text(0.1 / width, 1 - 0.1 / height, _caption(voted is not None), va="top", fontsize=8.5, color=GREY)
    if not n or not len(course):
        note_empty(fig, "no face to show")
        save_figure(fig, path)
        return

    def place(left: float, top: float, across: float) -> Any:
        return fig.add_axes((left / width, (top - TALL) / height, across / width, TALL / height))

    for i in range(n):
        left, top = (i % columns) * wide + 0.12, height - 0.3 - (i // columns) * cell - HEAD
        wrong = true[i] >= 0 and given[i] >= 0 and given[i] != true[i]
        picture = place(left, top, FACE)
        picture.imshow(faces[i], interpolation="bicubic")
        frame(picture, RED if wrong else LIGHT, 2.0 if wrong else 0.6)
        axes = place(left + FACE + names, top, COURSE)
        _shade(axes, course[:, i].T)
        marked = [f"▸ {name}" if wrong and k == true[i] else name for k, name in enumerate(classes)]
        axes.set_yticks(range(len(classes)), marked, fontsize=7)
        for k, text in enumerate(axes.get_yticklabels()):
            text.set_fontweight("bold" if k == given[i] else "normal")
            text.set_color(RED if wrong and k == given[i] else GREEN if wrong and k == true[i] else INK)
        some = sorted({0, len(times) // 2, len(times) - 1})
        axes.set_xticks(some, [f"{times[t]:g}" for t in some], fontsize=7)
        axes.set_xlabel("epoch", fontsize=7, labelpad=1)
        if voted is not None and voted[i].sum() > 0:
            axes = place(left + FACE + names + COURSE + 0.08, top, VOTES)
            _shade(axes, voted[i][:, None])
            axes.set_yticks([])
            axes.set_xticks([0], ["votes"], fontsize=7)
    save_figure(fig, path)


def _caption(voted: bool) -> str:
    text = "Mined distribution by epoch: white 0, black 1. Bold: given label, red if wrong; ▸ true label."
    return text + (" Right: votes, the given class left out." if voted else "")


def _shade(axes: Any, values: Any) -> None:
    axes.imshow(values, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_color(LIGHT)
