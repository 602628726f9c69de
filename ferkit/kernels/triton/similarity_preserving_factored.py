"""Factored form of similarity_preserving: kernels form U, X and Z row by row in double, the library multiplies them.

Everything is float64, since X and Z cancel where branches agree only up to scale or rotation. A side is one way a
matrix of features is normalised: the target has one, or one a branch with SUBSET; each branch has one. With v the
weights inside the norms and w those of the pairs, rows go into the products as sqrt(v) F, sqrt(w) X and sqrt(w) Z.
Derivation: docs/math/similarity_preserving.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ferkit.kernels.triton.similarity_preserving_gram import inverse_root

__all__ = ["SPLITS", "close", "dots", "norms", "pairs", "pull", "spread"]

SPLITS = 32  # partial sums of <X^T M X, Z^T M Z> a branch
_SIZES = ["row0", "rows", "capacity", "size", "width", "wide", "matrix", "entries", "sides"]
_STRIDES = ["mask_branch", "mask_row", "grad_stride", "target_width", "branch_width"]
_ROWS, _BLOCK = tl.constexpr(8), tl.constexpr(64)


@triton.jit
def _position(row0, rows):
    """Which matrix, which rows of the chunk, whether they exist, and their place in the batch."""
    tiles = tl.cdiv(rows, _ROWS)
    which = (tl.program_id(0) // tiles).to(tl.int64)
    here = (tl.program_id(0) % tiles).to(tl.int64) * _ROWS + tl.arange(0, _ROWS)
    return which, here, here < rows, row0.to(tl.int64) + here


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])
def spread(
    features,
    mask,
    inverse,
    along,
    right,
    left,
    row0,
    rows,
    capacity,
    size,
    width,
    wide,
    matrix,
    mask_branch,
    mask_row,
    SUBSET: tl.constexpr,
    LEFT: tl.constexpr,
):
    """right = sqrt(v) F, and left = 2 q F / sqrt(v) with q = -along / (2 r^3), both padded with zeros to `wide`."""
    side, here, valid, n = _position(row0, rows)
    root = tl.full((_ROWS,), 1.0, tl.float64)
    if SUBSET:
        root = tl.sqrt(tl.load(mask + side * mask_branch + n * mask_row, mask=valid, other=0).to(tl.float64))
    used = root != 0
    factor = tl.zeros((_ROWS,), dtype=tl.float64)
    if LEFT:
        inv = tl.load(inverse + side * size + n, mask=valid, other=0.0)
        dot = tl.load(along + side * size + n, mask=valid, other=0.0)
        factor = tl.where(used, -(inv * inv * inv) * dot / tl.where(used, root, 1.0), 0.0)
    for start in range(0, wide, _BLOCK):
        d = (start + tl.arange(0, _BLOCK)).to(tl.int64)
        both = valid[:, None] & (d < width)[None, :]
        f = tl.load(features + side * matrix + n[:, None] * width + d[None, :], mask=both, other=0.0).to(tl.float64)
        f = tl.where(used[:, None], f, 0.0)
        to = (side * capacity + here[:, None]) * wide + d[None, :]
        inside = valid[:, None] & (d < wide)[None, :]
        tl.store(right + to, root[:, None] * f, mask=inside)
        if LEFT:
            tl.store(left + to, factor[:, None] * f, mask=inside)


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])
def norms(
    right,
    product,
    mask,
    inverse,
    row0,
    rows,
    capacity,
    size,
    wide,
    mask_branch,
    mask_row,
    SUBSET: tl.constexpr,
):
    """1/r with r^2 = right . (right F^T V F) / v; 0 for a zero row and for one that takes no part."""
    side, here, valid, n = _position(row0, rows)
    total = tl.zeros((_ROWS, _BLOCK), dtype=tl.float64)
    for start in range(0, wide, _BLOCK):
        d = (start + tl.arange(0, _BLOCK)).to(tl.int64)
        both = valid[:, None] & (d < wide)[None, :]
        at = (side * capacity + here[:, None]) * wide + d[None, :]
        total += tl.load(right + at, mask=both, other=0.0) * tl.load(product + at, mask=both, other=0.0)
    square = tl.sum(total, 1)
    if SUBSET:
        v = tl.load(mask + side * mask_branch + n * mask_row, mask=valid, other=0).to(tl.float64)
        square = tl.where(v != 0, square / tl.where(v != 0, v, 1.0), 0.0)
    square = tl.where(square < 0, 0.0, square)  # rounding; NaN stays
    tl.store(inverse + side * size + n, inverse_root(square), mask=valid)


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])
def pairs(
    target,
    auxiliary,
    mask,
    inverse_t,
    inverse_i,
    x,
    z,
    row0,
    rows,
    capacity,
    size,
    target_width,
    branch_width,
    wide,
    mask_branch,
    mask_row,
    SUBSET: tl.constexpr,
):
    """sqrt(w) X and sqrt(w) Z, X = [U_t - U_i, U_i], Z = [F_t, F_t - F_i]."""
    branch, here, valid, n = _position(row0, rows)
    w = tl.load(mask + branch * mask_branch + n * mask_row, mask=valid, other=0).to(tl.float64)
    used, root = w != 0, tl.sqrt(w)
    of_target = branch if SUBSET else 0
    inv_t = tl.load(inverse_t + of_target * size + n, mask=valid, other=0.0)
    inv_i = tl.load(inverse_i + branch * size + n, mask=valid, other=0.0)
    to_row = (branch * capacity + here[:, None]) * (2 * wide)
    from_row = (branch * size + n[:, None]) * branch_width
    for start in range(0, wide, _BLOCK):
        d = (start + tl.arange(0, _BLOCK)).to(tl.int64)[None, :]
        in_t, in_i = valid[:, None] & (d < target_width), valid[:, None] & (d < branch_width)
        t = tl.load(target + n[:, None] * target_width + d, mask=in_t, other=0.0).to(tl.float64)
        b = tl.load(auxiliary + from_row + d, mask=in_i, other=0.0).to(tl.float64)
        t = tl.where(used[:, None], t * root[:, None], 0.0)
        b = tl.where(used[:, None], b * root[:, None], 0.0)
        u_t = tl.where(used[:, None], t * inv_t[:, None], 0.0)
        u_i = tl.where(used[:, None], b * inv_i[:, None], 0.0)
        both = valid[:, None] & (d < wide)
        tl.store(x + to_row + d, u_t - u_i, mask=both)
        tl.store(x + to_row + wide + d, u_i, mask=both)
        tl.store(z + to_row + d, t, mask=both)
        tl.store(z + to_row + wide + d, t - b, mask=both)


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])
def dots(xx, zz, parts, entries, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
    """One of SPLIT partial sums of <xx, zz> of one branch, blocks dealt out in turn."""
    branch = (tl.program_id(0) // SPLIT).to(tl.int64)
    part = (tl.program_id(0) % SPLIT).to(tl.int64)
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, entries, SPLIT * BLOCK):
        at = start + part * BLOCK + tl.arange(0, BLOCK)
        inside = at < entries
        left = tl.load(xx + branch * entries + at, mask=inside, other=0.0)
        total += left * tl.load(zz + branch * entries + at, mask=inside, other=0.0)
    tl.store(parts + branch * SPLIT + part, tl.sum(total, 0))


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])
def pull(
    dx,
    dz,
    z,
    direct_t,
    direct_i,
    mask,
    grad,
    divisor,
    inverse_t,
    inverse_i,
    along_t,
    along_i,
    row0,
    rows,
    capacity,
    size,
    branch_width,
    wide,
    mask_branch,
    mask_row,
    grad_stride,
    SUBSET: tl.constexpr,
):
    """From sqrt(w) X (Z^T M Z) and sqrt(w) Z (X^T M X): d F that does not pass through r, and dU . F for what does."""
    branch, here, valid, n = _position(row0, rows)
    root = tl.sqrt(tl.load(mask + branch * mask_branch + n * mask_row, mask=valid, other=0).to(tl.float64))
    of_target = branch if SUBSET else 0
    inv_t = tl.load(inverse_t + of_target * size + n, mask=valid, other=0.0)
    inv_i = tl.load(inverse_i + branch * size + n, mask=valid, other=0.0)
    scale = 2 * tl.load(grad + branch * grad_stride).to(tl.float64) * tl.load(divisor + branch)
    used = (root != 0)[:, None]
    from_row = (branch * capacity + here[:, None]) * (2 * wide)
    dot_t = tl.zeros((_ROWS, _BLOCK), dtype=tl.float64)
    dot_i = tl.zeros((_ROWS, _BLOCK), dtype=tl.float64)
    for start in range(0, wide, _BLOCK):
        d = (start + tl.arange(0, _BLOCK)).to(tl.int64)[None, :]
        both = valid[:, None] & (d < wide)
        at = from_row + d
        x0 = tl.load(dx + at, mask=both, other=0.0)
        x1 = tl.load(dx + at + wide, mask=both, other=0.0)
        z0 = tl.load(dz + at, mask=both, other=0.0)
        z1 = tl.load(dz + at + wide, mask=both, other=0.0)
        t = tl.load(z + at, mask=both, other=0.0)
        b = t - tl.load(z + at + wide, mask=both, other=0.0)
        dot_t += x0 * t
        dot_i += (x1 - x0) * b
        twice = scale * root[:, None]
        for_t = tl.where(used, twice * (z0 + z1 + x0 * inv_t[:, None]), 0.0)
        for_i = tl.where(used, twice * ((x1 - x0) * inv_i[:, None] - z1), 0.0)
        tl.store(direct_t + at, for_t, mask=both)
        to = (branch * size + n[:, None]) * branch_width + d
        tl.store(direct_i + to, for_i.to(direct_i.dtype.element_ty), mask=valid[:, None] & (d < branch_width))
    tl.store(along_t + branch * size + n, scale * tl.sum(dot_t, 1), mask=valid)
    tl.store(along_i + branch * size + n, scale * tl.sum(dot_i, 1), mask=valid)


@triton.jit(do_not_specialize=[*_SIZES, *_STRIDES])
def close(
    direct,
    product,
    mask,
    result,
    row0,
    rows,
    capacity,
    size,
    width,
    wide,
    sides,
    mask_branch,
    mask_row,
    SUBSET: tl.constexpr,
):
    """result = direct + sum over the sides of one matrix of sqrt(v) product; `result` may be `direct`."""
    which, here, valid, n = _position(row0, rows)
    for start in range(0, width, _BLOCK):
        d = (start + tl.arange(0, _BLOCK)).to(tl.int64)[None, :]
        both = valid[:, None] & (d < width)
        at = (which * size + n[:, None]) * width + d
        total = tl.load(direct + at, mask=both, other=0.0).to(tl.float64)
        for k in range(sides):
            side = which * sides + k
            add = tl.load(product + (side * capacity + here[:, None]) * wide + d, mask=both, other=0.0)
            if SUBSET:
                v = tl.load(mask + side * mask_branch + n * mask_row, mask=valid, other=0).to(tl.float64)
                add = tl.where((v != 0)[:, None], tl.sqrt(v)[:, None] * add, 0.0)
            total += add
        tl.store(result + at, total.to(result.dtype.element_ty), mask=both)
