"""A study of DMUE: which parts earn their place on a data set, in runs that can be broken off and gone on with."""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from ferkit.recipes import DMUE, CrossEntropy, Recipe, TrainingDiverged
from ferkit.recipes.backbone import BackboneRecipe
from ferkit.reports import can_be_made, write_json, write_text
from ferkit.reports.study import FIGURES
from ferkit.tasks._label_figures import label_figures
from ferkit.tasks._lock import LOCK, alone_in, check_free
from ferkit.tasks._mined_course import MinedCourse
from ferkit.tasks._study_figures import COURSE
from ferkit.tasks._study_report import report
from ferkit.tasks.data import DataOptions, build_dataset
from ferkit.tasks.evaluation import check_scored
from ferkit.tasks.run import Run
from ferkit.tasks.study_plan import SWITCHES, StudyOptions, Variant, merged, plan, run_folder
from ferkit.tasks.training import FREE, FROM_DATA, FitOptions, make_trainer, train, training_loader, with_sampler

__all__ = ["VARIED", "StudyOptions", "study"]

VARIED = (*SWITCHES, "mining")  # options of DMUE that only the study sets
STUDY = "study.yaml"  # in the folder of a study: its settings, and what was asked for
FINISHED = "study.json"  # in the folder of a run that is done: its figures, and seconds


def study(
    data: DataOptions,
    fit: FitOptions,
    varied: StudyOptions | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, dict[int, dict[str, float]]]:
    """Train the variants of DMUE that ``varied`` asks for, and write tables and figures into ``fit.out``.

    Each run has its own folder, ``runs/<variant>-seed<seed>``. Called again, finished runs are not made again and one
    that was broken off is gone on with; other parts, seeds and values may then be asked for, and join the tables. A
    run that diverges is finished, and has no figures.

    Args:
        data, fit, options: as for :func:`ferkit.tasks.train`, ``options`` of DMUE; cross-entropy gets those of them
            that it knows. ``fit.seed`` and ``fit.resume`` are the study's.
        varied: what differs between the runs.

    Returns:
        The figures by variant and seed.

    Raises:
        ValueError: before any training, for bad options, or a folder with a study of other settings.
    """
    varied, given = varied or StudyOptions(), dict(options or {})
    for name in VARIED:
        if name in given:
            raise ValueError(f"{name}: expected none of a study, which varies it, got {given[name]!r}")
    if fit.seed != FitOptions.seed or fit.resume:
        raise ValueError("seed, resume: expected none of a study, which has seeds and always goes on, got some")
    folder = Path(fit.out or f"runs/study-dmue-{data.data}")
    _check_place(folder)  # not after reading the data
    check_free(folder)
    fit = replace(fit, out=str(folder))
    base, fit, classes = _checked(data, fit, given)
    asked = varied.asked(base)
    _check_variants(_distinct(plan(asked, base, data.noise)), base, classes)
    with alone_in(folder):
        kept = _claim(folder, _settings(data, fit, base), asked)
        todo = [(variant, seed) for seed in asked["seeds"] for variant in _distinct(plan(asked, base, data.noise))]
        _train_all(folder, todo, data, fit, given, _of_cross_entropy(base), varied.keep_checkpoints)
        variants = plan(kept, base, data.noise)
        figures = {v.name: _finished(folder, v, kept["seeds"]) for v in _distinct(variants)}
        report(folder, variants, figures, data, base)
        return figures


def _distinct(variants: Mapping[str, Mapping[Any, Variant]]) -> list[Variant]:
    return list(dict.fromkeys(variant for rows in variants.values() for variant in rows.values()))


def _checked(data: DataOptions, fit: FitOptions, options: Mapping[str, Any]) -> tuple[dict[str, Any], FitOptions, int]:
    """Every option of the study's DMUE, the options with its sampler, which cross-entropy gets too, and C.

    What can be wrong with data, trainer or recipe is told here.
    """
    training = build_dataset(data, "train", images=False)
    validation = build_dataset(data, "validation", classes=training.classes, images=False)
    with torch.random.fork_rng(devices=[]):  # initial weights that nobody uses
        recipe = DMUE(len(training.classes), **options)
        base = {name: value for name, value in recipe.hparams.items() if name not in FROM_DATA}
        CrossEntropy(len(training.classes), **_of_cross_entropy(base))
    check_scored(recipe, validation, "validation")
    fit = with_sampler(fit, recipe)
    training_loader(training, fit)
    make_trainer(Run(Path(str(fit.out))), fit)
    return base, fit, len(training.classes)


def _check_variants(variants: Iterable[Variant], base: Mapping[str, Any], classes: int) -> None:
    """Make every variant of DMUE once, without memory: a setting may not have all of them.

    Raises:
        ValueError: naming the first that cannot be.
    """
    for variant in variants:
        if variant.method == "dmue":
            try:
                with torch.device("meta"):
                    DMUE(classes, **{**base, **dict(variant.options), "pretrained": None})
            except ValueError as error:
                raise ValueError(f"parts: {variant.name} cannot be with these options ({error})") from error


