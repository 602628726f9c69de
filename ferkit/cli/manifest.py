"""``ferkit manifest join``."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ferkit import tasks

__all__ = ["add_manifest_parser", "run_manifest"]


def add_manifest_parser(parent: Any) -> None:
    """Add ``manifest`` and its sub-commands to the sub-commands of ``ferkit``."""
    parser = ArgumentParser(description="Work on manifests: tables of images, labels and what else is known.")
    parent.add_subcommand("manifest", parser, help="join predictions to a manifest as labels")
    commands = parser.add_subcommands(dest="action")
    join = ArgumentParser(description="Write a manifest with a run's predictions as a label set, or as affect.")
    join.add_function_arguments(tasks.join_manifest)
    commands.add_subcommand("join", join, help="predictions as a label set, or as valence and arousal")


def run_manifest(options: Namespace) -> None:
    """Call the task that was asked for and print its figures."""
    for name, value in tasks.join_manifest(**options.join.as_dict()).items():
        print(f"{name:20} {value:.4f}" if name == "agreement" else f"{name:20} {value:.0f}")
