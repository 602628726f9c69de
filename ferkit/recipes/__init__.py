"""Whole methods as LightningModules; names resolve on first use, so that the package imports without Lightning."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "AffectDMUE": "ferkit.recipes.ldlva",
    "AffectTargets": "ferkit.recipes.ldlva",
    "BackboneRecipe": "ferkit.recipes.backbone",
    "CoTeaching": "ferkit.recipes.co_teaching",
    "CrossEntropy": "ferkit.recipes.cross_entropy",
    "DMUE": "ferkit.recipes.dmue",
    "GuidedDMUE": "ferkit.recipes.ldl_alsg",
    "LDLALSG": "ferkit.recipes.ldl_alsg",
    "LDLVA": "ferkit.recipes.ldlva",
    "LTNet": "ferkit.recipes.ltnet",
    "LabelPrediction": "ferkit.recipes.label_sets",
    "LabelSetRecipe": "ferkit.recipes.label_sets",
    "NeighborBank": "ferkit.recipes.neighbor_bank",
    "NeighborGuidance": "ferkit.recipes.ldl_alsg",
    "NeighborRecipe": "ferkit.recipes.neighbors",
    "NoisyFER": "ferkit.recipes.noisyfer",
    "Recipe": "ferkit.recipes.base",
    "SCE": "ferkit.recipes.sce",
    "SCN": "ferkit.recipes.scn",
    "TrainingDiverged": "ferkit.recipes.noisyfer",
    "VGG": "ferkit.recipes.vgg",
}

__all__ = [
    *("AffectDMUE", "AffectTargets", "BackboneRecipe", "CoTeaching", "CrossEntropy", "DMUE", "GuidedDMUE", "LDLALSG"),
    *("LDLVA", "LTNet", "LabelPrediction", "LabelSetRecipe", "NeighborBank", "NeighborGuidance", "NeighborRecipe"),
    *("NoisyFER", "Recipe", "SCE", "SCN", "TrainingDiverged", "VGG"),
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_EXPORTS[name])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "ferkit":
            raise
        raise ImportError(f'ferkit.recipes needs {error.name}: pip install "ferkit[train]"') from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
