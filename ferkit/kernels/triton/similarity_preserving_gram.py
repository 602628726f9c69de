"""Gram form of similarity_preserving: library Gram matrices, one fused pass over their rows forward, one backward.

Every row of A_t - A_i needs its own row of G_t and G_i only, so the matrices may come in chunks of rows. The forward
keeps a few numbers per row and branch (the norms, and S_n = sum_p w_p D_np A_np of both sides); given those, each entry
of H = d G + d G^T depends on one entry of G_t and G_i, and the backward forms the upper triangle only.
Derivation: docs/math/similarity_preserving.md.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ferkit.kernels.triton.launch import FUSED, UNFUSED, Specimen

__all__ = ["finish", "pull", "rows", "specimens"]

_SIZES = ["row0", "rows", "column0", "columns", "size", "eighths", "capacity", "branches", "vectors"]
_STRIDES = ["mask_branch", "mask_row", "grad_stride", "count", "parts", "divisors", "end"]


@triton.jit
def inverse_root(square):
    """1/sqrt in double, 0 where the square is 0; NaN stays NaN."""
    wide = square.to(tl.float64)
    zero = wide == 0
    return tl.where(zero, 0.0, tl.rsqrt(tl.where(zero, 1.0, wide)))


# The vectors, each (size,), lie in `work` from `vectors` on: 1/r of the target (one, or one a branch if SUBSET), then
# by branch 1/r of the branch, c = w_n S_n / r_n of both sides (1/r_n^2 might overflow), w_n sum_p w_p D_np^2; at last
# 1/N_i^2, one a branch.


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])
def _rows_kernel(
    gram,
    mask,
    work,
    row0,
    rows,
    size,
    eighths,
    capacity,
    branches,
    vectors,
    mask_branch,
    mask_row,
    SUBSET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One branch, ROWS rows: norms over all columns, then the differences over all columns."""
    acc = work.dtype.element_ty
    tiles = tl.cdiv(rows, ROWS)
    branch = (tl.program_id(0) // tiles).to(tl.int64)
    here = (tl.program_id(0) % tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = here < rows
    wide = eighths.to(tl.int64) * 8  # so that the compiler knows how rows are aligned
    own = gram + here[:, None] * wide
    other = own + (branch + 1) * capacity * wide
    weights = mask + branch * mask_branch

    # In double: a float32 G may be anything up to 1e38, its square may not.
    square_t = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
    square_i = tl.zeros((ROWS, COLUMNS), dtype=tl.float64)
    for start in range(0, size, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)
        inside = column < size
        both = valid[:, None] & (column < wide)[None, :]  # the padding of a row is read too, and replaced
        t = tl.where(inside[None, :], tl.load(own + column[None, :], mask=both, other=0.0), 0.0)
        b = tl.where(inside[None, :], tl.load(other + column[None, :], mask=both, other=0.0), 0.0)
        t, b = t.to(tl.float64), b.to(tl.float64)
        if SUBSET:  # a masked row may hold NaN: replaced, not multiplied by zero
            w = tl.load(weights + column * mask_row, mask=inside, other=0).to(tl.float64)[None, :]
            square_t += tl.where(w != 0, w * (t * t), 0.0)
            square_i += tl.where(w != 0, w * (b * b), 0.0)
        else:
            square_t += t * t
            square_i += b * b
    inv_t = inverse_root(tl.sum(square_t, 1)).to(acc)
    inv_i = inverse_root(tl.sum(square_i, 1)).to(acc)

    distance = tl.zeros((ROWS, COLUMNS), dtype=acc)
    along_t = tl.zeros((ROWS, COLUMNS), dtype=acc)
    along_i = tl.zeros((ROWS, COLUMNS), dtype=acc)
    for start in range(0, size, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)
        inside = column < size
        both = valid[:, None] & (column < wide)[None, :]
        t = tl.where(inside[None, :], tl.load(own + column[None, :], mask=both, other=0.0), 0.0)
        b = tl.where(inside[None, :], tl.load(other + column[None, :], mask=both, other=0.0), 0.0)
        w = tl.load(weights + column * mask_row, mask=inside, other=0).to(acc)[None, :]
        a_t = t * inv_t[:, None]
        a_i = b * inv_i[:, None]
        d = a_t - a_i
        distance += tl.where(w != 0, w * (d * d), 0.0)
        along_t += tl.where(w != 0, w * (d * a_t), 0.0)
        along_i += tl.where(w != 0, w * (d * a_i), 0.0)

    pad = size.to(tl.int64) + tl.arange(0, 8)
    unwritten = valid[:, None] & (pad < wide)[None, :]
    nothing = tl.zeros((ROWS, 8), dtype=acc)  # padding is part of what is kept: defined, though never used
    tl.store(other + pad[None, :], nothing, mask=unwritten)
    if branch == 0:
        tl.store(own + pad[None, :], nothing, mask=unwritten)

    row = row0.to(tl.int64) + here
    w_n = tl.load(weights + row * mask_row, mask=valid, other=0).to(acc)
    one = size.to(tl.int64)
    base = work + vectors + row
    if SUBSET:
        tl.store(base + branch * one, inv_t, mask=valid)
        base += branches * one
    else:
        if branch == 0:  # the same in every branch
            tl.store(base, inv_t, mask=valid)
        base += one
    several = branches * one
    tl.store(base + branch * one, inv_i, mask=valid)
    c_t = tl.where(w_n != 0, w_n * tl.sum(along_t, 1) * inv_t, 0.0)
    c_i = tl.where(w_n != 0, w_n * tl.sum(along_i, 1) * inv_i, 0.0)
    total = tl.where(w_n != 0, w_n * tl.sum(distance, 1), 0.0)
    tl.store(base + several + branch * one, c_t, mask=valid)
    tl.store(base + 2 * several + branch * one, c_i, mask=valid)
    tl.store(base + 3 * several + branch * one, total, mask=valid)


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])
def _finish_kernel(work, parts, mask, loss, count, size, divisors, end, mask_branch, mask_row, BLOCK: tl.constexpr):
    """One branch: its parts summed in a fixed order, 1/N_i^2, and the loss."""
    branch = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, count, BLOCK):
        at = (start + tl.arange(0, BLOCK)).to(tl.int64)
        total += tl.load(work + parts + branch * count + at, mask=at < count, other=0.0).to(tl.float64)
    weight = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, size, BLOCK):
        at = (start + tl.arange(0, BLOCK)).to(tl.int64)
        weight += tl.load(mask + branch * mask_branch + at * mask_row, mask=at < size, other=0).to(tl.float64)
    rows = tl.sum(weight, 0)
    some = rows > 0
    divisor = tl.where(some, 1.0 / tl.where(some, rows * rows, 1.0), 0.0)
    value = tl.sum(total, 0)
    value = tl.where(value < 0, 0.0, value)  # NaN stays; the factored form may round below 0
    tl.store(work + divisors + branch, divisor.to(work.dtype.element_ty))
    tl.store(loss + branch, (value * divisor).to(loss.dtype.element_ty))
    if branch == 0:  # what rounds the state up, up to `end`
        tail = divisors + tl.num_programs(0) + tl.arange(0, 4)
        tl.store(work + tail, tl.zeros((4,), dtype=work.dtype.element_ty), mask=tail < end)


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])
def _pull_kernel(
    gram,
    result,
    mask,
    grad,
    work,
    row0,
    rows,
    column0,
    columns,
    size,
    eighths,
    capacity,
    branches,
    vectors,
    mask_branch,
    mask_row,
    grad_stride,
    SUBSET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One tile of H of the target and of every branch; `result` may be `gram`, each entry is read before written."""
    acc = work.dtype.element_ty
    tiles = tl.cdiv(columns, COLUMNS)
    here = (tl.program_id(0) // tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = (tl.program_id(0) % tiles).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    in_row, in_column = here < rows, there < columns
    wide = eighths.to(tl.int64) * 8
    both = in_row[:, None] & (there < wide)[None, :]  # a row's padding comes along: whole vectors
    matrix = capacity * wide
    at = here[:, None] * wide + there[None, :]
    n = row0.to(tl.int64) + here
    p = column0.to(tl.int64) + there
    one = size.to(tl.int64)
    several = branches * one
    inverses = work + vectors
    base = inverses + one
    if SUBSET:
        base = inverses + several
    divisors = base + 4 * several

    t = tl.where(in_column[None, :], tl.load(gram + at, mask=both, other=0.0), 0.0)
    h_t = tl.zeros((ROWS, COLUMNS), dtype=acc)
    for i in range(branches):
        mine = inverses + i * one if SUBSET else inverses
        it_n = tl.load(mine + n, mask=in_row, other=0.0)
        it_p = tl.load(mine + p, mask=in_column, other=0.0)
        vector = base + i * one
        ii_n = tl.load(vector + n, mask=in_row, other=0.0)
        ii_p = tl.load(vector + p, mask=in_column, other=0.0)
        ct_n = tl.load(vector + several + n, mask=in_row, other=0.0)
        ct_p = tl.load(vector + several + p, mask=in_column, other=0.0)
        ci_n = tl.load(vector + 2 * several + n, mask=in_row, other=0.0)
        ci_p = tl.load(vector + 2 * several + p, mask=in_column, other=0.0)
        weights = mask + i * mask_branch.to(tl.int64)
        w_n = tl.load(weights + n * mask_row, mask=in_row, other=0).to(acc)
        w_p = tl.load(weights + p * mask_row, mask=in_column, other=0).to(acc)
        scale = 2 * tl.load(grad + i * grad_stride).to(acc) * tl.load(divisors + i)

        b = tl.load(gram + (i + 1) * matrix + at, mask=both, other=0.0)
        b = tl.where(in_column[None, :], b, 0.0)
        t_n, t_p = t * it_n[:, None], t * it_p[None, :]
        b_n, b_p = b * ii_n[:, None], b * ii_p[None, :]
        forth = t_n - b_n
        back = t_p - b_p
        pair = w_n[:, None] * w_p[None, :]
        add_t = pair * (it_n[:, None] * forth + it_p[None, :] * back)
        add_i = -pair * (ii_n[:, None] * forth + ii_p[None, :] * back)
        if SUBSET:
            used = (w_n[:, None] != 0) & (w_p[None, :] != 0)
            add_t -= t_n * (w_p[None, :] * ct_n[:, None]) + t_p * (w_n[:, None] * ct_p[None, :])
            add_i += b_n * (w_p[None, :] * ci_n[:, None]) + b_p * (w_n[:, None] * ci_p[None, :])
            add_t = tl.where(used, add_t, 0.0)
            add_i = tl.where(used, add_i, 0.0)
        else:
            add_t -= t_n * ct_n[:, None] + t_p * ct_p[None, :]
            add_i += b_n * ci_n[:, None] + b_p * ci_p[None, :]
        h_t += scale * add_t
        tl.store(result + (i + 1) * matrix + at, scale * add_i, mask=both)
    tl.store(result + at, h_t, mask=both)


# ---- launches; `gram` (M + 1, capacity, wide) of the accumulation dtype, `work` flat of the same


def rows(gram: Tensor, mask: Tensor, work: Tensor, vectors: int, row0: int, count: int, subset: bool) -> None:
    """Vectors of rows row0.. of the batch, which are the first ``count`` rows of each matrix in ``gram``."""
    branches, size = mask.shape
    several, block = (4, 128) if size <= 128 else (4, 256)
    grid = (triton.cdiv(count, several) * branches,)
    sizes = row0, count, size, gram.shape[2] // 8, gram.shape[1], branches, vectors, *mask.stride()
    _rows_kernel[grid](gram, mask, work, *sizes, SUBSET=subset, ROWS=several, COLUMNS=block, num_warps=4, **UNFUSED)


def finish(work: Tensor, parts: int, count: int, divisors: int, end: int, mask: Tensor, loss: Tensor) -> None:
    """loss (M,) = the sum of ``count`` parts a branch / N_i^2; 1/N_i^2 goes to ``divisors``, zeros on to ``end``."""
    branches, size = mask.shape
    sizes = count, size, divisors, end, *mask.stride()
    _finish_kernel[(branches,)](work, parts, mask, loss, *sizes, BLOCK=1024, num_warps=4, **FUSED)


def pull(
    gram: Tensor,
    result: Tensor,
    mask: Tensor,
    grad: Tensor,
    work: Tensor,
    vectors: int,
    tile: tuple[int, int, int, int],
    subset: bool,
) -> None:
    """H of rows row0.. and columns column0.. (``tile`` = row0, rows, column0, columns) of every matrix."""
    branches, size = mask.shape
    row0, count, column0, columns = tile
    height, width, warps = (8, 32, 4) if size <= 128 else (32, 32, 8)
    grid = (triton.cdiv(count, height) * triton.cdiv(columns, width),)
    sizes = row0, count, column0, columns, size, gram.shape[2] // 8, gram.shape[1], branches, vectors
    arguments = gram, result, mask, grad, work, *sizes, *mask.stride(), *grad.stride()
    _pull_kernel[grid](*arguments, SUBSET=subset, ROWS=height, COLUMNS=width, num_warps=warps, **UNFUSED)


def specimens() -> list[Specimen]:
    """The kernels of the Gram form in the dtypes and buckets in use."""
    large, small = {"ROWS": 4, "COLUMNS": 256}, {"ROWS": 4, "COLUMNS": 128}
    cases: list[tuple[str, Any, str, dict[str, Any], int]] = [
        ("gram_rows_f32", _rows_kernel, "*fp32", {"SUBSET": False, **large}, 4),
        ("gram_rows_f64", _rows_kernel, "*fp64", {"SUBSET": False, **large}, 4),
        ("gram_rows_small", _rows_kernel, "*fp32", {"SUBSET": True, **small}, 4),
        ("gram_pull_f32", _pull_kernel, "*fp32", {"SUBSET": False, "ROWS": 32, "COLUMNS": 32}, 8),
        ("gram_pull_f64", _pull_kernel, "*fp64", {"SUBSET": True, "ROWS": 32, "COLUMNS": 32}, 8),
        ("gram_pull_small", _pull_kernel, "*fp32", {"SUBSET": True, "ROWS": 8, "COLUMNS": 32}, 4),
        ("finish", _finish_kernel, "*fp32", {"BLOCK": 1024}, 4),
    ]
    found = []
    for name, kernel, kind, constants, warps in cases:
        types = dict.fromkeys(("gram", "result", "work", "grad", "loss"), kind) | {"mask": "*u8"}
        signature = {key: types.get(key, "i32") for key in kernel.arg_names if key not in constants}
        options: dict[str, Any] = dict(FUSED if kernel is _finish_kernel else UNFUSED)
        found.append(Specimen("similarity_preserving", name, kernel, signature, constants, warps, options=options))
    return found
