"""One function a command, usable from Python; names resolve on first use."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "DataOptions": "ferkit.tasks.data",
    "FitOptions": "ferkit.tasks.training",
    "GraphOptions": "ferkit.tasks.neighbors",
    "Predictor": "ferkit.tasks.predictor",
    "StudyOptions": "ferkit.tasks.study_plan",
    "TrainingDiverged": "ferkit.recipes",
    "attach_label_sets": "ferkit.tasks.label_sets",
    "build_graph": "ferkit.tasks.graph",
    "check_graph": "ferkit.tasks.graph",
    "demo": "ferkit.tasks.demonstration",
    "evaluate": "ferkit.tasks.evaluation",
    "graph_info": "ferkit.tasks.graph",
    "join_manifest": "ferkit.tasks.manifest",
    "predict_images": "ferkit.tasks.predictor",
    "show_graph": "ferkit.tasks.graph",
    "study": "ferkit.tasks.study_runs",
    "train": "ferkit.tasks.training",
    "training_graph": "ferkit.tasks.graph",
    "write_manifest": "ferkit.tasks.manifest",
}

__all__ = [
    "DataOptions",
    "FitOptions",
    "Predictor",
    "StudyOptions",
    "attach_label_sets",
    "build_graph",
    "check_graph",
    "demo",
    "evaluate",
    "graph_info",
    "join_manifest",
    "predict_images",
    "show_graph",
    "study",
    "train",
    "training_graph",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_EXPORTS[name])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "ferkit":
            raise
        raise ImportError(f'ferkit.tasks needs {error.name}: pip install "ferkit[train]"') from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
