"""The run folder: config.yaml, metrics.csv, metrics.json, labels.csv, checkpoints/ and figures/."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import ferkit
from ferkit.blocks.pretrained import read_checkpoint
from ferkit.recipes import (
    DMUE,
    LDLALSG,
    LDLVA,
    SCE,
    SCN,
    VGG,
    AffectDMUE,
    CoTeaching,
    CrossEntropy,
    GuidedDMUE,
    LabelSetRecipe,
    LTNet,
    NeighborRecipe,
    NoisyFER,
    Recipe,
)
from ferkit.reports import can_be_made, write_text

__all__ = ["METHODS", "Run", "load_recipe", "same_place", "uses_graphs", "uses_label_sets"]

METHODS: dict[str, type[Recipe]] = {
    "ce": CrossEntropy,
    "dmue": DMUE,
    "ldl-alsg": LDLALSG,
    "ldlva": LDLVA,
    "dmue-ldl-alsg": GuidedDMUE,
    "dmue-ldlva": AffectDMUE,
    "noisyfer": NoisyFER,
    "vgg": VGG,
    "sce": SCE,
    "co-teaching": CoTeaching,
    "scn": SCN,
    "ltnet": LTNet,
}


NEEDED = {"data", "root", "classes", "size", "synthetic_classes"}  # of a configuration, to score its run


def uses_graphs(method: str) -> bool:
    """Whether the method trains with neighbours of the training images."""
    return issubclass(METHODS[method], NeighborRecipe)


def uses_label_sets(method: str) -> bool:
    """Whether the method learns from several label sets at once, valence and arousal among them."""
    return issubclass(METHODS[method], LabelSetRecipe)


@dataclass(frozen=True)
class Run:
    """Paths of one run."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def metrics_csv(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def metrics_json(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.csv"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def graphs(self) -> Path:
        return self.folder / "graphs"

    @property
    def figures(self) -> Path:
        return self.folder / "figures"

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the flat configuration, in the form that ``ferkit train --config`` reads."""
        header = f"# ferkit {ferkit.__version__}, method {config['method']}\n"
        write_text(self.config, header + yaml.safe_dump(config, sort_keys=False))

    def read_config(self) -> dict[str, Any]:
        """The configuration; ValueError if the folder holds none."""
        if not self.config.is_file():
            raise ValueError(f"run: expected a run folder with config.yaml, got {str(self.folder)!r}")
        try:
            config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            config = None
        if not isinstance(config, dict) or config.get("method") not in METHODS or not set(config) >= NEEDED:
            raise ValueError(f"run: {self.config} is not a configuration written by ferkit")
        return config

    def check_place(self, resume: bool) -> None:
        """Raise ValueError where no run can be made, or is already and ``resume`` is off; nothing is written yet."""
        if self.config.exists() and not resume:
            raise ValueError(
                f"out: {str(self.folder)!r} already holds a run: choose another folder, or add --resume true"
            )
        others = [path.name for path in (self.labels, self.metrics_csv, self.metrics_json) if path.exists()]
        if others and not self.config.exists():
            raise ValueError(
                f"out: expected a folder without {', '.join(others)}, which a run writes, got {str(self.folder)!r}"
            )
        if not can_be_made(self.config):
            raise ValueError(f"out: expected a folder that can be written, got {str(self.folder)!r}")

    def check_apart(self, root: str) -> None:
        """Raise ValueError for a run in a folder of class folders, which would be taken for one of these."""
        data, place = Path(os.path.realpath(root)), Path(os.path.realpath(self.folder))
        if data == place or data in place.parents:
            raise ValueError(f"out: expected a folder outside of the data in {root!r}, got {str(self.folder)!r}")

    def claim(self, config: dict[str, Any], resume: bool, defaults: Mapping[str, Any] | None = None) -> Path | None:
        """Take the folder for a new run, or return the checkpoint to continue from.

        A setting that a run begun by an earlier version does not know was as ``defaults`` has it.

        Raises:
            ValueError: if it holds a run and ``resume`` is off, or a run of another configuration.
        """
        self.check_place(resume)
        config = yaml.safe_load(yaml.safe_dump(config, sort_keys=False))  # as it will be read back
        if self.config.exists():
            before = self.read_config()
            before = {**(defaults or {}), **before}
            changed = [key for key in config if key != "out" and before.get(key) != config[key]]
            if "root" in changed and same_place(before.get("root"), config["root"]):
                changed.remove("root")
            if changed:
                pairs = ", ".join(f"{key} (was {before.get(key)!r}, now {config[key]!r})" for key in changed)
                raise ValueError(f"resume: the run in {str(self.folder)!r} had other settings: {pairs}")
            return self.checkpoint if self.checkpoint.exists() else None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_config(config)
        return None


def same_place(one: str | None, other: str | None) -> bool:
    """Whether two paths lead to one file or folder: "faces", "faces/" and a link to it do."""
    if one is None or other is None:
        return one is other
    return os.path.realpath(one) == os.path.realpath(other)


def load_recipe(run: Run) -> Recipe:
    """The trained recipe of a run, on the CPU, in eval mode.

    Raises:
        ValueError: for a folder that is no run, one without a checkpoint, or a checkpoint that cannot be read.
    """
    config = run.read_config()
    state = read_checkpoint(run.checkpoint)
    try:
        given = state["hyper_parameters"]
        with torch.random.fork_rng(devices=[]):  # weights drawn and then replaced are nobody's draws
            recipe = METHODS[config["method"]](**{**given, **({"pretrained": None} if "pretrained" in given else {})})
        recipe.load_state_dict(state["state_dict"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"checkpoint: {str(run.checkpoint)!r} does not fit method {config['method']!r} ({error})"
        ) from error
    return recipe.eval()
