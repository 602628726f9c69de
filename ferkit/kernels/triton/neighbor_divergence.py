"""neighbor_divergence in Triton: one pass over all neighbours of a block of centres; neighbour logits are read once."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferkit.kernels.eager import neighbor_divergence as eager
from ferkit.kernels.triton.launch import FUSED, Specimen, accumulation_dtype, dense, next_power_of_two

__all__ = ["backward", "forward", "specimens"]

_WIDEST = 4096  # classes that fit one block; more go to the eager kernel


@triton.jit
def _compare(
    v_ptr, row, live, columns, inside, z, z_top, z_log, p, CLASSES: tl.constexpr, TERMS: tl.constexpr, ACC: tl.constexpr
):
    """q, log q - log p (1 where q is 0) and KL(q || p) per row, of one neighbour per centre."""
    v = tl.load(v_ptr + row[:, None] * CLASSES + columns[None, :], mask=live[:, None] & inside, other=0.0).to(ACC)
    v_top = tl.max(tl.where(inside, v, float("-inf")), axis=1)
    e = tl.where(inside, tl.exp(v - v_top[:, None]), 0.0)
    total = tl.sum(e, axis=1)
    q = e * (1.0 / total)[:, None]
    # v - z first: close logits differ exactly, and an error in the row's logarithms enters KL by its square.
    ratio = ((v - z) - (v_top - z_top)[:, None]) - (tl.log(total) - z_log)[:, None]
    ratio = tl.where(q > 0, ratio, 1.0)
    # r + exp(-r) - 1 = r^2/2 (1 - r/3 (1 - r/4 (...))) where it would cancel.
    inner = 1.0 - ratio * (1.0 / (TERMS + 2))
    for i in tl.static_range(1, TERMS):
        inner = 1.0 - ratio * inner * (1.0 / (TERMS + 2 - i))
    near = q * (0.5 * ratio * ratio * inner)
    terms = tl.where(ratio * ratio < 0.0625, near, q * ratio + (p - q))
    return q, ratio, tl.sum(tl.where(inside, terms, 0.0), axis=1)


@triton.jit
def _center(z_ptr, rows, live, columns, inside, CLASSES: tl.constexpr, ACC: tl.constexpr):
    """Logits, their largest, the logarithm of the sum of exp(. - largest), and the softmax."""
    z = tl.load(z_ptr + rows[:, None] * CLASSES + columns[None, :], mask=live[:, None] & inside, other=0.0).to(ACC)
    top = tl.max(tl.where(inside, z, float("-inf")), axis=1)
    e = tl.where(inside, tl.exp(z - top[:, None]), 0.0)
    total = tl.sum(e, axis=1)
    return z, top, tl.log(total), e * (1.0 / total)[:, None]


@triton.jit(do_not_specialize=["size"])
def _forward_kernel(
    z_ptr, v_ptr, w_ptr, loss_ptr, residual_ptr, divergence_ptr, size,
    COUNT: tl.constexpr, CLASSES: tl.constexpr, MEAN: tl.constexpr, TERMS: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    live = rows < size
    inside = (columns < CLASSES)[None, :]
    z, z_top, z_log, p = _center(z_ptr, rows, live, columns, inside, CLASSES, ACC)
    factor = tl.full([ROWS], 1.0, ACC)
    if MEAN:
        factor = factor / size
    loss = tl.zeros([ROWS], ACC)
    residual = tl.zeros([ROWS, BLOCK], ACC)
    for k in range(0, COUNT):
        pair = rows * COUNT + k
        w = tl.load(w_ptr + pair, mask=live, other=0.0).to(ACC)
        q, _, value = _compare(v_ptr, pair, live, columns, inside, z, z_top, z_log, p, CLASSES, TERMS, ACC)
        absent = w == 0.0
        value = tl.where(absent, 0.0, value)
        loss += tl.where(absent, 0.0, w * value)
        residual += tl.where(absent[:, None], 0.0, w[:, None] * (p - q))
        tl.store(divergence_ptr + pair, value * factor, mask=live)
    tl.store(loss_ptr + rows, loss, mask=live)
    at = residual_ptr + rows[:, None] * CLASSES + columns[None, :]
    tl.store(at, residual * factor[:, None], mask=live[:, None] & inside)


@triton.jit(do_not_specialize=["size", "grad_stride"])
def _backward_kernel(
    grad_ptr, z_ptr, v_ptr, w_ptr, residual_ptr, divergence_ptr, dz_ptr, dv_ptr, dw_ptr, size, grad_stride,
    COUNT: tl.constexpr, CLASSES: tl.constexpr, MEAN: tl.constexpr, TERMS: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    live = rows < size
    inside = (columns < CLASSES)[None, :]
    z, z_top, z_log, p = _center(z_ptr, rows, live, columns, inside, CLASSES, ACC)
    factor = tl.full([ROWS], 1.0, ACC)
    if MEAN:
        factor = factor / size
    grad = tl.load(grad_ptr + rows * grad_stride, mask=live, other=0.0).to(ACC)
    both = live[:, None] & inside
    cells = rows[:, None] * CLASSES + columns[None, :]
    residual = tl.load(residual_ptr + cells, mask=both, other=0.0)
    tl.store(dz_ptr + cells, grad[:, None] * residual, mask=both)
    for k in range(0, COUNT):
        pair = rows * COUNT + k
        w = tl.load(w_ptr + pair, mask=live, other=0.0).to(ACC)
        own = tl.load(divergence_ptr + pair, mask=live, other=0.0)
        q, ratio, _ = _compare(v_ptr, pair, live, columns, inside, z, z_top, z_log, p, CLASSES, TERMS, ACC)
        d = (grad * w)[:, None] * q * (ratio * factor[:, None] - own[:, None])
        at = dv_ptr + pair[:, None] * CLASSES + columns[None, :]
        tl.store(at, tl.where((w == 0.0)[:, None], 0.0, d), mask=both)
        tl.store(dw_ptr + pair, grad * own, mask=live)


def _shape(size: int, classes: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Rows of a block, its columns, warps: one warp a block for the batches of training, so that many processors work.

    Four cells a thread, two of float64, where rows are short: more of them spill.
    """
    block = next_power_of_two(classes, 4)
    warps = 1 if size <= 4096 else 4
    cells = warps * (64 if dtype == torch.float64 else 128)
    if block > cells:
        warps = min(16, max(warps, block // 128))
    return max(1, cells // block), block, warps


def _constants(dtype: torch.dtype, count: int, classes: int, mean: bool, rows: int, block: int) -> dict[str, Any]:
    double = dtype == torch.float64
    acc = tl.float64 if double else tl.float32
    sizes = {"COUNT": count, "CLASSES": classes}
    return {**sizes, "MEAN": mean, "TERMS": 11 if double else 5, "ACC": acc, "ROWS": rows, "BLOCK": block}


def _on(tensor: Tensor) -> Any:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _beyond(logits: Tensor, weight: Tensor) -> bool:
    """Nothing to launch, or rows too wide for one block."""
    return logits.numel() == 0 or weight.shape[1] == 0 or logits.shape[1] > _WIDEST


def forward(logits: Tensor, neighbor_logits: Tensor, weight: Tensor, mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (N,) or their mean; and for the backward their derivatives by logits (N, C) and by weight (N, K)."""
    if _beyond(logits, weight):
        return eager.forward(logits, neighbor_logits, weight, mean)
    logits, neighbor_logits, weight = dense(logits), dense(neighbor_logits), dense(weight)
    (size, classes), count = logits.shape, weight.shape[1]
    wide = accumulation_dtype(logits.dtype)
    loss = torch.empty(size, dtype=wide if mean else logits.dtype, device=logits.device)
    residual = torch.empty(size, classes, dtype=wide, device=logits.device)
    divergence = torch.empty(size, count, dtype=wide, device=logits.device)
    rows, block, warps = _shape(size, classes, logits.dtype)
    constants = _constants(logits.dtype, count, classes, mean, rows, block)
    with _on(logits):
        _forward_kernel[(triton.cdiv(size, rows),)](
            logits, neighbor_logits, weight, loss, residual, divergence, size, **constants, num_warps=warps, **FUSED
        )
        if mean:
            loss = loss.mean().to(logits.dtype)
    return loss, residual, divergence


def backward(
    grad: Tensor,
    logits: Tensor,
    neighbor_logits: Tensor,
    weight: Tensor,
    residual: Tensor,
    divergence: Tensor,
    mean: bool,
    neighbors: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """d logits (N, C), d neighbor_logits (N, K, C) if ``neighbors`` (else empty), d weight (N, K)."""
    if not neighbors or _beyond(logits, weight):
        return eager.backward(grad, logits, neighbor_logits, weight, residual, divergence, mean, neighbors)
    logits, neighbor_logits, weight = dense(logits), dense(neighbor_logits), dense(weight)
    residual, divergence = dense(residual), dense(divergence)
    (size, classes), count = logits.shape, weight.shape[1]
    d_logits, d_neighbors = torch.empty_like(logits), torch.empty_like(neighbor_logits)
    d_weight = torch.empty_like(weight)
    rows, block, warps = _shape(size, classes, logits.dtype)
    constants = _constants(logits.dtype, count, classes, mean, rows, block)
    with _on(logits):
        _backward_kernel[(triton.cdiv(size, rows),)](
            grad, logits, neighbor_logits, weight, residual, divergence, d_logits, d_neighbors, d_weight,
            size, 0 if mean else grad.stride(0), **constants, num_warps=warps, **FUSED,
        )  # fmt: skip
    return d_logits, d_neighbors, d_weight


def specimens() -> list[Specimen]:
    """Every dtype at four neighbours and FER's eight classes, both buckets, and rows that fill a block."""
    found = []
    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
    cases = [(dtype, 72, 8) for dtype in names] + [(torch.float32, 8192, 8)]
    cases += [(torch.float32, 72, _WIDEST), (torch.float64, 72, _WIDEST)]
    for dtype, size, classes in cases:
        rows, block, warps = _shape(size, classes, dtype)
        own, wide = f"*{names[dtype]}", "*fp64" if dtype == torch.float64 else "*fp32"
        inputs = {"z_ptr": own, "v_ptr": own, "w_ptr": own}
        saved = {"residual_ptr": wide, "divergence_ptr": wide}
        sizes = {"size": "i32"}
        constants = _constants(dtype, 4, classes, True, rows, block)
        name = f"{names[dtype]} C={classes} rows={rows}"
        signature = {**inputs, "loss_ptr": wide, **saved, **sizes}
        found.append(Specimen("neighbor_divergence", f"forward {name}", _forward_kernel, signature, constants, warps))
        if dtype in (torch.float32, torch.float64) and classes == 8 and size == 72:
            outputs = {"dz_ptr": own, "dv_ptr": own, "dw_ptr": own}
            signature = {"grad_ptr": own, **inputs, **saved, **outputs, **sizes, "grad_stride": "i32"}
            item = Specimen("neighbor_divergence", f"backward {name}", _backward_kernel, signature, constants, warps)
            found.append(item)
    return found
