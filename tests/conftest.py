"""Reference values; the interpreter for Triton where there is no GPU; `pytest -m gpu` reads the GPU tests alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GPU, GOLDENS = (Path(__file__).parent / name for name in ("gpu", "goldens"))

# Before the kernels are imported: Triton's decorators read it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu` no other file is imported: they need packages (hypothesis, lightning) that a GPU test does not."""
    if config.getoption("markexpr") != "gpu":
        return None
    return True if collection_path != GPU and GPU not in collection_path.parents else None


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    def load(name: str) -> dict[str, Tensor]:
        with np.load(GOLDENS / f"{name}.npz") as archive:
            return {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}

    return load


@pytest.fixture
def close() -> Callable[..., None]:
    def check(actual: Tensor | float, expected: Tensor | float, rtol: float = 1e-9, atol: float = 1e-12) -> None:
        actual = torch.as_tensor(actual, dtype=torch.float64)
        torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol)

    return check
