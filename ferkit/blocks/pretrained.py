"""Load a backbone checkpoint into a BranchedBackbone and say what matched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ferkit.blocks.branched_backbone import BranchedBackbone

__all__ = ["LoadReport", "load_pretrained", "read_checkpoint"]

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "backbone.", "encoder.", "model.")


@dataclass
class LoadReport:
    """Which keys of a checkpoint were used, and what was left as it was."""

    matched: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)  # "key: expected shape, got shape"
    unused: list[str] = field(default_factory=list)  # in the checkpoint alone
    missing: list[str] = field(default_factory=list)  # in the model alone: kept at their initial values

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} tensors loaded"]
        for name in ("mismatched", "unused", "missing"):
            keys = getattr(self, name)
            if keys:
                shown = ", ".join(keys[:6]) + (f", ... (+{len(keys) - 6})" if len(keys) > 6 else "")
                lines.append(f"{len(keys)} {name}: {shown}")
        return "; ".join(lines)


def read_checkpoint(path: str | Path) -> Any:
    """``torch.load(weights_only=True)`` with an error that names the file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint: expected a file, got {str(path)!r}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint: {str(path)!r} is not a readable checkpoint ({type(error).__name__})") from error


def load_pretrained(model: BranchedBackbone, source: str | Path | Mapping[str, Any]) -> LoadReport:
    """Copy ImageNet-style weights (conv1, bn1, layer1..4; features.0..18) into trunk, target and every branch.

    Args:
        model: what is loaded into, in place.
        source: a file or a state dict; wrappers ("state_dict", "model") and prefixes ("module.", "backbone.") are
            taken off. Classifiers are never loaded: theirs are other classes.

    Raises:
        ValueError: if the file cannot be read or nothing matches.
    """
    state = read_checkpoint(source) if isinstance(source, (str, Path)) else source
    state = _bare(state)
    own = model.state_dict()
    report = LoadReport()
    loaded: dict[str, Tensor] = {}
    for key, value in state.items():
        targets = _targets(model, own, key)
        if not targets or targets[0] not in own:
            report.unused.append(key)
        elif own[targets[0]].shape != value.shape:
            report.mismatched.append(f"{key}: expected {tuple(own[targets[0]].shape)}, got {tuple(value.shape)}")
        else:
            report.matched.append(key)
            loaded.update(dict.fromkeys(targets, value))
    report.missing = [key for key in own if key not in loaded]
    if not loaded:
        raise ValueError(f"checkpoint: expected keys such as {next(iter(own))!r}, got {sorted(state)[:3]}")
    model.load_state_dict(loaded, strict=False)
    return report


def _bare(state: Any) -> dict[str, Tensor]:
    for name in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping):
        raise ValueError(f"checkpoint: expected a state dict, got {type(state).__name__}")
    bare = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            while key.startswith(PREFIXES):
                key = key.split(".", 1)[1]
            bare[key] = value
    return bare


def _targets(model: BranchedBackbone, own: Mapping[str, Tensor], key: str) -> list[str]:
    # The trunk is asked first: in some families (MobileNetV2) all keys start as the stage's do.
    if not key.startswith(model.stage_prefix) or f"trunk.{key}" in own:
        return [f"trunk.{key}"]
    rest = key[len(model.stage_prefix) :]
    return [f"target.{rest}", *(f"branches.{index}.{rest}" for index in range(len(model.branches)))]
