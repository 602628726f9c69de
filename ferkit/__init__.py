"""ferkit: losses, blocks, samplers and whole methods for learning facial expressions from noisy, ambiguous labels."""

from typing import Any

__version__ = "0.1.0"

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    """``ferkit.Predictor`` on first use: it needs the extra ``train``, and importing ferkit torch and numpy alone."""
    if name != "Predictor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module("ferkit.tasks").Predictor
