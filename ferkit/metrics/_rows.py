"""Checks and means shared by the metrics: rows of probabilities, and votes that may be missing."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import check_choice, check_device, check_floating, check_shape, check_tensor

# A softmax in float32 sums to 1 within 1e-6; half types keep two or three digits.
TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 2e-2}


def check_probabilities(value: Tensor, name: str) -> Tensor:
    """Rows (N, C) that are >= 0 and sum to 1, in float64; values are looked at on the CPU only, to cost no sync."""
    check_floating(value, name)
    check_shape(value, name, ("N", "C"))
    wide = value.detach().double()
    if value.device.type == "cpu" and wide.numel():
        check_not_negative(wide, name)
        worst = float((wide.sum(1) - 1).abs().max())
        if worst > TOLERANCE.get(value.dtype, 1e-3):
            raise ValueError(f"{name}: expected rows that sum to 1 (probabilities), got one that is off by {worst:.3g}")
    return wide


def check_votes(value: Tensor, name: str, like: Tensor) -> Tensor:
    """Votes or distributions shaped as ``like``, as rows that sum to 1 in float64; a row without votes becomes NaN."""
    check_tensor(value, name)
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected a floating-point or integer tensor, got dtype {value.dtype}")
    check_shape(value, name, tuple(like.shape))
    check_device(like, **{name: value})
    wide = value.detach().double()
    if value.device.type == "cpu" and wide.numel():
        check_not_negative(wide, name)
    return wide / wide.sum(1, keepdim=True)


def check_not_negative(values: Tensor, name: str) -> None:
    """Raise ValueError for NaN, infinite or negative values."""
    low, high = (float(bound) for bound in torch.aminmax(values))
    if not (low >= 0 and high < float("inf")):  # written so that NaN fails
        raise ValueError(f"{name}: expected finite values >= 0, got {low:.4g}..{high:.4g}")


def reduce_rows(rows: Tensor, reduction: str) -> Tensor:
    """Mean or sum of the rows that are not NaN (mean of none: NaN), or the rows as they are."""
    check_choice(reduction, "reduction", ("mean", "sum", "none"))
    if reduction == "none":
        return rows
    return rows.nanmean() if reduction == "mean" else rows.nansum()
