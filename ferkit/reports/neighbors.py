"""Pictures of a graph: its space as a plane coloured by expression, and faces beside their neighbours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ferkit.checks import check_number
from ferkit.reports._files import save_figure
from ferkit.reports._style import GREY, LIGHT, frame, new_figure, note_empty, to_array, to_images, to_labels

__all__ = ["neighbor_sheet", "plot_space"]

# Okabe and Ito's eight, then three more for data with further classes.
COLOURS = ("#999999", "#E69F00", "#0072B2", "#56B4E9", "#CC79A7", "#009E73", "#D55E00", "#222222")
FACE, GAP, TITLE = 0.95, 0.08, 0.30  # inches


def plot_space(
    position: Any,
    path: str | os.PathLike[str],
    labels: Any = None,
    classes: Sequence[str] = (),
    title: str = "",
) -> None:
    """Scatter points of the plane, coloured by class (as in figures 3 and 4 of Chen et al., CVPR 2020).

    Args:
        position: (N, 2).
        path: picture to write; it appears whole or not at all.
        labels: int (N,), -1 (unlabelled) in light grey; all grey if not given.
        classes: names of the classes.
        title: a line above.

    Raises:
        ValueError: wrong shapes, or a label outside the classes.
    """
    points = to_array(position, "position", ("N", 2))
    fig = new_figure(6.4, 5.2)
    if not len(points):
        note_empty(fig, "no row to show")
        save_figure(fig, path)
        return
    axes = fig.add_axes((0.02, 0.02, 0.76, 0.90))
    shade = np.array(to_labels(labels, "labels", len(points), classes) if labels is not None else [-1] * len(points))
    size = float(np.clip(9000 / len(points), 3, 22))
    for label in range(-1, len(classes)):
        chosen = points[shade == label]
        if not len(chosen):
            continue
        colour = (LIGHT if classes else GREY) if label < 0 else COLOURS[label % len(COLOURS)]
        marker = "o" if label < len(COLOURS) else "^"
        name = "unlabelled" if label < 0 else f"{classes[label]} ({len(chosen)})"
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=size,
            c=colour,
            marker=marker,
            linewidths=0,
            alpha=0.8,
            label=name,
            zorder=2 + label,
        )
    frame(axes, LIGHT, 0.6)
    axes.set_title(title, fontsize=9, loc="left")
    if classes:
        fig.legend(*axes.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(0.79, 0.5), frameon=False,
                   fontsize=8, markerscale=max(1.0, 5 / size**0.5), handletextpad=0.2)  # fmt: skip
    save_figure(fig, path)


def neighbor_sheet(
    centres: Any,
    neighbors: Any,
    path: str | os.PathLike[str],
    centre_titles: Sequence[str],
    titles: Sequence[Sequence[str]],
    agree: Any = None,
) -> None:
    """Write one row a face: the centre, then its neighbours, nearest first.

    Args:
        centres: (N, 3, H, W) uint8.
        neighbors: N sequences of up to K such images (3, H, W); an absent neighbour is None.
        path: picture to write; it appears whole or not at all.
        centre_titles: N short texts.
        titles: N times up to K short texts.
        agree: bool (N, K): green frames where true, red where false; no frames if not given.

    Raises:
        TypeError, ValueError: wrong dtype, shape or number of texts.
    """
    faces = to_images(centres, name="centres")
    for name, value in (("neighbors", neighbors), ("centre_titles", centre_titles), ("titles", titles)):
        if len(value) != len(faces):
            raise ValueError(f"{name}: expected {len(faces)} rows, one a centre, got {len(value)}")
    width = max((len(row) for row in neighbors), default=0)
    if not len(faces):
        fig = new_figure(3, 1)
        note_empty(fig, "no face to show")
        save_figure(fig, path)
        return
    check_number(width, "neighbors", 0, 100, integer=True)
    tall = FACE * faces.shape[1] / faces.shape[2]
    wide, high = (width + 1) * (FACE + GAP) + 3 * GAP, len(faces) * (tall + TITLE + GAP) + GAP
    fig = new_figure(wide, high)
    for row, face in enumerate(faces):
        bottom = high - (row + 1) * (tall + TITLE + GAP)
        cells = [(0, face, centre_titles[row], "#222222")]
        for column, image in enumerate(neighbors[row]):
            if image is None:
                continue
            one = to_images(np.asarray(image)[None], 1, "neighbors")[0]
            colour = LIGHT if agree is None else ("#009E73" if bool(agree[row][column]) else "#D55E00")
            cells.append((column + 1, one, titles[row][column], colour))
        for column, image, text, colour in cells:
            left = GAP + column * (FACE + GAP) + (2 * GAP if column else 0)
            axes = fig.add_axes((left / wide, bottom / high, FACE / wide, tall / high))
            axes.imshow(image, interpolation="bicubic", aspect="auto")
            frame(axes, colour, 1.6 if column == 0 or agree is not None else 0.6)
            axes.set_title(text, fontsize=6.5, pad=2.5, linespacing=1.05)
    save_figure(fig, path)
