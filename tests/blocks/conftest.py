"""Recorded values, and layers set to a recorded effective weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


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
