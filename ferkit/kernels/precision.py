"""What every kernel accumulates in: float64 in itself, everything else in float32."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["accumulate", "accumulation_dtype"]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 accumulates in itself, everything else in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def accumulate(tensor: Tensor) -> Tensor:
    """The tensor in its accumulation dtype."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
