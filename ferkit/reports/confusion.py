"""Confusion matrix: shares of each true class, with the counts behind them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ferkit.reports._files import save_figure
from ferkit.reports._style import GREY, INK, clean, new_figure, to_array

__all__ = ["plot_confusion"]

MOST_LABELLED = 16  # beyond so many classes the figures in the cells cannot be read


def plot_confusion(
    matrix: Any,
    classes: Sequence[str],
    path: str | os.PathLike[str],
    title: str | None = None,
) -> None:
    """Draw a confusion matrix: colour and figure are the share of the true class, the count stands below.

    Args:
        matrix: counts (C, C), row = true class, column = predicted class (torchmetrics' ConfusionMatrix).
        classes: C names.
        path: picture to write; it appears whole or not at all.
        title: text above the picture.

    Raises:
        ValueError: wrong shape, negative or non-finite counts.
    """
    size = len(classes)
    counts = to_array(matrix, "matrix", (size, size)).astype(np.float64)
    if counts.size and not (counts.min() >= 0 and counts.max() < np.inf):
        raise ValueError(f"matrix: expected finite counts >= 0, got {counts.min():.4g}..{counts.max():.4g}")
    support = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, support, out=np.full_like(counts, np.nan), where=support > 0)

    side = max(3.2, 0.62 * min(size, 24))
    fig = new_figure(side + 2.4, side + 1.2)
    axes = fig.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(size), classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), [f"{name} ({int(n)})" for name, n in zip(classes, support[:, 0])])
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (faces)")
    clean(axes)
    axes.tick_params(length=0)
    if size <= MOST_LABELLED:
        for i in range(size):
            if support[i, 0] == 0:
                axes.text((size - 1) / 2, i, "no face of this class", ha="center", va="center", color=GREY, fontsize=8)
                continue
            for j in range(size):
                if counts[i, j]:
                    colour = "white" if shares[i, j] > 55 else INK
                    share = f"{shares[i, j]:.0f} %" if shares[i, j] >= 0.5 else "< 1 %"
                    axes.text(j, i - 0.13, share, ha="center", va="center", color=colour, fontsize=9)
                    axes.text(j, i + 0.24, f"{counts[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=6.5)
    bar = fig.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class (%)")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, color=GREY)
    if title:
        axes.set_title(title, fontsize=11, loc="left")
    fig.tight_layout()
    save_figure(fig, path, tight=True)  # long class names with their counts reach past the figure
