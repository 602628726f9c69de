"""What every loss does to its inputs before the arithmetic: one dtype, no autocast, unlabelled rows out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from ferkit.checks import check_floating, check_number

__all__ = ["as_vector", "check_temperature", "full_precision", "promote", "rank_among", "zero_rows"]

P = ParamSpec("P")
R = TypeVar("R")
_FULL = (torch.float32, torch.float64)


def promote(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one common dtype, float32 at least: half precision neither sums nor exponentiates well."""
    dtype = tensors[0].dtype
    if dtype in _FULL and all(tensor.dtype == dtype for tensor in tensors):
        return tensors
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return tuple(tensor.to(dtype) for tensor in tensors)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` outside autocast, so that its results are float32 under it; the device is the first tensor's."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = _device_type(args, kwargs)
        if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapped


def _device_type(args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return value.device.type
    return "cpu"


def zero_rows(values: Tensor, keep: Tensor) -> Tensor:
    """``values`` (..., N, D) with 0, and no gradient, in the rows where ``keep`` (N,) is False; NaN goes too."""
    return torch.where(keep.unsqueeze(-1), values, 0)


def poison_rows(values: Tensor, wrong: Tensor | None) -> Tensor:
    """``values`` (..., N, D) with NaN in the rows whose label is out of range (see `out_of_range`)."""
    return values if wrong is None else torch.where(wrong.unsqueeze(-1), torch.nan, values)


def rank_among(values: Tensor, part: Tensor) -> Tensor:
    """The place (N,) of each value in their order, the smallest first, those without a ``part`` (N,) behind all others.

    Of equal values the earlier is first; NaN is the largest.
    """
    order = values.detach().argsort(stable=True)
    return order[(~part)[order].byte().argsort(stable=True)].argsort()


def as_vector(values: Tensor, name: str) -> Tensor:
    """A floating-point (N,) or (N, 1) tensor as (N,)."""
    check_floating(values, name)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def check_temperature(temperature: float) -> None:
    check_number(temperature, "temperature", 0.0, open_low=True)
