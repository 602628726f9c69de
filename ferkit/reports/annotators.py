"""What annotators call each true class, as far as a network has learned it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ferkit.reports._files import save_figure
from ferkit.reports._style import GREY, INK, clean, new_figure, note_empty, to_array

__all__ = ["plot_annotators"]

MOST_LABELLED = 16  # beyond so many classes the figures in the cells cannot be read


def plot_annotators(
    transition: Any, names: Sequence[str], classes: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """Draw one matrix an annotator, side by side: row = true class, column = the label given, in per cent.

    Args:
        transition: (S, C, C), 0 or more.
        names: of the S annotators.
        classes: C names.
        path: picture to write; it appears whole or not at all.

    Raises:
        ValueError: wrong shape, negative or non-finite shares.
    """
    size = len(classes)
    shares = 100 * to_array(transition, "transition", (len(names), size, size)).astype(np.float64)
    if shares.size and not (shares.min() >= 0 and shares.max() < np.inf):
        raise ValueError(
            f"transition: expected finite shares >= 0, got {shares.min() / 100:.4g}..{shares.max() / 100:.4g}"
        )
    side = max(2.8, 0.5 * min(size, 24))
    fig = new_figure(max(len(names), 1) * (side + 0.5) + 1.0, side + 1.4)
    if not len(names):
        note_empty(fig, "no annotator to show")
        save_figure(fig, path)
        return
    panels = fig.subplots(1, len(names), squeeze=False)[0]
    for axes, name, matrix in zip(panels, names, shares):
        axes.imshow(matrix, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(size), classes, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(size), classes if axes is panels[0] else [""] * size)
        axes.set_title(name, fontsize=11, loc="left")
        clean(axes)
        axes.tick_params(length=0)
        for i, j in np.ndindex(size, size) if size <= MOST_LABELLED else ():
            if matrix[i, j] >= 0.5:
                colour = "white" if matrix[i, j] > 55 else INK if matrix[i, j] >= 5 else GREY
                axes.text(j, i, f"{matrix[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    panels[0].set_ylabel("true class, as the network has it")
    panels[0].set_xlabel("label given (%)")
    fig.tight_layout()
    save_figure(fig, path, tight=True)
