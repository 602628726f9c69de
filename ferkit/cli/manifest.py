"""``ferkit manifest write | join``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from jsonargparse import Namespace

from ferkit import tasks
from ferkit.cli.words import ArgumentParser

__all__ = ["add_manifest_parser", "run_manifest"]

# What a run does with the rows, and what has no files.
NOT_WRITTEN = {"size", "sources", "values", "noise", "noise_includes_true", "folds", "fold"}
NOT_WRITTEN |= {"synthetic_classes", "source_noise", "download"}
DATA = {field.name for field in fields(tasks.DataOptions)} - NOT_WRITTEN


def add_manifest_parser(parent: Any) -> None:
    """Add ``manifest`` and its sub-commands to the sub-commands of ``ferkit``."""
    parser = ArgumentParser(description="Work on manifests: tables of images, labels and what else is known.")
    parent.add_subcommand(
        "manifest", parser, help="write the manifest of a data set, join predictions to one as labels"
    )
    commands = parser.add_subcommands(dest="action")
    write = ArgumentParser(
        description="Write the manifest of a data set: images, splits, labels and what else is known."
    )
    write.add_function_arguments(tasks.write_manifest, skip={"data"})
    write.add_class_arguments(tasks.DataOptions, skip=NOT_WRITTEN)
    commands.add_subcommand("write", write, help="the manifest of a data set")
    join = ArgumentParser(description="Write a manifest with a run's predictions as a label set, or as affect.")
    join.add_function_arguments(tasks.join_manifest)
    commands.add_subcommand("join", join, help="predictions as a label set, or as valence and arousal")


def run_manifest(options: Namespace) -> None:
    """Call the task that was asked for and print its figures."""
    given = options[options.action].as_dict()
    if options.action == "write":
        data = tasks.DataOptions(**{name: given.pop(name) for name in DATA})
        figures = tasks.write_manifest(data, **given)
    else:
        figures = tasks.join_manifest(**given)
    for name, value in figures.items():
        print(f"{name:20} {value:.4f}" if name == "agreement" else f"{name:20} {value:.0f}")
