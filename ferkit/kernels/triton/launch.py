"""What the Triton launchers share: how a kernel is described for compilation ahead of time, and small choices."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ferkit.kernels.precision import accumulation_dtype

__all__ = ["FUSED", "INTERPRETED", "UNFUSED", "Specimen", "accumulation_dtype", "dense", "next_power_of_two"]

# Read when Triton's decorators run, as Triton itself does; the interpreter takes CPU tensors.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


# Said at every launch, since Triton's default is about to change. Fused, a * b - c * d is not 0 for equal products.
FUSED, UNFUSED = {"enable_fp_fusion": True}, {"enable_fp_fusion": False}


@dataclass(frozen=True)
class Specimen:
    """One compiled variant of a kernel: what the table of registers, spills and shared memory is made of.

    ``signature`` maps every run-time argument to its Triton type ("*fp32", "i64", ...), ``constants`` every constexpr.
    """

    op: str
    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int = 2
    options: dict[str, Any] = field(default_factory=dict)


def next_power_of_two(size: int, least: int = 16) -> int:
    """The smallest power of two that holds ``size``, at least ``least``."""
    return max(least, 1 << max(0, size - 1).bit_length())


def dense(tensor: Tensor) -> Tensor:
    """Contiguous, without a copy where it already is."""
    return tensor if tensor.is_contiguous() else tensor.contiguous()
