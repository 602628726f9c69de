"""``ferkit graph build | info | check | show``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from ferkit import tasks
from ferkit.cli.words import ArgumentParser

__all__ = ["add_graph_parser", "run", "run_graph", "underscored"]

DATA = {field.name for field in fields(tasks.DataOptions)}
COMMANDS: dict[str, tuple[Callable[..., Any], str]] = {
    "build": (tasks.build_graph, "build a graph and write it to a file"),
    "info": (tasks.graph_info, "what a graph is"),
    "check": (tasks.check_graph, "measure a graph against exact distances of a sample"),
    "show": (tasks.show_graph, "t-SNE of the space, and faces with their neighbours"),
}


def run(argv: Sequence[str]) -> int:
    """``ferkit graph ARGV`` by itself: without Lightning, which takes seconds to import."""
    parser = ArgumentParser(prog="ferkit")
    add_graph_parser(parser.add_subcommands(dest="command"))
    run_graph(parser.parse_args([underscored(word) for word in argv]).graph)
    return 0


def underscored(word: str) -> str:
    """``--batch-size`` as ``--batch_size``: options are named after arguments, what follows a point by the user.

    A home folder is written out, as in ``--out=~/runs``, which shells leave as it is.
    """
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    option, point, key = name[2:].partition(".")
    value = os.path.expanduser(value) if value.startswith("~/") else value
    return "--" + option.replace("-", "_") + point + key + equals + value


def add_graph_parser(parent: Any) -> None:
    """Add ``graph`` and its sub-commands to the sub-commands of ``ferkit``."""
    parser = ArgumentParser(description="Graphs of neighbours in the space of action units, landmarks or affect.")
    parent.add_subcommand("graph", parser, help="build, describe, check or draw a graph of neighbours")
    commands = parser.add_subcommands(dest="action")
    for name, (function, text) in COMMANDS.items():
        command = ArgumentParser(description=text[0].upper() + text[1:] + ".")
        if name == "build":
            command.add_argument("-k", "--k", type=int, default=4, help="neighbours a row")
        else:
            command.add_argument("path", type=str, help="a graph")
        command.add_function_arguments(function, skip={"data", "k", "path"})
        if name != "info":
            command.add_class_arguments(tasks.DataOptions, skip={"data"})
            choices = get_args(get_type_hints(tasks.DataOptions)["data"])
            command.add_argument("--data", choices=choices, help="images, as in ferkit train; by default none")
        commands.add_subcommand(name, command, help=text)


def run_graph(options: Namespace) -> None:
    """Call the task that was asked for."""
    function, _ = COMMANDS[options.action]
    given = options[options.action].as_dict()
    if options.action != "info":
        data = {name: given.pop(name) for name in DATA}
        changed = [name for name, value in data.items() if name != "data" and value != getattr(tasks.DataOptions, name)]
        if data["data"] is None and changed:
            raise ValueError(f"data: expected the kind of images that --{changed[0]} is meant for, got none")
        given["data"] = None if data["data"] is None else tasks.DataOptions(**data)
    function(**given)
