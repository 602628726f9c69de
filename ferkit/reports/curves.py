"""Learning curves from the metrics.csv of a run."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path

from ferkit.reports._files import save_figure
from ferkit.reports._style import BLUE, LIGHT, RED, clean, new_figure, note_empty

__all__ = ["plot_curves", "read_curves"]

SHARES = ("accuracy", "acc", "auc", "f1")
STYLES = {"train_{}": ("training", BLUE, "o", "-"), "val_{}": ("validation", RED, "s", "--")}
GAME = {"train_discriminator": ("discriminator", BLUE, "o", "-"), "train_generator": ("generator", RED, "s", "--")}


def read_curves(metrics_csv: str | os.PathLike[str]) -> dict[str, dict[int, float]]:
    """Read a Lightning metrics.csv into {column: {epoch: value}}; several values in an epoch are averaged.

    Blank cells and rows without an epoch are left out. ``train_loss_epoch`` stands in for ``train_loss``.

    Raises:
        ValueError: no ``epoch`` column, or a cell that is no number (the message names file, line and column).
    """
    found: dict[str, dict[int, list[float]]] = {}
    with open(metrics_csv, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "epoch" not in (reader.fieldnames or ()):
            raise ValueError(f"metrics_csv: expected a column 'epoch' in {metrics_csv}, got {reader.fieldnames}")
        for row in reader:
            if not row["epoch"]:
                continue
            for name, text in row.items():
                if name is None or name in ("epoch", "step") or not text:
                    continue
                try:
                    found.setdefault(name, {}).setdefault(int(float(row["epoch"])), []).append(float(text))
                except ValueError:
                    where = f"{metrics_csv}, line {reader.line_num}, column {name!r}"
                    raise ValueError(f"metrics_csv: expected numbers, got {text!r} in {where}") from None
    curves = {name: {e: sum(v) / len(v) for e, v in epochs.items()} for name, epochs in found.items()}
    for name in [n for n in curves if n.endswith("_epoch")]:
        curves.setdefault(name.removesuffix("_epoch"), curves[name])
    return curves


def plot_curves(
    metrics_csv: str | os.PathLike[str],
    path: str | os.PathLike[str],
    metrics: Sequence[str] = ("loss", "accuracy", "game"),
) -> None:
    """Draw training and validation values by epoch, a panel a metric, from a Lightning ``metrics.csv``.

    Columns are ``train_<metric>`` and ``val_<metric>``; of "game", the losses of the two sides of adversarial training,
    ``train_discriminator`` and ``train_generator``. A metric without a column has no panel. Epochs are counted from 1.
    Accuracies are in per cent; a loss that spans more than a factor of 30 gets a logarithmic axis.

    Args:
        metrics_csv: file with ``epoch`` and blanks where a row has no value.
        path: picture to write; it appears whole or not at all.
        metrics: what to draw.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    curves = read_curves(metrics_csv)
    styles = {m: GAME if m == "game" else {name.format(m): style for name, style in STYLES.items()} for m in metrics}
    panels = [m for m in metrics if any(name in curves for name in styles[m])]
    fig = new_figure(4.6 * max(1, len(panels)), 3.3)
    if not panels:
        note_empty(fig, f"no {' or '.join(m for m in metrics if m != 'game')} in {Path(metrics_csv).name}")
    for position, metric in enumerate(panels):
        axes = fig.add_subplot(1, len(panels), position + 1)
        percent = metric.lower().endswith(SHARES)
        drawn: list[float] = []
        for name, (label, colour, marker, line) in styles[metric].items():
            curve = sorted(curves.get(name, {}).items())
            if not curve:
                continue
            values = [100 * v if percent else v for _, v in curve]
            drawn += [v for v in values if math.isfinite(v)]
            axes.plot([e + 1 for e, _ in curve], values, line, color=colour, marker=marker, ms=3.5, lw=1.6, label=label)
        log = bool(drawn) and not percent and min(drawn) > 0 and max(drawn) > 30 * min(drawn)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("epoch")
        what = "adversarial loss" if metric == "game" else metric
        axes.set_ylabel(f"{what} (%)" if percent else f"{what} (logarithmic)" if log else what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=LIGHT, lw=0.7)
        axes.set_axisbelow(True)
        clean(axes, "left", "bottom")
        axes.legend(frameon=False, fontsize=9)
    fig.tight_layout()
    save_figure(fig, path)
