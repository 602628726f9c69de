"""The same curves of several variants over the epochs, such as the losses with and without a term."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence

from ferkit.reports._files import save_figure
from ferkit.reports._style import BLUE, GREEN, LIGHT, ORANGE, RED, clean, new_figure, note_empty
from ferkit.reports.curves import read_curves

__all__ = ["plot_compared_curves"]

STYLES = ((BLUE, "-"), (RED, "--"), (GREEN, "-."), (ORANGE, ":"))


def plot_compared_curves(
    runs: Mapping[str, Sequence[str | os.PathLike[str]]],
    columns: Mapping[str, str],
    path: str | os.PathLike[str],
) -> None:
    """Draw a panel a column of ``metrics.csv``: a thin line a seed, a thick one through the means of a variant.

    Args:
        runs: by name of the variant (at most 4) the ``metrics.csv`` of its seeds.
        columns: column to heading; one that no file has has no panel. Epochs are counted from 1.
        path: picture to write; it appears whole or not at all.

    Raises:
        ValueError: no variant or more than 4, a file that :func:`~ferkit.reports.curves.read_curves` refuses.
    """
    from matplotlib.ticker import MaxNLocator

    if not 1 <= len(runs) <= len(STYLES):
        raise ValueError(f"runs: expected 1 to {len(STYLES)} variants, got {len(runs)}")
    curves = {name: [read_curves(file) for file in files] for name, files in runs.items()}
    shown = [column for column in columns if any(column in seed for seeds in curves.values() for seed in seeds)]
    fig = new_figure(3.1 * max(len(shown), 1), 3.0)
    if not shown:
        note_empty(fig, "no such column")
    for place, column in enumerate(shown):
        axes = fig.add_subplot(1, len(shown), place + 1)
        for (name, seeds), (colour, line) in zip(curves.items(), STYLES):
            found = [seed[column] for seed in seeds if column in seed]
            for each in found:
                axes.plot([e + 1 for e in each], list(each.values()), line, color=colour, lw=0.7, alpha=0.4)
            epochs = sorted(set.intersection(*(set(each) for each in found))) if found else []
            means = [statistics.fmean(each[e] for each in found) for e in epochs]
            axes.plot([e + 1 for e in epochs], means, line, color=colour, lw=1.9, label=name)
        drawn = [v for seeds in curves.values() for s in seeds for v in s.get(column, {}).values() if math.isfinite(v)]
        if drawn and min(drawn) > 0 and max(drawn) > 30 * min(drawn):
            axes.set_yscale("log")
        axes.set_title(columns[column], fontsize=9, loc="left")
        axes.set_xlabel("epoch", fontsize=9)
        axes.tick_params(labelsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="y", color=LIGHT, lw=0.7)
        axes.set_axisbelow(True)
        clean(axes, "left", "bottom")
        if place == 0:
            axes.legend(frameon=False, fontsize=8)
    fig.tight_layout()
    save_figure(fig, path)
