"""One face in many batches: how steady its confidence and its rank are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ferkit.checks import check_number
from ferkit.reports._files import save_figure
from ferkit.reports._style import (
    BLUE,
    GREY,
    LIGHT,
    RED,
    check_texts,
    clean,
    frame,
    new_figure,
    note_empty,
    to_array,
    to_images,
)

__all__ = ["plot_anchors"]

COLOURS, ROW, RANKS = (BLUE, RED), 2.0, 36  # inches of a row; bars of ranks at most


def plot_anchors(
    images: Any,
    titles: Sequence[str],
    confidence: Any,
    rank: Any,
    batch_size: int,
    path: str | os.PathLike[str],
) -> None:
    """Draw each anchor beside histograms of its confidence and of its rank over the batches it was put in.

    Args:
        images: the anchors (A, 3, H, W) uint8.
        titles: a text an anchor.
        confidence: (A, B), in [0, 1], of each anchor in each batch.
        rank: (A, B) in its batch, 1 = the least confident.
        batch_size: images in a batch.
        path: picture to write; it appears whole or not at all.

    Raises:
        TypeError, ValueError: wrong dtype, shape or values.
    """
    faces = to_images(images)
    check_texts(titles, "titles", len(faces))
    sure = to_array(confidence, "confidence", (len(faces), "B")).astype(np.float64)
    place = to_array(rank, "rank", sure.shape).astype(np.float64)
    if sure.size and not (sure.min() >= 0 and sure.max() <= 1):
        raise ValueError(f"confidence: expected values in [0, 1], got {sure.min():.4g}..{sure.max():.4g}")
    check_number(batch_size, "batch_size", 1, integer=True)
    height = ROW * max(len(faces), 1) + 0.35
    fig = new_figure(8.2, height)
    if not sure.size:
        note_empty(fig, "no anchor to show")
        save_figure(fig, path)
        return
    caption = f"Each face in {sure.shape[1]} batches of {batch_size} that hold every class."
    fig.text(0.012, 1 - 0.09 / height, caption, va="top", fontsize=9, color=GREY)
    for i, face in enumerate(faces):
        bottom = (height - 0.35 - ROW * (i + 1) + 0.42) / height
        tall = 1.05 / height
        axes = fig.add_axes((0.015, bottom, 1.05 / 8.2, tall))
        axes.imshow(face, interpolation="bicubic")
        frame(axes, LIGHT, 0.6)
        fig.text(0.015, bottom + tall + 0.28 / height, titles[i], va="bottom", fontsize=8.5)
        edges = np.linspace(0, 1, 41)
        _histogram(fig.add_axes((0.22, bottom, 0.35, tall)), sure[i], edges, "confidence", COLOURS[i % 2], ".2f")
        step = -(-batch_size // RANKS)  # every bar of equally many ranks
        edges = np.arange(0.5, batch_size + 0.5 + step, step)
        _histogram(
            fig.add_axes((0.63, bottom, 0.35, tall)), place[i], edges, "rank, 1 = least sure", COLOURS[i % 2], ".0f"
        )
    save_figure(fig, path)


def _histogram(axes: Any, values: Any, edges: Any, name: str, colour: str, form: str) -> None:
    axes.hist(values, bins=edges, weights=np.full(len(values), 1 / len(values)), color=colour)
    axes.axvline(np.median(values), color=GREY, lw=1, ls=":")
    low, middle, high = np.percentile(values, (10, 50, 90))
    text = f"median {middle:{form}}, 80 % in {low:{form}} to {high:{form}}"
    axes.set_title(text, fontsize=7.5, loc="left", pad=3)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(name, fontsize=7.5, labelpad=1)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=7)
    clean(axes, "bottom")
