"""scaled_cross_entropy in Triton: one pass each way; batches of training take one launch each way, mean included."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferkit.kernels.eager import scaled_cross_entropy as eager
from ferkit.kernels.flags import label_flag
from ferkit.kernels.triton.launch import FUSED, Specimen, accumulation_dtype, dense, next_power_of_two

__all__ = ["backward", "forward", "specimens"]

_WIDEST = 4096  # classes that fit one block; more go to the eager kernel
_SINGLE = 8192  # cells up to which one program takes the whole batch of a mean
_PARTS = 1024  # programs that share a mean at most; the last stage adds up as many numbers
_EACH, _SHARED, _ALONE = 0, 1, 2  # one loss each; sums per program; one program and the mean itself


@triton.jit(do_not_specialize=["size", "scale_stride", "label_stride"])
def _forward_kernel(
    z_ptr, scale_ptr, label_ptr, loss_ptr, normaliser_ptr, flag_ptr, sum_ptr, count_ptr, size, scale_stride,
    label_stride,
    CLASSES: tl.constexpr, KIND: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    step = tl.num_programs(0).to(tl.int64) * ROWS
    columns = tl.arange(0, BLOCK)
    inside = (columns < CLASSES)[None, :]
    sums = tl.zeros([ROWS], ACC)
    counts = tl.zeros([ROWS], tl.int64)
    wrong = tl.zeros([ROWS], tl.int32)
    for first in range(program * ROWS, size, step):
        rows = first + tl.arange(0, ROWS)
        live = rows < size
        z = tl.load(z_ptr + rows[:, None] * CLASSES + columns[None, :], mask=live[:, None] & inside, other=0.0).to(ACC)
        scale = tl.load(scale_ptr + rows * scale_stride, mask=live, other=0.0).to(ACC)
        label = tl.load(label_ptr + rows * label_stride, mask=live, other=-1)
        bad = (label < -1) | (label >= CLASSES)
        scaled = z * scale[:, None]
        top = tl.max(tl.where(inside, scaled, float("-inf")), axis=1)
        total = tl.sum(tl.where(inside, tl.exp(scaled - top[:, None]), 0.0), axis=1)
        own = tl.sum(tl.where(columns[None, :] == label[:, None], scaled, 0.0), axis=1)
        loss = tl.where(label >= 0, (top - own) + tl.log(total), 0.0)
        loss = tl.where(bad, float("nan"), loss)
        tl.store(normaliser_ptr + rows * 2, top, mask=live)
        tl.store(normaliser_ptr + rows * 2 + 1, total, mask=live)
        if KIND == 0:
            tl.store(loss_ptr + rows, loss, mask=live)
        else:
            sums += tl.where(live, loss, 0.0)
            counts += (label >= 0).to(tl.int64)
        wrong = wrong | bad.to(tl.int32)
    if KIND == 1:
        tl.store(sum_ptr + program, tl.sum(sums, axis=0))
        tl.store(count_ptr + program, tl.sum(counts, axis=0))
    if KIND == 2:
        labelled = tl.sum(counts, axis=0)
        tl.store(loss_ptr, tl.sum(sums, axis=0) / tl.where(labelled > 0, labelled, 1).to(ACC))
    tl.store(flag_ptr, 1, mask=tl.sum(wrong, axis=0) > 0)  # all programs store the same value


@triton.jit(do_not_specialize=["parts"])
def _mean_kernel(sum_ptr, count_ptr, loss_ptr, parts, PARTS: tl.constexpr):
    index = tl.arange(0, PARTS)
    total = tl.sum(tl.load(sum_ptr + index, mask=index < parts, other=0.0), axis=0)
    labelled = tl.sum(tl.load(count_ptr + index, mask=index < parts, other=0), axis=0)
    tl.store(loss_ptr, total / tl.where(labelled > 0, labelled, 1).to(total.dtype))


@triton.jit(do_not_specialize=["size", "label_stride"])
def _count_kernel(label_ptr, count_ptr, size, label_stride, ROWS: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    step = tl.num_programs(0).to(tl.int64) * ROWS
    counts = tl.zeros([ROWS], tl.int64)
    for first in range(program * ROWS, size, step):
        rows = first + tl.arange(0, ROWS)
        label = tl.load(label_ptr + rows * label_stride, mask=rows < size, other=-1)
        counts += (label >= 0).to(tl.int64)
    tl.store(count_ptr + program, tl.sum(counts, axis=0))


@triton.jit(do_not_specialize=["size", "parts", "grad_stride", "scale_stride", "label_stride"])
def _backward_kernel(
    grad_ptr, z_ptr, scale_ptr, label_ptr, normaliser_ptr, dz_ptr, ds_ptr, count_ptr, size, parts, grad_stride,
    scale_stride, label_stride,
    CLASSES: tl.constexpr, KIND: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    live = rows < size
    both = live[:, None] & (columns < CLASSES)[None, :]
    cells = rows[:, None] * CLASSES + columns[None, :]
    grad = tl.load(grad_ptr + rows * grad_stride, mask=live, other=0.0).to(ACC)
    if KIND != 0:
        index = tl.arange(0, PARTS)
        if KIND == 1:  # counted before, a number per program
            labelled = tl.sum(tl.load(count_ptr + index, mask=index < parts, other=0), axis=0)
        else:  # few labels: every program counts them all
            counts = tl.zeros([PARTS], tl.int64)
            for first in range(0, size, PARTS):
                at = (first + index).to(tl.int64)
                every = tl.load(label_ptr + at * label_stride, mask=at < size, other=-1)
                counts += (every >= 0).to(tl.int64)
            labelled = tl.sum(counts, axis=0)
        grad = grad / tl.where(labelled > 0, labelled, 1).to(ACC)
    z = tl.load(z_ptr + cells, mask=both, other=0.0).to(ACC)
    scale = tl.load(scale_ptr + rows * scale_stride, mask=live, other=0.0).to(ACC)
    label = tl.load(label_ptr + rows * label_stride, mask=live, other=-1)
    bad = (label < -1) | (label >= CLASSES)
    top = tl.load(normaliser_ptr + rows * 2, mask=live, other=0.0)
    total = tl.load(normaliser_ptr + rows * 2 + 1, mask=live, other=1.0)
    p = tl.exp(z * scale[:, None] - top[:, None]) * (1.0 / total)[:, None]
    residual = grad[:, None] * tl.where(columns[None, :] == label[:, None], p - 1.0, p)
    d_logits = tl.where((label >= 0)[:, None], scale[:, None] * residual, 0.0)
    d_scale = tl.sum(tl.where(both, z * residual, 0.0), axis=1)
    d_scale = tl.where(label >= 0, d_scale, 0.0)
    tl.store(dz_ptr + cells, tl.where(bad[:, None], float("nan"), d_logits), mask=both)
    tl.store(ds_ptr + rows, tl.where(bad, float("nan"), d_scale), mask=live)


def _shape(size: int, classes: int, dtype: torch.dtype, alone: bool = False) -> tuple[int, int, int]:
    """Rows of a block, its columns, warps; eight cells a thread, four of float64."""
    block = next_power_of_two(classes, 4)
    warps = 8 if alone else 1 if size <= 4096 else 4
    cells = warps * (128 if dtype == torch.float64 else 256)
    if block > cells:
        warps = min(16, max(warps, block // 256))
    return max(1, cells // block), block, warps


def _on(tensor: Tensor) -> Any:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _accumulator(dtype: torch.dtype) -> Any:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _kind(size: int, classes: int, mean: bool) -> int:
    if not mean:
        return _EACH
    return _ALONE if size * next_power_of_two(classes, 4) <= _SINGLE else _SHARED


def forward(logits: Tensor, scale: Tensor, labels: Tensor, mean: bool) -> tuple[Tensor, Tensor]:
    """Losses (N,) or their mean; for the backward the largest scaled logit and the sum of exp(. - largest), (N, 2)."""
    size, classes = logits.shape
    if logits.numel() == 0 or classes > _WIDEST:
        return eager.forward(logits, scale, labels, mean)
    logits = dense(logits)
    wide = accumulation_dtype(logits.dtype)
    kind = _kind(size, classes, mean)
    loss = torch.empty(() if mean else (size,), dtype=logits.dtype, device=logits.device)
    normaliser = torch.empty(size, 2, dtype=wide, device=logits.device)
    rows, block, warps = _shape(size, classes, logits.dtype, kind == _ALONE)
    programs = 1 if kind == _ALONE else triton.cdiv(size, rows)
    sums, counts = normaliser, labels  # stand-ins that the other kinds never touch
    if kind == _SHARED:
        programs = min(programs, _PARTS)
        sums = torch.empty(programs, dtype=wide, device=logits.device)
        counts = torch.empty(programs, dtype=torch.int64, device=logits.device)
    with _on(logits):
        _forward_kernel[(programs,)](
            logits, scale, labels, loss, normaliser, label_flag(logits.device), sums, counts,
            size, scale.stride(0), labels.stride(0),
            CLASSES=classes, KIND=kind, ACC=_accumulator(logits.dtype), ROWS=rows, BLOCK=block, num_warps=warps,
            **FUSED,
        )  # fmt: skip
        if kind == _SHARED:
            _mean_kernel[(1,)](sums, counts, loss, programs, PARTS=_PARTS, num_warps=4, **FUSED)
    return loss, normaliser


def backward(
    grad: Tensor, logits: Tensor, scale: Tensor, labels: Tensor, normaliser: Tensor, mean: bool
) -> tuple[Tensor, Tensor]:
    """d logits (N, C) and d scale (N,)."""
    size, classes = logits.shape
    if logits.numel() == 0 or classes > _WIDEST:
        return eager.backward(grad, logits, scale, labels, normaliser, mean)
    logits, normaliser = dense(logits), dense(normaliser)
    kind = _kind(size, classes, mean)
    d_logits = torch.empty_like(logits)
    d_scale = torch.empty(size, dtype=scale.dtype, device=scale.device)
    rows, block, warps = _shape(size, classes, logits.dtype)
    counts, parts = labels, 0  # a stand-in that the other kinds never touch
    with _on(logits):
        if kind == _SHARED:
            parts = min(triton.cdiv(size, 1024), _PARTS)
            counts = torch.empty(parts, dtype=torch.int64, device=labels.device)
            _count_kernel[(parts,)](labels, counts, size, labels.stride(0), ROWS=1024, num_warps=4, **FUSED)
        _backward_kernel[(triton.cdiv(size, rows),)](
            grad, logits, scale, labels, normaliser, d_logits, d_scale, counts,
            size, parts, 0 if mean else grad.stride(0), scale.stride(0), labels.stride(0),
            CLASSES=classes, KIND=kind, ACC=_accumulator(logits.dtype), ROWS=rows, BLOCK=block,
            PARTS=_PARTS if kind == _SHARED else 256, num_warps=warps, **FUSED,
        )  # fmt: skip
    return d_logits, d_scale


def specimens() -> list[Specimen]:
    """Every dtype at FER's eight classes, the three ways to a mean, and rows that fill a block."""
    found = []
    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
    cases = [(dtype, 72, 8) for dtype in names] + [(torch.float32, 65536, 8), (torch.float32, 72, _WIDEST)]
    op = "scaled_cross_entropy"
    for dtype, size, classes in cases:
        own, wide = f"*{names[dtype]}", "*fp64" if dtype == torch.float64 else "*fp32"
        kind = _kind(size, classes, True)
        inputs = {"z_ptr": own, "scale_ptr": own, "label_ptr": "*i64"}
        strides = {"scale_stride": "i32", "label_stride": "i32"}
        outputs = {"loss_ptr": own, "normaliser_ptr": wide, "flag_ptr": "*i32", "sum_ptr": wide, "count_ptr": "*i64"}
        rows, block, warps = _shape(size, classes, dtype, kind == _ALONE)
        constants = {"CLASSES": classes, "KIND": kind, "ACC": _accumulator(dtype), "ROWS": rows, "BLOCK": block}
        signature = {**inputs, **outputs, "size": "i32", **strides}
        name = f"{names[dtype]} C={classes} rows={rows}"
        found.append(Specimen(op, f"forward {name}", _forward_kernel, signature, constants, warps))
        if dtype in (torch.float32, torch.float64):
            rows, block, warps = _shape(size, classes, dtype)
            constants = {**constants, "ROWS": rows, "BLOCK": block, "PARTS": _PARTS if kind == _SHARED else 256}
            gradients = {"normaliser_ptr": wide, "dz_ptr": own, "ds_ptr": own, "count_ptr": "*i64"}
            sizes = {"size": "i32", "parts": "i32", "grad_stride": "i32", **strides}
            signature = {"grad_ptr": own, **inputs, **gradients, **sizes}
            name = f"{names[dtype]} C={classes} rows={rows}"
            found.append(Specimen(op, f"backward {name}", _backward_kernel, signature, constants, warps))
    signature = {"sum_ptr": "*fp32", "count_ptr": "*i64", "loss_ptr": "*fp32", "parts": "i32"}
    found.append(Specimen(op, "mean", _mean_kernel, signature, {"PARTS": _PARTS}, 4))
    signature = {"label_ptr": "*i64", "count_ptr": "*i64", "size": "i32", "label_stride": "i32"}
    found.append(Specimen(op, "count", _count_kernel, signature, {"ROWS": 1024}, 4))
    return found
