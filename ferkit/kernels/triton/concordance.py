"""concordance in Triton: moments of a range of rows per program, one program that merges them, elementwise backward."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ferkit.kernels.eager.concordance import STATE
from ferkit.kernels.triton.concordance_kernels import SUMS, gradient_kernel, merge_kernel, moments_kernel
from ferkit.kernels.triton.launch import FUSED, Specimen, dense, next_power_of_two

__all__ = ["backward", "forward", "specimens"]

_ROWS = 512  # rows that a program holds at a time for one or two targets; fewer for more
_PROGRAMS = 256  # at most, hence the most partial sums to merge
_MERGED = 4  # targets merged by one program: more of them would not fit the registers
_SINGLE = 2048  # up to here one program does it all: a second launch costs more than a few blocks of rows


def _shape(width: int) -> tuple[int, int]:
    """Rows and targets of a block: powers of two, at most 1024 numbers."""
    columns = next_power_of_two(min(width, 32), 2)
    return min(_ROWS, 1024 // columns), columns


def _type(dtype: torch.dtype) -> tuple[Any, float]:
    """The accumulation type, and where 2 / D is cut so that it stays finite there."""
    return (tl.float64, 1e300) if dtype == torch.float64 else (tl.float32, 1e38)


def _on(tensor: Tensor) -> Any:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def forward(
    prediction: Tensor, target: Tensor, weight: Tensor | None, released: bool, loss: bool, mean: bool
) -> tuple[Tensor, Tensor]:
    """CCC, or with ``loss`` 1 - CCC, per target (T,) or their mean; and the float64 state (T, 6) for the backward."""
    size, width = prediction.shape
    value = prediction.new_empty(width)
    state = prediction.new_empty(width, STATE, dtype=torch.float64)
    if width == 0:
        return (prediction.new_zeros(()) if mean else value), state
    x, y, w = dense(prediction), dense(target), None if weight is None else dense(weight)
    (rows, columns), single = _shape(width), size <= _SINGLE
    merged = columns if single else min(columns, _MERGED)
    here = mean and width <= merged  # otherwise no program sees every target
    if here:
        value = prediction.new_empty(())
    blocks = -(-size // rows)
    each = blocks if single else -(-blocks // min(blocks, _PROGRAMS))
    programs = 1 if single else -(-blocks // each)
    partial = state if single else state.new_empty(programs, SUMS.value, width)
    accumulate, largest = _type(prediction.dtype)
    flags = {"RELEASED": released, "LOSS": loss, "MEAN": here, "LARGEST": largest, "num_warps": 4, **FUSED}
    with _on(prediction):
        moments_kernel[(programs, -(-width // columns))](
            x, y, x if w is None else w, partial, value, state, size, each, width,
            WEIGHTED=w is not None, SINGLE=single, BN=rows, BT=columns, ACC=accumulate, **flags,
        )  # fmt: skip
        if not single:
            merge_kernel[(-(-width // merged),)](
                partial, value, state, programs, width, BP=_PROGRAMS, BT=merged, **flags
            )
    return (value.mean() if mean and not here else value), state


def backward(
    grad: Tensor,
    prediction: Tensor,
    target: Tensor,
    weight: Tensor | None,
    state: Tensor,
    released: bool,
    loss: bool,
    mean: bool,
    with_target: bool,
) -> tuple[Tensor, Tensor]:
    """d prediction and d target (N, T); the latter (0,) unless asked for."""
    size, width = prediction.shape
    d_prediction = prediction.new_empty(size, width)
    d_target = target.new_empty((size, width) if with_target else 0)
    if size == 0 or width == 0:
        return d_prediction, d_target
    x, y, w = dense(prediction), dense(target), None if weight is None else dense(weight)
    rows, columns = _shape(width)
    with _on(prediction):
        gradient_kernel[(-(-size // rows), -(-width // columns))](
            dense(grad), x, y, x if w is None else w, dense(state), d_prediction,
            d_target if with_target else d_prediction, size, width,
            WEIGHTED=w is not None, LOSS=loss, MEAN=mean, WITH_TARGET=with_target, BN=rows, BT=columns,
            ACC=_type(prediction.dtype)[0], num_warps=4, **FUSED,
        )  # fmt: skip
    return d_prediction, d_target


def specimens() -> list[Specimen]:
    """The variants compiled ahead of time: valence and arousal in every dtype, and a block of 32 targets."""
    fp64, sums = "*fp64", {"programs": "i32", "width": "i32"}
    flags = {"RELEASED": True, "LOSS": True, "MEAN": True}
    merge = {**flags, "BP": _PROGRAMS, "BT": _MERGED, "LARGEST": 1e38}
    ends = {"value_ptr": "*fp32", "state_ptr": fp64}
    found = [Specimen("concordance", "merge", merge_kernel, {"partial_ptr": fp64, **ends, **sums}, merge, warps=4)]
    for name, dtype, width, weighted in (
        ("fp32", torch.float32, 2, True),
        ("fp32 wide", torch.float32, 32, True),
        ("bf16", torch.bfloat16, 2, False),
        ("fp64", torch.float64, 2, True),
    ):
        data = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float64: fp64}[dtype]
        (rows, columns), (accumulate, largest) = _shape(width), _type(dtype)
        block = {"WEIGHTED": weighted, "BN": rows, "BT": columns, "ACC": accumulate}
        pair = {"x_ptr": data, "y_ptr": data, "w_ptr": data}
        sizes = {"size": "i32", "blocks": "i32", "width": "i32"}
        moments = {**pair, "partial_ptr": fp64, "value_ptr": data, "state_ptr": fp64, **sizes}
        settings = {**block, **flags, "LARGEST": largest, "SINGLE": width == 2}
        found.append(Specimen("concordance", f"moments {name}", moments_kernel, moments, settings, warps=4))
        gradient = {"g_ptr": data, **pair, "state_ptr": fp64, "dx_ptr": data, "dy_ptr": data, "size": "i32"}
        settings = {**block, "LOSS": True, "MEAN": True, "WITH_TARGET": True}
        arguments = {**gradient, "width": "i32"}
        found.append(Specimen("concordance", f"gradient {name}", gradient_kernel, arguments, settings, warps=4))
    return found
