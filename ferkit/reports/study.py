"""Tables of a study: variants against a baseline with the same seeds, and what each part does by itself."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ferkit.checks import check_choice
from ferkit.reports.tables import MISSING, comparison_table, spread

__all__ = ["FIGURES", "Figure", "ahead", "effects", "effects_table", "paired", "study_csv", "study_table"]

BySeed = Mapping[int, Mapping[str, float]]  # seed -> figure -> value


class Figure(NamedTuple):
    """How a figure of a run is shown, and which way is better."""

    heading: str
    higher_is_better: bool = True


FIGURES = {
    "accuracy": Figure("accuracy ↑"),
    "mean_class_accuracy": Figure("mean class accuracy ↑"),
    "total_variation": Figure("total variation ↓", False),
    "kl": Figure("KL (nats) ↓", False),
    "jeffreys": Figure("Jeffreys (nats) ↓", False),
    "flip_auc": Figure("area (wrong labels) ↑"),
    "flips_as_given": Figure("flips predicted as given ↓", False),
    "flips_as_true": Figure("flips predicted as true ↑"),
    "right_as_given": Figure("right labels predicted as given ↑"),
    "confidence_auc": Figure("area of confidence ↑"),
    "mined_as_true": Figure("flips mined as true ↑"),
    "mined_total_variation": Figure("mined: total variation ↓", False),
    "mined_kl": Figure("mined: KL (nats) ↓", False),
}


def paired(runs: BySeed, baseline: BySeed, figure: str) -> dict[int, float]:
    """Differences from the baseline's run of the same seed, where both are known."""
    seeds = [seed for seed in runs if seed in baseline]
    values = {seed: runs[seed].get(figure, math.nan) - baseline[seed].get(figure, math.nan) for seed in seeds}
    return {seed: value for seed, value in values.items() if math.isfinite(value)}


def ahead(differences: Mapping[int, float], figure: str) -> str:
    """``▲`` if better in each of at least two seeds, ``▼`` if worse in each, else nothing."""
    signs = {math.copysign(1, value) if value else 0 for value in differences.values()}
    if len(differences) < 2 or len(signs) > 1 or 0 in signs:
        return ""
    return "▲" if (signs == {1.0}) == FIGURES[figure].higher_is_better else "▼"


def study_table(
    rows: Mapping[str, BySeed],
    baseline: BySeed,
    figures: Sequence[str],
    names: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """A Markdown table with a row a variant: mean ± standard deviation over its seeds.

    A mark says that the variant was ahead of (``▲``) or behind (``▼``) the baseline in each seed that both have; with
    one seed there is none, nor where one of its seeds is undefined. Where the rows have different seeds, a column says
    which.

    Args:
        rows: by heading of the row, figures by seed.
        baseline: what the rows are compared with, seed by seed.
        figures: of ``FIGURES``.
        names: further columns of text by heading, each from a row's heading to its text.

    Raises:
        ValueError: an unknown figure.

    >>> runs = {0: {"accuracy": 0.62}, 1: {"accuracy": 0.64}}
    >>> print(study_table({"dmue": runs}, {0: {"accuracy": 0.6}, 1: {"accuracy": 0.63}}, ["accuracy"]))
    | variant | accuracy ↑      |
    |---------|-----------------|
    | dmue    | 0.630 ± 0.014 ▲ |
    """
    for figure in figures:
        check_choice(figure, "figures", tuple(FIGURES))
    known = {name for runs in rows.values() for run in runs.values() for name in run if math.isfinite(run[name])}
    shown = [figure for figure in figures if figure in known]
    lines = []
    texts = dict(names or {})
    if len({frozenset(runs) for runs in rows.values()}) > 1:  # a study that is not finished
        texts["seeds"] = {name: ", ".join(map(str, runs)) or MISSING for name, runs in rows.items()}
    for name, runs in rows.items():
        line = {"variant": name} | {key: text.get(name, "") for key, text in texts.items()}
        for figure in shown:
            values = [run[figure] for run in runs.values() if figure in run]
            mark = ahead(paired(runs, baseline, figure), figure) if all(map(math.isfinite, values)) else ""
            line[figure] = f"{spread(values)} {mark}".strip()
        lines.append(line)
    headings = {"variant": "variant", **{key: key for key in texts}}
    return comparison_table(lines, headings | {figure: FIGURES[figure].heading for figure in shown})


def effects(pairs: Sequence[tuple[BySeed, BySeed]], figure: str) -> dict[int, float]:
    """The mean over pairs (with, without) of the difference, in each seed that all of them have."""
    each = [paired(have, lack, figure) for have, lack in pairs]
    seeds = [seed for seed in each[0] if all(seed in found for found in each)]
    return {seed: statistics.fmean(found[seed] for found in each) for seed in seeds}


def effects_table(pairs: Mapping[str, Sequence[tuple[BySeed, BySeed]]], figures: Sequence[str]) -> str:
    """What each part does: :func:`effects` as mean ± standard deviation over the seeds.

    The pairs of a part differ in nothing else. The mark says that the mean over them was better (``▲``) or worse
    (``▼``) in each seed, and the figures in brackets in how many of all pairs and seeds the part was better.

    >>> have, lack = {0: {"accuracy": 0.62}, 1: {"accuracy": 0.65}}, {0: {"accuracy": 0.6}, 1: {"accuracy": 0.6}}
    >>> print(effects_table({"confidence": [(have, lack)]}, ["accuracy"]))
    | part       | accuracy ↑                |
    |------------|---------------------------|
    | confidence | +0.035 ± 0.021 (2 of 2) ▲ |
    """
    lines = []
    for part, both in pairs.items():
        line = {"part": part}
        for figure in figures:
            means = effects(both, figure)
            if not means:
                line[figure] = MISSING
                continue
            better = 1 if FIGURES[figure].higher_is_better else -1
            won = sum(better * paired(*pair, figure)[seed] > 0 for pair in both for seed in means)
            text = f"{spread(list(means.values()), sign='+')} ({won} of {len(both) * len(means)})"
            line[figure] = f"{text} {ahead(means, figure)}".strip()
        lines.append(line)
    return comparison_table(lines, {"part": "part"} | {figure: FIGURES[figure].heading for figure in figures})


def study_csv(rows: Mapping[str, BySeed]) -> str:
    """One line a run: variant, seed and every figure in full, empty where it is not known."""
    found = dict.fromkeys(name for runs in rows.values() for run in runs.values() for name in run)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["variant", "seed", *found])
    for name, runs in rows.items():
        for seed, run in runs.items():
            cells = (run.get(figure, math.nan) for figure in found)
            table.writerow([name, seed, *(f"{value:.6g}" if math.isfinite(value) else "" for value in cells)])
    return text.getvalue()
