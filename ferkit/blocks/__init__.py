"""Network parts as nn.Modules; names resolve on first use, so that one part can be taken alone."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "BACKBONES": "ferkit.blocks.backbones",
    "BranchedBackbone": "ferkit.blocks.branched_backbone",
    "BranchedOutput": "ferkit.blocks.branched_backbone",
    "UncertaintyHead": "ferkit.blocks.uncertainty_head",
}

__all__ = ["BACKBONES", "BranchedBackbone", "BranchedOutput", "UncertaintyHead"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