def _of_cross_entropy(options: Mapping[str, Any]) -> dict[str, Any]:
    """What cross-entropy shares with the study's DMUE, as that resolved it."""
    known = {*inspect.signature(BackboneRecipe).parameters, *inspect.signature(Recipe).parameters} - {*FROM_DATA}
    return {name: value for name, value in options.items() if name in known and name not in VARIED}


def _settings(data: DataOptions, fit: FitOptions, base: Mapping[str, Any]) -> dict[str, Any]:
    settings = {"method": "dmue", **asdict(data), **asdict(fit), **base}
    return {name: value for name, value in settings.items() if name not in (*FREE, *VARIED, "seed")}


def _check_place(folder: Path) -> None:
    """Raise ValueError where no study can be; nothing is written yet."""
    if not can_be_made(folder / STUDY):
        raise ValueError(f"out: expected a folder that can be written, got {str(folder)!r}")
    others = folder.exists() and any(path.name != LOCK for path in folder.iterdir())
    if others and not (folder / STUDY).is_file():
        raise ValueError(f"out: expected a new or empty folder or one with a study, got {str(folder)!r}")


def _claim(folder: Path, settings: dict[str, Any], asked: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Take the folder for a study, or go on with the one there; returns all that was asked of it.

    Raises:
        ValueError: if it holds a study with other settings, or what is no study.
    """
    path = folder / STUDY
    settings = yaml.safe_load(yaml.safe_dump(settings, sort_keys=False))  # as it will be read back
    if path.is_file():
        try:
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            before = None
        if not isinstance(before, dict) or not {"settings", "asked"} <= set(before):
            raise ValueError(f"out: {str(path)!r} is not a file written by ferkit study")
        old = before["settings"]
        changed = [name for name in {**old, **settings} if old.get(name) != settings.get(name)]
        if changed:
            pairs = ", ".join(f"{name} (was {old.get(name)!r}, now {settings.get(name)!r})" for name in changed)
            raise ValueError(f"out: the study in {str(folder)!r} had other settings: {pairs}")
        asked = merged(before["asked"], asked)
    write_text(path, yaml.safe_dump({"settings": settings, "asked": asked}, sort_keys=False))
    return asked


def _train_all(
    folder: Path,
    todo: list[tuple[Variant, int]],
    data: DataOptions,
    fit: FitOptions,
    options: Mapping[str, Any],
    shared: Mapping[str, Any],
    keep_checkpoints: bool,
) -> None:
    """Train what is not finished, and say after each run how long the rest will take."""
    seconds: dict[str, list[float]] = {}
    waiting: list[tuple[Variant, int]] = []
    for variant, seed in todo:
        done = _read(run_folder(folder, variant, seed))
        if done is None:
            waiting.append((variant, seed))
        else:
            seconds.setdefault(variant.method, []).append(done["seconds"])
    print(f"{len(todo)} runs in {folder}/, {len(todo) - len(waiting)} of them finished.", flush=True)
    for number, (variant, seed) in enumerate(waiting):
        start = time.perf_counter()
        run = Run(run_folder(folder, variant, seed))
        chosen = replace(data, noise=data.noise if variant.noise is None else variant.noise)
        known = shared if variant.method == "ce" else options
        one = replace(fit, seed=seed, out=str(run.folder), resume=True)
        course = [MinedCourse(run.folder / COURSE)] if variant.name == "dmue" else []
        try:
            figures = train(variant.method, chosen, one, {**known, **dict(variant.options)}, callbacks=course)
            figures |= label_figures(run.labels, build_dataset(chosen, "train", seed=seed, images=False))
        except TrainingDiverged as error:  # a result too, which would be the same another time
            print(f"{variant.name}, seed {seed} diverged: {error}", flush=True)
            figures = dict.fromkeys(FIGURES, math.nan)
        taken = time.perf_counter() - start
        write_json(run.folder / FINISHED, {"figures": figures, "seconds": taken})
        if not keep_checkpoints and variant.name != "dmue":  # only now: until then a broken off run needs it
            run.checkpoint.unlink(missing_ok=True)
        seconds.setdefault(variant.method, []).append(taken)
        left = _estimate(waiting[number + 1 :], seconds)
        place = f"[{len(todo) - len(waiting) + number + 1}/{len(todo)}] {variant.name}, seed {seed}"
        print(
            f"{place}: accuracy {figures.get('accuracy', math.nan):.3f}, {_clock(taken)}; {_clock(left)} left",
            flush=True,
        )


def _estimate(waiting: Iterable[tuple[Variant, int]], seconds: Mapping[str, list[float]]) -> float:
    """Seconds that the waiting runs will take, as those of their method took, or any."""
    every = [value for values in seconds.values() for value in values]
    return sum(sum(own) / len(own) for own in (seconds.get(variant.method, every) for variant, _ in waiting))


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _read(run: Path) -> dict[str, Any] | None:
    path = run / FINISHED
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _finished(folder: Path, variant: Variant, seeds: Iterable[int]) -> dict[int, dict[str, float]]:
    """Figures of a variant's finished runs by seed; what JSON could not say is NaN."""
    found = {seed: _read(run_folder(folder, variant, seed)) for seed in seeds}
    nan = float("nan")
    return {
        seed: {name: nan if value is None else float(value) for name, value in run["figures"].items()}
        for seed, run in found.items()
        if run is not None
    }
