"""The Triton kernels of concordance: moments by block of rows, their merging, the elementwise gradient.

Derivation: docs/math/concordance.md. `ferkit.kernels.triton.concordance` launches them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ferkit.kernels.eager.concordance import NEAR, STATE

__all__ = ["SUMS", "gradient_kernel", "merge_kernel", "moments_kernel"]

SUMS = tl.constexpr(8)  # per program and target: W, sum w^2, means of x and y, Sxx, Syy, Sxy, sum w (x - y)^2
_STATE = tl.constexpr(STATE)
_NEAR = tl.constexpr(NEAR)


@triton.jit
def _block(x_ptr, y_ptr, w_ptr, first, row, end, column, inside, width, WEIGHTED: tl.constexpr, ACC: tl.constexpr):
    """The moments (BT,) of rows `row` (BN,) below `end`, in float64: W, sum w^2, means, Sxx, Syy, Sxy, sum w (x-y)^2.

    `first` is one of these rows (in a block past the end, any row): it is subtracted, so that a constant column gives
    exactly 0.
    """
    present = row < end
    if WEIGHTED:
        w = tl.load(w_ptr + row, mask=present, other=0.0).to(ACC)
        w_first = tl.load(w_ptr + first).to(ACC)
    else:
        w = tl.where(present, 1.0, 0.0).to(ACC)
    wide = w.to(tl.float64)
    total = tl.sum(wide, 0)
    squares = tl.sum(wide * wide, 0)
    live = (w != 0.0)[:, None] & inside[None, :]
    at = row[:, None] * width + column[None, :]
    x = tl.where(live, tl.load(x_ptr + at, mask=live, other=0.0).to(ACC), 0.0)
    y = tl.where(live, tl.load(y_ptr + at, mask=live, other=0.0).to(ACC), 0.0)
    start_x = tl.load(x_ptr + first * width + column, mask=inside, other=0.0).to(ACC)
    start_y = tl.load(y_ptr + first * width + column, mask=inside, other=0.0).to(ACC)
    if WEIGHTED:  # a row without weight may hold anything
        start_x = tl.where(w_first != 0.0, start_x, 0.0)
        start_y = tl.where(w_first != 0.0, start_y, 0.0)
    weight = tl.where(live, w[:, None], 0.0)
    inverse = (1.0 / tl.where(total == 0.0, 1.0, total)).to(ACC)
    p = tl.where(live, x - start_x[None, :], 0.0)
    q = tl.where(live, y - start_y[None, :], 0.0)
    mean_x = tl.sum(weight * p, 0) * inverse
    mean_y = tl.sum(weight * q, 0) * inverse
    p = tl.where(live, p - mean_x[None, :], 0.0)
    q = tl.where(live, q - mean_y[None, :], 0.0)
    # what is left of the means after rounding them
    left_x = tl.sum(weight * p, 0) * inverse
    left_y = tl.sum(weight * q, 0) * inverse
    p = tl.where(live, p - left_x[None, :], 0.0)
    q = tl.where(live, q - left_y[None, :], 0.0)
    gap = x - y
    xx = tl.sum(weight * p * p, 0).to(tl.float64)
    yy = tl.sum(weight * q * q, 0).to(tl.float64)
    xy = tl.sum(weight * p * q, 0).to(tl.float64)
    apart = tl.sum(weight * gap * gap, 0).to(tl.float64)
    mean_x = start_x.to(tl.float64) + mean_x.to(tl.float64) + left_x.to(tl.float64)
    mean_y = start_y.to(tl.float64) + mean_y.to(tl.float64) + left_y.to(tl.float64)
    return total, squares, mean_x, mean_y, xx, yy, xy, apart


@triton.jit
def _finish(
    w, squares, mean_x, mean_y, xx, yy, xy, apart, column, inside, width, value_ptr, state_ptr,
    RELEASED: tl.constexpr, LOSS: tl.constexpr, MEAN: tl.constexpr, BT: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """From the moments (BT,) of all rows to the state and the value; `w` and `squares` are (BT,) too."""
    spread = xx + yy
    gap = mean_x - mean_y
    one = tl.full([BT], 1.0, tl.float64)
    ratio = one
    agree = one
    if RELEASED:
        room = tl.maximum(w * w - squares, 0.0)
        several = room > 0.0
        ratio = tl.where(several, w * w / tl.where(several, room, 1.0), 1.0)
        agree = tl.where(several, room / tl.where(several, w * w, 1.0), 0.0)
    bottom = ratio * spread + w * gap * gap
    flat = bottom == 0.0
    scale = 2.0 / tl.where(flat, 1.0, bottom)
    scale = tl.where(scale > LARGEST, LARGEST, scale)
    scale = tl.where(flat, 0.0, scale)
    filled = w != 0.0
    ccc = tl.where(flat, tl.where(filled, agree, 0.0), xy * scale)
    rest = tl.where(flat, tl.where(filled, 1.0 - agree, 0.0), (apart + (ratio - 1.0) * spread) * (scale * 0.5))
    to = state_ptr + column * _STATE
    tl.store(to, mean_x, mask=inside)
    tl.store(to + 1, mean_y, mask=inside)
    tl.store(to + 2, ccc, mask=inside)
    tl.store(to + 3, rest, mask=inside)
    tl.store(to + 4, scale, mask=inside)
    tl.store(to + 5, ratio, mask=inside)
    value = ccc
    if LOSS:
        value = rest
    if MEAN:
        mean = tl.sum(tl.where(inside, value, 0.0), 0) / width
        tl.store(value_ptr, mean.to(value_ptr.dtype.element_ty))
    else:
        tl.store(value_ptr + column, value.to(value_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["size", "blocks"])
def moments_kernel(
    x_ptr, y_ptr, w_ptr, partial_ptr, value_ptr, state_ptr, size, blocks, width,
    WEIGHTED: tl.constexpr, SINGLE: tl.constexpr, RELEASED: tl.constexpr, LOSS: tl.constexpr, MEAN: tl.constexpr,
    BN: tl.constexpr, BT: tl.constexpr, ACC: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """Program (i, j): `blocks` blocks of BN rows from i * blocks * BN on, targets j * BT and on."""
    program = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * BT + tl.arange(0, BT)
    inside = column < width
    w = tl.zeros([BT], tl.float64)
    squares = tl.zeros([BT], tl.float64)
    mean_x = tl.zeros([BT], tl.float64)
    mean_y = tl.zeros([BT], tl.float64)
    xx = tl.zeros([BT], tl.float64)
    yy = tl.zeros([BT], tl.float64)
    xy = tl.zeros([BT], tl.float64)
    apart = tl.zeros([BT], tl.float64)
    end = size.to(tl.int64)
    for i in range(0, blocks):
        begin = (program * blocks + i) * BN
        more, b_squares, b_x, b_y, b_xx, b_yy, b_xy, b_apart = _block(
            x_ptr, y_ptr, w_ptr, tl.minimum(begin, end - 1), begin + tl.arange(0, BN), end, column, inside, width,
            WEIGHTED, ACC,
        )  # fmt: skip
        both = w + more
        share = more / tl.where(both == 0.0, 1.0, both)
        cross = w * share
        step_x = b_x - mean_x
        step_y = b_y - mean_y
        # the first block with weight is taken over as it is
        mean_x = tl.where(w == 0.0, tl.where(both == 0.0, 0.0, b_x), mean_x + step_x * share)
        mean_y = tl.where(w == 0.0, tl.where(both == 0.0, 0.0, b_y), mean_y + step_y * share)
        xx += b_xx + cross * step_x * step_x
        yy += b_yy + cross * step_y * step_y
        xy += b_xy + cross * step_x * step_y
        apart += b_apart
        squares += b_squares
        w = both
    if SINGLE:
        _finish(
            w, squares, mean_x, mean_y, xx, yy, xy, apart, column, inside, width, value_ptr, state_ptr,
            RELEASED, LOSS, MEAN, BT, LARGEST,
        )  # fmt: skip
    else:
        to = partial_ptr + program * SUMS * width + column
        tl.store(to, w, mask=inside)
        tl.store(to + width, squares, mask=inside)
        tl.store(to + 2 * width, mean_x, mask=inside)
        tl.store(to + 3 * width, mean_y, mask=inside)
        tl.store(to + 4 * width, xx, mask=inside)
        tl.store(to + 5 * width, yy, mask=inside)
        tl.store(to + 6 * width, xy, mask=inside)
        tl.store(to + 7 * width, apart, mask=inside)


@triton.jit(do_not_specialize=["programs"])
def merge_kernel(
    partial_ptr, value_ptr, state_ptr, programs, width,
    RELEASED: tl.constexpr, LOSS: tl.constexpr, MEAN: tl.constexpr, BP: tl.constexpr, BT: tl.constexpr,
    LARGEST: tl.constexpr,
):  # fmt: skip
    """All partial sums at once: the mean of the means, then the squares about it."""
    column = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    inside = column < width
    entry = tl.arange(0, BP).to(tl.int64)
    mask = (entry < programs)[:, None] & inside[None, :]
    at = partial_ptr + entry[:, None] * SUMS * width + column[None, :]
    w = tl.load(at, mask=mask, other=0.0)
    total = tl.sum(w, 0)
    inverse = 1.0 / tl.where(total == 0.0, 1.0, total)
    squares = tl.sum(tl.load(at + width, mask=mask, other=0.0), 0)
    m_x = tl.load(at + 2 * width, mask=mask, other=0.0)
    m_y = tl.load(at + 3 * width, mask=mask, other=0.0)
    # about the mean of one program with weight, so that columns that are constant stay so
    heaviest = tl.max(w, 0)
    pick = w == heaviest[None, :]
    start_x = tl.max(tl.where(pick, m_x, float("-inf")), 0)
    start_y = tl.max(tl.where(pick, m_y, float("-inf")), 0)
    start_x = tl.where(heaviest > 0.0, start_x, 0.0)
    start_y = tl.where(heaviest > 0.0, start_y, 0.0)
    step_x = tl.where(w != 0.0, m_x - start_x[None, :], 0.0)
    step_y = tl.where(w != 0.0, m_y - start_y[None, :], 0.0)
    mean_x = tl.sum(w * step_x, 0) * inverse
    mean_y = tl.sum(w * step_y, 0) * inverse
    step_x = tl.where(w != 0.0, step_x - mean_x[None, :], 0.0)
    step_y = tl.where(w != 0.0, step_y - mean_y[None, :], 0.0)
    xx = tl.sum(tl.load(at + 4 * width, mask=mask, other=0.0) + w * step_x * step_x, 0)
    yy = tl.sum(tl.load(at + 5 * width, mask=mask, other=0.0) + w * step_y * step_y, 0)
    xy = tl.sum(tl.load(at + 6 * width, mask=mask, other=0.0) + w * step_x * step_y, 0)
    apart = tl.sum(tl.load(at + 7 * width, mask=mask, other=0.0), 0)
    _finish(
        total, squares, start_x + mean_x, start_y + mean_y, xx, yy, xy, apart, column, inside, width, value_ptr,
        state_ptr, RELEASED, LOSS, MEAN, BT, LARGEST,
    )  # fmt: skip


@triton.jit(do_not_specialize=["size"])
def gradient_kernel(
    g_ptr, x_ptr, y_ptr, w_ptr, state_ptr, dx_ptr, dy_ptr, size, width,
    WEIGHTED: tl.constexpr, LOSS: tl.constexpr, MEAN: tl.constexpr, WITH_TARGET: tl.constexpr,
    BN: tl.constexpr, BT: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """d x = own (x - mean x) + other (y - mean y) - apart (x - y) + level, times w; docs/math/concordance.md."""
    row = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    column = tl.program_id(1).to(tl.int64) * BT + tl.arange(0, BT)
    present = row < size
    inside = column < width
    of = state_ptr + column * _STATE
    mean_x = tl.load(of, mask=inside, other=0.0)
    mean_y = tl.load(of + 1, mask=inside, other=0.0)
    ccc = tl.load(of + 2, mask=inside, other=0.0)
    rest = tl.load(of + 3, mask=inside, other=0.0)
    scale = tl.load(of + 4, mask=inside, other=0.0)
    ratio = tl.load(of + 5, mask=inside, other=0.0)
    if MEAN:
        factor = scale * (tl.load(g_ptr).to(ACC).to(tl.float64) / width)
    else:
        factor = scale * tl.load(g_ptr + column, mask=inside, other=0.0).to(ACC).to(tl.float64)
    if LOSS:
        factor = -factor
    near = rest < _NEAR
    own = factor * tl.where(near, rest * ratio + (1.0 - ratio), -ccc * ratio)
    other = tl.where(near, 0.0, factor)
    apart = tl.where(near, factor, 0.0)
    level = factor * tl.where(near, rest, -ccc) * (mean_x - mean_y)
    # the means rounded to the accumulation type; what they lack goes into the constants, in float64
    base_x = mean_x.to(ACC)
    base_y = mean_y.to(ACC)
    low_x = mean_x - base_x.to(tl.float64)
    low_y = mean_y - base_y.to(tl.float64)
    level_x = (level - own * low_x - other * low_y).to(ACC)
    level_y = (-level - own * low_y - other * low_x).to(ACC)
    own_a = own.to(ACC)[None, :]
    other_a = other.to(ACC)[None, :]
    apart_a = apart.to(ACC)[None, :]
    mask = present[:, None] & inside[None, :]
    at = row[:, None] * width + column[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC)
    y = tl.load(y_ptr + at, mask=mask, other=0.0).to(ACC)
    p = x - base_x[None, :]
    q = y - base_y[None, :]
    gap = apart_a * (x - y)
    dx = own_a * p + other_a * q - gap + level_x[None, :]
    dy = own_a * q + other_a * p + gap + level_y[None, :]
    if WEIGHTED:
        w = tl.load(w_ptr + row, mask=present, other=0.0).to(ACC)[:, None]
        dx = tl.where(w != 0.0, dx * w, 0.0)
        dy = tl.where(w != 0.0, dy * w, 0.0)
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    if WITH_TARGET:
        tl.store(dy_ptr + at, dy.to(dy_ptr.dtype.element_ty), mask=mask)
