"""Colours, figures and input checks that all pictures share. matplotlib is imported only when a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any kind of colour vision.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, GREY, LIGHT = "#222222", "#767676", "#DDDDDD"


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches on the Agg canvas; pyplot and its global state are never touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height))
    FigureCanvasAgg(fig)
    return fig


def clean(axes: Axes, *keep: str) -> None:
    """Leave only the spines named in ``keep``, in grey, and small quiet ticks."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in keep)
        spine.set_color(GREY)
    axes.tick_params(length=2, color=GREY, labelcolor=INK)


def frame(axes: Axes, colour: str, width: float) -> None:
    """Show a frame and nothing else around an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(width)


def to_array(value: Any, name: str, shape: Sequence[int | str]) -> np.ndarray[Any, Any]:
    """A tensor or array-like as a numpy array of the given shape (a string names a free size)."""
    array: np.ndarray[Any, Any] = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim != len(shape) or any(isinstance(w, int) and h != w for h, w in zip(array.shape, shape)):
        want = ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name}: expected shape ({want}), got {array.shape}")
    return array


def to_images(value: Any, size: int | str = "N", name: str = "images") -> np.ndarray[Any, Any]:
    """Images (N, 3, H, W) uint8 as (N, H, W, 3)."""
    array = to_array(value, name, (size, 3, "H", "W"))
    if array.dtype != np.uint8:
        raise TypeError(f"{name}: expected dtype uint8, got {array.dtype}")
    images: np.ndarray[Any, Any] = array.transpose(0, 2, 3, 1)
    return images


def to_distributions(value: Any, name: str, size: int | str, classes: Sequence[str]) -> np.ndarray[Any, Any]:
    """Distributions (N, C), finite and in [0, 1], as float64."""
    array = to_array(value, name, (size, len(classes))).astype(np.float64)
    if array.size and not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):  # NaN fails too
        raise ValueError(f"{name}: expected values in [0, 1], got {array.min():.4g}..{array.max():.4g}")
    return array


def to_labels(value: Any, name: str, size: int, classes: Sequence[str]) -> list[int]:
    """Labels (N,) in -1..C-1 as a list."""
    array = to_array(value, name, (size,))
    if array.size and not (array.min() >= -1 and array.max() < len(classes)):
        raise ValueError(
            f"{name}: expected values in 0..{len(classes) - 1} or -1 (unlabelled), got {array.min()}..{array.max()}"
        )
    return [int(label) for label in array]


def check_texts(value: Sequence[str] | None, name: str, size: int) -> Sequence[str] | None:
    """One text an image, or none at all."""
    if value is not None and len(value) != size:
        raise ValueError(f"{name}: expected {size} texts, one an image, got {len(value)}")
    return value


def names_width(classes: Sequence[str], size: float = 6.5) -> float:
    """Inches that the longest class name takes left of its bar."""
    return 0.17 + 0.0093 * size * max((len(name) for name in classes), default=0)


def note_empty(fig: Figure, text: str) -> None:
    """Say in the picture that there was nothing to draw."""
    fig.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=10)


def draw_bars(
    axes: Axes,
    values: np.ndarray[Any, Any],
    classes: Sequence[str],
    colours: Sequence[str],
    *,
    names: bool = True,
    size: float = 6.5,
) -> None:
    """One horizontal bar a class from 0 to 1, the first class on top, its share in per cent beside it."""
    rows = range(len(classes))
    axes.barh(rows, values, height=0.72, color=list(colours))
    for row, value in zip(rows, values):
        if value >= 0.005:
            axes.text(value + 0.03, row, f"{100 * value:.0f} %", va="center", fontsize=size, color=INK)
    axes.set_xlim(0, 1.28)  # room for the figures to the right of a full bar
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(rows, classes if names else [""] * len(classes), fontsize=size)
    clean(axes, "left")
    axes.tick_params(axis="y", length=0, pad=2)
