"""Plots of a study: every seed as a point, so that a mean is never seen without its spread."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ferkit.reports._files import save_figure
from ferkit.reports._style import BLUE, GREEN, GREY, INK, LIGHT, ORANGE, RED, clean, new_figure, note_empty
from ferkit.reports.study import FIGURES, BySeed

__all__ = ["plot_sweep", "plot_variants"]

WIDE = 4  # panels beside each other
COLOURS, MARKERS = (BLUE, RED, GREEN, ORANGE), ("o", "s", "^", "D")


def plot_variants(
    rows: Mapping[str, BySeed],
    baseline: str | None,
    figures: Sequence[str],
    path: str | os.PathLike[str],
) -> None:
    """Draw a row a variant and a panel a figure: a point a seed, a bar at the mean.

    Args:
        rows: by name of the variant, figures by seed.
        baseline: the row whose mean is drawn through as a dotted line.
        figures: of ``ferkit.reports.study.FIGURES``; those that no run has have no panel.
        path: picture to write; it appears whole or not at all.
    """
    shown = _known(figures, rows.values())
    names = 0.075 * max((len(name) for name in rows), default=0)
    wide = len(shown) if len(shown) <= WIDE else WIDE - 1
    lines = max(-(-len(shown) // max(wide, 1)), 1)
    fig = new_figure(names + 2.3 * max(wide, 1), lines * (0.75 + 0.27 * len(rows)))
    if not shown:
        note_empty(fig, "no finished run")
    first = None
    for place, figure in enumerate(shown):
        axes = first = fig.add_subplot(lines, wide, place + 1, sharey=first)
        mean = None if baseline is None else _mean(rows[baseline], figure)
        if mean is not None:
            axes.axvline(mean, color=GREY, lw=0.9, ls=":", zorder=1)
        for row, runs in enumerate(rows.values()):
            values = _values(runs, figure)
            shift = [0.09 * (i - (len(values) - 1) / 2) for i in range(len(values))]  # equal points stay apart
            axes.plot(values, [row + d for d in shift], "o", color=BLUE, ms=4, alpha=0.75, zorder=3)
            if values:
                middle = statistics.fmean(values)
                axes.plot([middle, middle], [row - 0.33, row + 0.33], "-", color=INK, lw=1.6, zorder=2)
        axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(FIGURES[figure].heading.replace("↑", "→").replace("↓", "←"), fontsize=8.5)
        axes.tick_params(axis="x", labelsize=7.5)
        axes.tick_params(axis="y", labelleft=place % wide == 0)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="y", color=LIGHT, lw=0.6)
        axes.set_axisbelow(True)
        clean(axes, "left", "bottom")
    fig.tight_layout()
    save_figure(fig, path)


def plot_sweep(
    option: str,
    series: Mapping[str, Mapping[float, BySeed]],
    figures: Sequence[str],
    path: str | os.PathLike[str],
    own: float | None = None,
    reference: tuple[str, BySeed] | None = None,
) -> None:
    """Draw figures against an option's values: a point a seed, a line through the means.

    Args:
        option: what is varied.
        series: by name of the method (at most 4), figures by seed for each value of the option.
        figures: of ``ferkit.reports.study.FIGURES``; those that no run has have no panel.
        path: picture to write; it appears whole or not at all.
        own: the value that the study has elsewhere, marked on the axis.
        reference: name and figures by seed of a method without the option: a grey line at its mean, and its range.
    """
    if not 1 <= len(series) <= len(COLOURS):
        raise ValueError(f"series: expected 1 to {len(COLOURS)} methods, got {len(series)}")
    values = sorted({value for points in series.values() for value in points})
    shown = _known(figures, [runs for points in series.values() for runs in points.values()])
    fig = new_figure(2.75 * max(len(shown), 1) + 0.2, 3.0)
    if not shown:
        note_empty(fig, "no finished run")
    for place, figure in enumerate(shown):
        axes = fig.add_subplot(1, len(shown), place + 1)
        _reference(axes, reference, figure)
        for (name, points), colour, marker in zip(series.items(), COLOURS, MARKERS):
            seen = {value: _values(points[value], figure) for value in values if value in points}
            seen = {value: each for value, each in seen.items() if each}
            for value, each in seen.items():
                axes.plot([value] * len(each), each, marker, color=colour, ms=3.5, alpha=0.55, lw=0)
            axes.plot(list(seen), [statistics.fmean(each) for each in seen.values()], color=colour, lw=1.6, label=name)
        if min(values) > 0 and max(values) >= 8 * min(values):
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values], fontsize=7.5)
        axes.minorticks_off()
        for tick, value in zip(axes.get_xticklabels(), values):
            tick.set_fontweight("bold" if value == own else "normal")
        axes.set_xlabel(option, fontsize=9)
        axes.set_title(FIGURES[figure].heading, fontsize=9, loc="left")
        axes.tick_params(axis="y", labelsize=7.5)
        axes.grid(axis="y", color=LIGHT, lw=0.7)
        axes.set_axisbelow(True)
        clean(axes, "left", "bottom")
        if place == 0:
            axes.legend(frameon=False, fontsize=8)
    fig.tight_layout()
    save_figure(fig, path)


def _reference(axes: Any, reference: tuple[str, BySeed] | None, figure: str) -> None:
    values = [] if reference is None else _values(reference[1], figure)
    if reference is None or not values:
        return
    axes.axhspan(min(values), max(values), color=LIGHT, alpha=0.6, lw=0)
    axes.axhline(statistics.fmean(values), color=GREY, lw=1.1, ls="--", label=reference[0])


def _known(figures: Sequence[str], rows: Any) -> list[str]:
    every = list(rows)
    return [figure for figure in figures if any(_values(runs, figure) for runs in every)]


def _values(runs: BySeed, figure: str) -> list[float]:
    return [run[figure] for run in runs.values() if math.isfinite(run.get(figure, math.nan))]


def _mean(runs: BySeed, figure: str) -> float | None:
    values = _values(runs, figure)
    return statistics.fmean(values) if values else None
