"""Without a GPU the Triton kernels run under the interpreter; `pytest -m gpu` reads the GPU tests alone."""

import os
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).parent / "gpu"

# Before the kernels are imported: Triton's decorators read it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu` no other file is imported: they need packages (hypothesis, lightning) that a GPU test does not."""
    if config.getoption("markexpr") != "gpu":
        return None
    return True if collection_path != GPU and GPU not in collection_path.parents else None
