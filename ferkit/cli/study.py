"""``ferkit study dmue``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from jsonargparse import Namespace

from ferkit import tasks
from ferkit.cli.words import ArgumentParser
from ferkit.tasks.run import METHODS
from ferkit.tasks.study_runs import VARIED
from ferkit.tasks.training import FROM_DATA

__all__ = ["add_study_parser", "listed", "run_study"]

STUDY = {field.name for field in fields(tasks.StudyOptions)}
LISTS = {f"--{name}" for name in STUDY - {"keep_checkpoints"}}
DATA = {field.name for field in fields(tasks.DataOptions)}
FIT = {field.name for field in fields(tasks.FitOptions)} - {"seed", "resume"}


def listed(words: Sequence[str]) -> list[str]:
    """``--seeds 0,1`` as ``--seeds [0,1]``; brackets are left alone."""
    result: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in LISTS and equals:
            result += [name, _bracketed(value)]
        else:
            result.append(_bracketed(word) if result and result[-1] in LISTS else word)
    return result


def _bracketed(value: str) -> str:
    return value if value.startswith("[") else f"[{value}]"


def add_study_parser(parent: Any) -> None:
    """Add ``study`` and its methods to the sub-commands of ``ferkit``."""
    parser = ArgumentParser(description="Train the variants of a method, and say which of its parts earn their place.")
    parent.add_subcommand("study", parser, help="which parts of a method earn their place on a data set")
    methods = parser.add_subcommands(dest="method")
    dmue = ArgumentParser(
        description="Ablation, ways of mining and sweeps of DMUE against cross-entropy; called again it goes on."
    )
    dmue.add_class_arguments(tasks.StudyOptions)
    dmue.add_class_arguments(tasks.DataOptions)
    dmue.add_class_arguments(tasks.FitOptions, skip={"seed", "resume"})
    dmue.add_class_arguments(METHODS["dmue"], skip={*FROM_DATA, *VARIED})
    dmue.set_defaults(progress=False)  # a line a run tells how far it is
    methods.add_subcommand("dmue", dmue, help="study DMUE")


def run_study(options: Namespace) -> None:
    """Call the task."""
    given = options[options.method].as_dict()
    varied = tasks.StudyOptions(**{name: given.pop(name) for name in STUDY})
    data = tasks.DataOptions(**{name: given.pop(name) for name in DATA})
    fit = tasks.FitOptions(**{name: given.pop(name) for name in FIT})
    tasks.study(data, fit, varied, given)
