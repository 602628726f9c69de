"""Options of every command, from the signatures of what they call (jsonargparse)."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from ferkit import tasks
from ferkit.cli.graph import add_graph_parser, run_graph, underscored
from ferkit.cli.manifest import add_manifest_parser, run_manifest
from ferkit.cli.study import add_study_parser, listed, run_study
from ferkit.cli.words import ArgumentParser
from ferkit.tasks.run import METHODS, Run, uses_graphs, uses_label_sets
from ferkit.tasks.training import FROM_DATA

__all__ = ["build_parser", "run"]

DATA = {field.name for field in fields(tasks.DataOptions)}
FIT = {field.name for field in fields(tasks.FitOptions)}
GRAPH = {field.name for field in fields(tasks.GraphOptions)}
PAIRS = ("--graph", "--sigma")  # given as space=value, once a space


def build_parser() -> ArgumentParser:
    """The parser of ``ferkit``, with one sub-command a task."""
    parser = ArgumentParser(prog="ferkit", description="Facial expression recognition from doubtful labels.")
    commands = parser.add_subcommands(dest="command")
    train = ArgumentParser(description="Train a recipe into a run folder.")
    commands.add_subcommand("train", train, help="train a recipe into a run folder")
    methods = train.add_subcommands(dest="method")
    for method, recipe in METHODS.items():
        methods.add_subcommand(method, _train_parser(method, recipe), help=f"train {recipe.__name__}")
    commands.add_subcommand("evaluate", _evaluate_parser(), help="score a run on a labelled set")
    commands.add_subcommand("predict", _predict_parser(), help="what a run says of images without labels")
    add_graph_parser(commands)
    add_manifest_parser(commands)
    add_study_parser(commands)
    demo = ArgumentParser(description="Cross-entropy against DMUE on rendered faces with 30 % of the labels flipped.")
    demo.add_function_arguments(tasks.demo)
    commands.add_subcommand("demo", demo, help="cross-entropy against DMUE on rendered faces, in minutes")
    commands.add_subcommand("info", ArgumentParser(), help="versions, extras, and the backend each operator takes")
    return parser


def run(argv: Sequence[str]) -> int:
    """Parse and call one task; 1 for a training that diverged."""
    try:
        _run(argv)
    except tasks.TrainingDiverged as error:
        print(f"ferkit: {error}", file=sys.stderr)
        return 1
    return 0


def _run(argv: Sequence[str]) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its advertisements
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    end = list(argv).index("--") if "--" in argv else len(argv)  # what follows is no option
    words = [*map(underscored, argv[:end]), *argv[end:]]
    rewritten = {"train": _joined, "study": listed}
    options = build_parser().parse_args(rewritten[words[0]](words) if words[:1] and words[0] in rewritten else words)
    command = options.command
    if command == "train":
        method = options.train.method
        _train(method, options.train[method])
    elif command == "evaluate":
        _evaluate(options.evaluate)
    elif command == "predict":
        figures = tasks.predict_images(**options.predict.as_dict())
        print("\n".join(f"{name:20} {value:.0f}" for name, value in figures.items()))
    elif command == "graph":
        run_graph(options.graph)
    elif command == "manifest":
        run_manifest(options.manifest)
    elif command == "study":
        run_study(options.study)
    elif command == "demo":
        tasks.demo(**options.demo.as_dict())
    elif command == "info":
        from ferkit.info import report

        print(report())


def _train_parser(method: str, recipe: type) -> ArgumentParser:
    parser = ArgumentParser(description=f"Train {recipe.__name__}.")
    parser.add_argument("--config", action="config", help="YAML file of options, such as a run's config.yaml")
    parser.add_argument("--method", default=method, choices=[method], help="written into config.yaml")
    parser.add_class_arguments(tasks.DataOptions)
    parser.add_class_arguments(tasks.FitOptions)
    if uses_graphs(method):
        parser.add_class_arguments(tasks.GraphOptions)
    parser.add_class_arguments(recipe, skip=set(FROM_DATA))
    if uses_label_sets(method):  # as published; every label set may know other classes, which no batch must cover
        parser.set_defaults(size=32, batch_size=128, sampler="shuffle")
    return parser


def _evaluate_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Score a run on a labelled set.")
    parser.add_argument("run", type=str, help="a run folder")
    parser.add_argument("--split", type=str, default="validation", help="train, validation or test")
    parser.add_argument("--batch_size", type=int, default=256, help="images at once")
    text = "also write every image's predictions into this .csv file: classes, and valence and arousal where predicted"
    parser.add_argument("--save_predictions", type=str, default=None, help=text)
    parser.add_class_arguments(tasks.DataOptions, skip={"data"})
    choices = get_args(get_type_hints(tasks.DataOptions)["data"])
    parser.add_argument("--data", choices=choices, help="images, as in ferkit train; the run's own if not given")
    return parser


def _predict_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Write what a run says of images that need no labels, a row an image.")
    parser.add_argument("run", type=str, help="a run folder")
    parser.add_argument("images", type=str, nargs="+", help="image files, and folders, searched to any depth")
    parser.add_function_arguments(tasks.predict_images, skip={"run", "images"})
    return parser


def _evaluate(options: Namespace) -> None:
    given = _take(options, DATA)
    if given["data"] is None:
        own = Run(Path(options.run)).read_config()
        given |= {"data": own["data"], "root": given["root"] or own["root"]}
    data = tasks.DataOptions(**given)
    _print(tasks.evaluate(options.run, data, options.split, options.batch_size, options.save_predictions))


def _train(method: str, options: Namespace) -> None:
    data = tasks.DataOptions(**_take(options, DATA))
    fit = tasks.FitOptions(**_take(options, FIT))
    graphs = tasks.GraphOptions(**_take(options, GRAPH))
    known = DATA | FIT | GRAPH | {"method", "config"}
    rest = {key: value for key, value in options.as_dict().items() if key not in known}
    try:
        _print(tasks.train(method, data, fit, rest, graphs))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the same command with --resume true goes on after the last whole epoch") from stop


def _take(options: Namespace, names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in options.as_dict().items() if name in names}


def _print(figures: dict[str, float]) -> None:
    for name, value in figures.items():
        print(f"{name:20} {value:.4f}")


def _joined(words: Sequence[str]) -> list[str]:
    """``--graph au=a.knn --graph va=b.knn`` as the one mapping that it is; braces are left alone."""
    result: list[str] = []
    pairs: dict[str, dict[str, str]] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in PAIRS:
            result.append(word)
            continue
        value = value if equals else next(rest, "")
        space, found, item = value.partition("=")
        if value.lstrip().startswith("{"):
            result += [name, value]
        elif not (space and found and item):
            raise ValueError(f"{name[2:]}: expected space=value, such as au=..., got {value!r}")
        elif space in pairs.setdefault(name, {}):
            raise ValueError(f"{name[2:]}: expected each space once, got {space!r} twice")
        else:
            pairs[name][space] = item
    return [*result, *(part for name, values in pairs.items() for part in (name, json.dumps(values)))]
