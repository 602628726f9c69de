"""Load a backbone checkpoint into a BranchedBackbone and say what matched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ferkit.blocks._layouts import match_keys
from ferkit.blocks.branched_backbone import BranchedBackbone

__all__ = ["LoadReport", "load_pretrained", "read_checkpoint"]

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")


@dataclass
class LoadReport:
    """Which keys of a checkpoint were used, and what was left as it was."""

    matched: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)  # "key: expected shape, got shape"
    unused: list[str] = field(default_factory=list)  # in the checkpoint alone
    missing: list[str] = field(default_factory=list)  # in the model alone: kept at their initial values
    layout: str = "backbone"  # how the checkpoint's names were read

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} tensors loaded ({self.layout} layout)"]
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
    """Copy the tensors of a checkpoint into trunk, target and branches, as far as names and shapes agree.

    Three layouts are told apart by their names:

    - ``"backbone"``: the plain network as its library names it (conv1, bn1, layer1..4; features.0..18), and the
      face-recognition trainers' variants. Its last stage fills the target and every branch; its classifier is never
      loaded: its classes are others.
    - ``"released DMUE"``: layer4_0 to layer4_C and classifiers.0 to classifiers.C, the last of each the target's, or
      the converted target alone. Where the model has as many branches, each gets its own copy; otherwise every branch
      starts from the target's. Classifiers are loaded where the number of classes agrees; the order of the classes is
      not checked (AffectNet's in the released weights). BN-neck and confidence head are no part of a backbone: unused.
    - ``"ferkit"``: the state dict of a BranchedBackbone, or its target's share, which then fills every branch too.

    Args:
        model: what is loaded into, in place.
        source: a file or a state dict; wrappers ("state_dict", "model") and prefixes ("module.", "backbone.", "base.",
            "feat_net.", "encoder.", "model.") are taken off.

    Raises:
        ValueError: if the file cannot be read or nothing matches.

    >>> model = BranchedBackbone("small", num_classes=2)
    >>> weights = {"bn1.weight": torch.ones(24), "bn1.bias": torch.ones(7), "fc.weight": torch.ones(1000, 128)}
    >>> report = load_pretrained(model, {"state_dict": {f"module.{key}": value for key, value in weights.items()}})
    >>> report.matched, report.mismatched, report.unused
    (['bn1.weight'], ['bn1.bias: expected (24,), got (7,)'], ['fc.weight'])
    """
    state = read_checkpoint(source) if isinstance(source, (str, Path)) else source
    tensors = _tensors(state)
    own = model.state_dict()
    layout, filled = match_keys(model, tensors)
    report = LoadReport(layout=layout)
    loaded: dict[str, Tensor] = {}
    for key, (name, targets) in filled.items():
        value = tensors[key]
        targets = tuple(target for target in targets if target in own)
        if not targets:
            report.unused.append(name)
        elif own[targets[0]].shape != value.shape:
            report.mismatched.append(f"{name}: expected {tuple(own[targets[0]].shape)}, got {tuple(value.shape)}")
        else:
            report.matched.append(name)
            loaded.update(dict.fromkeys(targets, value))
    report.missing = [key for key in own if key not in loaded]
    if not loaded:
        raise ValueError(f"checkpoint: expected keys such as {next(iter(own))!r}, got {sorted(tensors)[:3]}")
    model.load_state_dict(loaded, strict=False)
    return report


def _tensors(state: Any) -> dict[str, Tensor]:
    for name in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping):
        raise ValueError(f"checkpoint: expected a state dict, got {type(state).__name__}")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}
