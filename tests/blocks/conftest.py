"""Recorded values, and layers set to a recorded effective weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

GOLDENS = Path(__file__).parents[1] / "goldens"


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


@pytest.fixture
def assign() -> Callable[..., None]:
    @torch.no_grad()
    def set_weight(layer: nn.Module, data: dict[str, Tensor], name: str) -> None:
        """In eval mode the layer then applies ``name_w_eff``, with the recorded estimate ``name_sigma`` under it."""
        effective, sigma = data[f"{name}_w_eff"], data[f"{name}_sigma"]
        norm = layer.parametrizations.weight
        norm.original.copy_(effective * sigma)
        left, _, right = torch.linalg.svd(effective.flatten(1), full_matrices=False)
        norm[0]._u.copy_(left[:, 0])
        norm[0]._v.copy_(right[0] / (left[:, 0] @ effective.flatten(1) @ right[0]))  # so that u·Wv is sigma
        if layer.bias is not None:
            layer.bias.copy_(data[f"{name}_bias"])

    return set_weight


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
