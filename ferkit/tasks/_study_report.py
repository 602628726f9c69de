"""Tables and figures of a study, from its finished runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ferkit.reports import plot_sweep, plot_variants, write_text
from ferkit.reports.study import FIGURES, BySeed, ahead, effects, effects_table, paired, study_csv, study_table
from ferkit.tasks._study_figures import COURSE, draw_anchors, draw_course, draw_losses, draw_mined
from ferkit.tasks.data import DataOptions, build_dataset
from ferkit.tasks.run import Run
from ferkit.tasks.study_plan import ABLATION, SWEEPS, SWITCHES, Variant, in_digits, run_folder

__all__ = ["report"]

Runs = Mapping[str, BySeed]  # by variant

SCORES = ("accuracy", "mean_class_accuracy", "total_variation", "kl", "jeffreys", "flip_auc", "flips_as_given")
PLOTTED = ("accuracy", "mean_class_accuracy", "kl", "flip_auc")
MINED = ("accuracy", "kl", "flip_auc", "mined_as_true", "mined_total_variation", "mined_kl")
PARTS_SHOWN = {
    "use_distribution": "latent distribution",
    "use_similarity": "similarity preserving",
    "use_confidence": "confidence",
}
# Accuracies of the paper's table 2 in the order of ABLATION: AffectNet, RAF-DB.
PUBLISHED = (
    *(("58.85", "86.33"), ("61.76", "87.84"), ("59.67", "86.65"), ("61.36", "87.71")),
    *(("62.34", "88.23"), ("61.65", "87.98"), ("62.50", "88.45"), ("62.84", "88.76")),
)
NAMES = {"ce": "cross-entropy", "dmue": "DMUE"}


def report(
    folder: Path,
    variants: Mapping[str, Mapping[Any, Variant]],
    figures: Runs,
    data: DataOptions,
    base: Mapping[str, Any],
) -> None:
    """Write ``study.md``, ``tables/`` and ``figures/`` of the runs that are finished."""
    sections = [_overview(figures)]
    for part, rows in variants.items():
        if part == "ablation":
            sections += [_ablation(folder, rows, figures), _effects(folder, rows, figures)]
        elif part == "mining":
            sections.append(_mining(folder, rows, figures))
        elif part in (*SWEEPS, "noise"):
            sections.append(_sweep(folder, part, rows, figures, data.noise if part == "noise" else base[part]))
    write_text(folder / "tables" / "runs.csv", study_csv(figures))
    sections += _pictures(folder, variants, figures, data)
    write_text(folder / "study.md", "\n\n".join(sections) + "\n")


def _overview(figures: Runs) -> str:
    seeds = sorted({seed for runs in figures.values() for seed in runs})
    return (
        "# Study of DMUE\n\n"
        f"Seeds {', '.join(map(str, seeds))}; every run by itself in tables/runs.csv. Mean ± standard deviation over "
        "the seeds; ▲ ahead of cross-entropy of the same seed in each of them, ▼ behind it in each, no mark: neither, "
        "or one seed. Cross-entropy has the same sampler, augmentation, backbone and optimiser."
    )


def _written(folder: Path, name: str, table: str, rows: Runs) -> str:
    write_text(folder / "tables" / f"{name}.md", table + "\n")
    write_text(folder / "tables" / f"{name}.csv", study_csv(rows))
    return table


def _title(row: tuple[bool, bool, bool]) -> str:
    """A row of table 2 in words."""
    if not any(row) or all(row):
        return NAMES["dmue" if all(row) else "ce"]
    return " + ".join(PARTS_SHOWN[switch] for switch, on in zip(SWITCHES, row) if on)


def _picture(name: str, text: str) -> str:
    return f"![{text}](figures/{name}.png)"


def _pictures(
    folder: Path, variants: Mapping[str, Mapping[Any, Variant]], figures: Runs, data: DataOptions
) -> list[str]:
    """The paper's figures, of the first seed's run of DMUE as a whole."""
    whole = variants["base"]["dmue"]
    seeds = [seed for seed in sorted(figures[whole.name]) if _drawable(folder, whole, seed, figures)]
    if not seeds:
        return []
    dataset = build_dataset(data, "train", seed=seeds[0])
    first, drawn, shown = run_folder(folder, whole, seeds[0]), folder / "figures", []
    ways = {"mined": first}
    if "mining" in variants and _drawable(folder, variants["mining"]["all-class"], seeds[0], figures):
        ways = {way: run_folder(folder, variant, seeds[0]) for way, variant in variants["mining"].items()}
    if draw_mined(ways, dataset, drawn / "mined.png"):
        shown.append(_picture("mined", "mined distributions against the votes without the given class"))
    if (first / COURSE).is_file():
        draw_course(first, dataset, drawn / "course.png")
        shown.append(_picture("course", "mined distributions by epoch"))
    if Run(first).checkpoint.is_file():
        draw_anchors(first, dataset, drawn / "anchors.png", folder / "tables" / "anchors.csv")
        shown.append(_picture("anchors", "confidence and rank of two faces in many batches"))
    if "ablation" in variants:
        without = variants["ablation"][True, False, True]
        both = {"with similarity": whole, "without": without}
        seeds = [seed for seed in seeds if seed in figures[without.name]]
        if seeds:
            folders = {name: [run_folder(folder, variant, seed) for seed in seeds] for name, variant in both.items()}
            draw_losses(folders, drawn / "losses.png")
            shown.append(_picture("losses", "losses with and without the similarity term"))
    return ["## Figures of the paper", *shown]


def _drawable(folder: Path, variant: Variant, seed: int, figures: Runs) -> bool:
    """Whether the run is finished, and did not diverge."""
    return seed in figures[variant.name] and Run(run_folder(folder, variant, seed)).labels.is_file()


def _ablation(folder: Path, variants: Mapping[Any, Variant], figures: Runs) -> str:
    rows = {_title(row): figures[variants[row].name] for row in ABLATION}
    paper = {
        "AffectNet (paper, %)": {_title(row): values[0] for row, values in zip(ABLATION, PUBLISHED)},
        "RAF-DB (paper, %)": {_title(row): values[1] for row, values in zip(ABLATION, PUBLISHED)},
    }
    table = _written(folder, "ablation", study_table(rows, figures["ce"], SCORES, paper), rows)
    plot_variants(rows, NAMES["ce"], PLOTTED, folder / "figures" / "ablation.png")
    return f"## Parts (the paper's table 2)\n\n{table}\n\n{_picture('ablation', 'each seed of each row')}"


def _effects(folder: Path, variants: Mapping[Any, Variant], figures: Runs) -> str:
    pairs: dict[str, list[tuple[BySeed, BySeed]]] = {}
    for place, switch in enumerate(SWITCHES):
        without = [row for row in ABLATION if not row[place]]
        having = [(*row[:place], True, *row[place + 1 :]) for row in without]
        pairs[PARTS_SHOWN[switch]] = [
            (figures[variants[one].name], figures[variants[other].name]) for one, other in zip(having, without)
        ]
    baseline = figures["ce"]
    known = [name for name in SCORES if any(name in run for run in baseline.values())]
    table = effects_table(pairs, known)
    write_text(folder / "tables" / "effects.md", table + "\n")
    text = (
        "Difference that a part makes: the mean of the four pairs of rows above that differ in it alone, by seed; in "
        "brackets in how many of all pairs and seeds it was better; ▲ better in the mean of each seed, ▼ worse."
    )
    parts = [_marks(part, {name: effects(both, name) for name in known}) for part, both in pairs.items()]
    against = [
        _marks(_title(row), {name: paired(figures[variants[row].name], baseline, name) for name in known})
        for row in ABLATION[1:]
    ]
    return "\n\n".join(
        [
            f"## What each part does\n\n{text}\n\n{table}",
            "\n".join(parts),
            "## Against cross-entropy",
            "\n".join(against),
        ]
    )


def _marks(title: str, differences: Mapping[str, Mapping[int, float]]) -> str:
    """In words: on which figures something is better in each seed, worse, or neither."""
    found: dict[str, list[str]] = {"▲": [], "▼": [], "": []}
    for name, each in differences.items():
        found[ahead(each, name)].append(FIGURES[name].heading.rstrip(" ↑↓"))
    words = {"▲": "better in each seed", "▼": "worse in each seed", "": "neither"}
    return (
        f"- {title}: " + "; ".join(f"{words[mark]}: {', '.join(names)}" for mark, names in found.items() if names) + "."
    )


def _mining(folder: Path, variants: Mapping[Any, Variant], figures: Runs) -> str:
    rows = {f"mined {way.replace('-', ' ')}": figures[variant.name] for way, variant in variants.items()}
    table = study_table({NAMES["ce"]: figures["ce"], **rows}, figures["ce"], MINED)
    plot_variants(rows, None, MINED, folder / "figures" / "mining.png")
    picture = _picture("mining", "each seed of each way")
    return f"## Ways to mine (the paper's table 4)\n\n{_written(folder, 'mining', table, rows)}\n\n{picture}"


def _sweep(folder: Path, part: str, variants: Mapping[Any, Variant], figures: Runs, own: float) -> str:
    path = folder / "figures" / f"{part}.png"
    if part == "noise":
        rows = {f"{_percent(rate)} flipped, {NAMES[m]}": figures[v.name] for (m, rate), v in variants.items()}
        rates = list(dict.fromkeys(rate for _, rate in variants))
        tables = []
        for rate in rates:
            some = {name: runs for name, runs in rows.items() if name.startswith(f"{_percent(rate)} ")}
            tables.append(study_table(some, figures[variants["ce", rate].name], SCORES))
        table = "\n\n".join(tables)
        lines = {NAMES[m]: {rate: figures[variants[m, rate].name] for rate in rates} for m in ("ce", "dmue")}
        plot_sweep("share of labels flipped", lines, PLOTTED, path, own)
    else:
        rows = {f"{part} = {in_digits(value)}": figures[variant.name] for value, variant in variants.items()}
        table = study_table({NAMES["ce"]: figures["ce"], **rows}, figures["ce"], (*SCORES, "mined_as_true", "mined_kl"))
        line = {NAMES["dmue"]: {value: figures[variant.name] for value, variant in variants.items()}}
        plot_sweep(part, line, PLOTTED, path, own, (NAMES["ce"], figures["ce"]))
    picture = _picture(part, f"figures against {part}, each seed a point")
    return f"## {part.capitalize()}\n\n{_written(folder, part, table, rows)}\n\n{picture}"


def _percent(rate: float) -> str:
    return f"{in_digits(float(f'{100 * rate:.12g}'))} %"
