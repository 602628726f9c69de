"""ferkit: losses, blocks, samplers and whole methods for learning facial expressions from noisy, ambiguous labels."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ferkit.tasks.predictor import Predictor as Predictor
else:

    def __getattr__(name):
        """``ferkit.Predictor`` on first use: it needs the extra ``train``, and importing ferkit does not."""
        if name != "Predictor":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return importlib.import_module("ferkit.tasks").Predictor

    def __dir__():
        return sorted([*globals(), "Predictor"])
