"""class_similarity, the kernels: class sums of unit rows in two stages, then one pass over the rows, each way.

No tl.dot: up to some hundred classes the passes wait for memory, and plain float32 sums owe nothing to TF32.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["SMALL", "combine_kernel", "final_kernel", "norms_kernel", "partial_kernel", "similarity_kernel"]

SMALL = 512  # up to here a program counts the classes and adds the partial sums itself: two launches instead of three
PARTS = 8  # the most partial sums it then meets

_SMALL = tl.constexpr(SMALL)
_LABELS = tl.constexpr(128)
_PARTS = tl.constexpr(PARTS)
_EPS = tl.constexpr(1e-12)  # a shorter vector counts as a zero vector, as in the eager kernel
_LARGE = tl.constexpr(1e37)  # a float32 sum of squares beyond it is taken again, scaled by a power of two
_SHRINK = tl.constexpr(2.0**-72)


@triton.jit
def _inverse_root(square):
    """1/sqrt, one Newton step after the hardware's guess: to about one rounding."""
    guess = tl.rsqrt(square)
    return guess + 0.5 * guess * (1.0 - (square * guess) * guess)


@triton.jit
def _inverse_norms(x, WIDE: tl.constexpr):
    """1/|x| of rows, 0 for a short one. Below 1e-12 nothing depends on squares that underflow; above, see _LARGE."""
    square = tl.sum(x * x, 1)
    some = tl.where(square < _EPS * _EPS, 1.0, square)
    if WIDE:  # float64 overflows where the eager kernel does
        inverse = 1.0 / tl.sqrt(some)
    else:
        inverse = _inverse_root(some)
        if tl.max(square, 0) > _LARGE:
            shrunk = x * _SHRINK
            scaled = _inverse_root(tl.sum(shrunk * shrunk, 1)) * _SHRINK
            inverse = tl.where(square > _LARGE, scaled, inverse)
    return tl.where(square < _EPS * _EPS, 0.0, inverse)


@triton.jit
def _members(kind, labels, counts, rows, classes, FEW: tl.constexpr, ACC: tl.constexpr):
    """The number of rows labelled ``kind``: counted here when there are few, read otherwise."""
    if FEW:
        index = tl.arange(0, _SMALL)
        every = tl.load(labels + index, mask=index < rows, other=-1)
        number = tl.sum((every == kind).to(ACC), 0)
    else:
        number = tl.load(counts + kind, mask=kind < classes, other=0).to(ACC)
    return number


@triton.jit
def _own_members(label, used, labels, counts, rows, FEW: tl.constexpr, ACC: tl.constexpr):
    """For each row the number of members of its own class, itself included."""
    if FEW:
        index = tl.arange(0, _SMALL)
        every = tl.load(labels + index, mask=index < rows, other=-1)
        number = tl.sum((every[None, :] == label[:, None]).to(ACC), 1)
    else:
        number = tl.load(counts + label, mask=used, other=0).to(ACC)
    return number


@triton.jit
def _load(features, labels, row, column, rows, width, stride, ACC: tl.constexpr):
    inside = row < rows
    mask = inside[:, None] & (column < width)[None, :]
    x = tl.load(features + row[:, None] * stride + column[None, :], mask=mask, other=0).to(ACC)
    return tl.load(labels + row, mask=inside, other=-1), x


@triton.jit
def _rows(features, labels, row, column, rows, width, stride, classes, ACC: tl.constexpr):
    """Labels, whether a row takes part, and the rows: 0 where it does not, so that not even its NaN does."""
    label, x = _load(features, labels, row, column, rows, width, stride, ACC)
    used = (label >= 0) & (label < classes)
    return label, used, tl.where(used[:, None], x, 0.0)


@triton.jit(do_not_specialize=["rows"])
def norms_kernel(
    features, labels, inverse, rows, width, stride, classes,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Inverse norms alone, for rows too wide to be summed by class in the same pass."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    _, _, x = _rows(features, labels, row, tl.arange(0, COLUMNS), rows, width, stride, classes, ACC)
    tl.store(inverse + row, _inverse_norms(x, WIDE), mask=row < rows)


@triton.jit(do_not_specialize=["rows", "parts"])
def partial_kernel(
    features, labels, grad, inverse, counts, partial, counted,
    rows, width, stride, classes, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CLASSES: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr,
    NORMS: tl.constexpr, WEIGHTED: tl.constexpr, EXCLUDE: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """partial (parts, C, D): the sum of each class's unit rows, or of all by ``grad``, over each parts-th block.

    The grid is (blocks of classes, parts, blocks of columns); NORMS needs one block of columns and writes ``inverse``.
    The weights lack 1/n_j, which the reader applies; with EXCLUDE a row's own class has n_j / (n_j - 1) instead of 1.
    """
    first = tl.program_id(0) * CLASSES
    part = tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    kind = tl.arange(0, CLASSES)
    sums = tl.zeros([CLASSES, COLUMNS], ACC)
    row = part * ROWS + tl.arange(0, ROWS)
    step = tl.cast(parts, tl.int64) * ROWS
    label, x = _load(features, labels, row, column, rows, width, stride, ACC)
    for _ in range(part, tl.cdiv(rows, ROWS), parts):
        # the next rows are asked for before these are worked on
        label_ahead, x_ahead = _load(features, labels, row + step, column, rows, width, stride, ACC)
        used = (label >= 0) & (label < classes)
        x = tl.where(used[:, None], x, 0.0)
        if NORMS:
            length = _inverse_norms(x, WIDE)
            if first == 0:
                tl.store(inverse + row, length, mask=row < rows)
        else:
            length = tl.load(inverse + row, mask=used, other=0)
        unit = x * length[:, None]
        weights = grad + row * classes + first
        near = tl.where(used, label - first, -1).to(tl.int32)  # one compare a class, where 64 bits take two
        left = tl.zeros([ROWS], tl.int32) + (classes - first)
        if EXCLUDE:
            met = _own_members(label, used, labels, counts, rows, FEW, ACC)
            ratio = tl.where(met > 1, met / tl.maximum(met - 1, 1), 0.0)
        for j in tl.static_range(CLASSES):
            own = near == j
            if WEIGHTED:
                weight = tl.load(weights + j, mask=used & (left > j), other=0).to(ACC)
                if EXCLUDE:
                    weight = tl.where(own, weight * ratio, weight)
            else:
                weight = own.to(ACC)
            total = tl.sum(unit * weight[:, None], 0)
            sums += tl.where((kind == j)[:, None], total[None, :], 0.0)
        label, x, row = label_ahead, x_ahead, row + step
    place = (part * classes + first + kind)[:, None] * width + column[None, :]
    tl.store(partial + place, sums, mask=(first + kind < classes)[:, None] & (column < width)[None, :])
    if not FEW:  # noqa: SIM102 - the counts of a stretch of labels, whichever rows were summed above
        if tl.program_id(2) == 0:
            number = tl.zeros([CLASSES], ACC)
            stretch = tl.cdiv(rows, parts)
            for start in range(0, stretch, _LABELS):
                index = start + tl.arange(0, _LABELS)
                spot = part * stretch + index
                counted_label = tl.load(labels + spot, mask=(index < stretch) & (spot < rows), other=-1)
                number += tl.sum((counted_label[:, None] == (first + kind)[None, :]).to(ACC), 0)
            tl.store(counted + part * classes + first + kind, number, mask=first + kind < classes)


@triton.jit(do_not_specialize=["parts"])
def combine_kernel(
    partial, counted, sums, counts, width, classes, parts,
    PARTS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The sum of the partial sums and counts in their order; the grid is (blocks of columns, C)."""
    kind = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], ACC)
    number = tl.zeros([PARTS], ACC)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        place = part.to(tl.int64) * classes + kind
        mask = (part < parts)[:, None] & (column < width)[None, :]
        total += tl.sum(tl.load(partial + place[:, None] * width + column[None, :], mask=mask, other=0), 0)
        number += tl.load(counted + place, mask=part < parts, other=0)
    tl.store(sums + kind * width + column, total, mask=column < width)
    if tl.program_id(0) == 0:
        tl.store(counts + kind, tl.sum(number, 0))


@triton.jit(do_not_specialize=["rows", "parts"])
def similarity_kernel(
    features, labels, inverse, partial, sums, counts, mean, flag, rows, width, stride, classes, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr, EXCLUDE: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """mean (N, C) for a block of rows: all classes, or with FEW one, whose sum and count the first block writes."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    label, used, x = _rows(features, labels, row, column, rows, width, stride, classes, ACC)
    bad = (label < -1) | (label >= classes)
    tl.store(flag + row * 0, 1, mask=bad)
    length = tl.load(inverse + row, mask=used, other=0)
    unit = x * length[:, None]
    span = tl.cast(width, tl.int64)
    first = 0
    last = classes
    if FEW:
        first = tl.program_id(1)
        last = first + 1
    for j in range(first, last):
        met = _members(j, labels, counts, rows, classes, FEW, ACC)
        place = j * span + column
        if FEW:
            part = tl.arange(0, _PARTS)
            where = (part * classes)[:, None] * span + place[None, :]
            mask = (part < parts)[:, None] & (column < width)[None, :]
            total = tl.sum(tl.load(partial + where, mask=mask, other=0), 0)
            if tl.program_id(0) == 0:
                tl.store(sums + place, total, mask=column < width)
                tl.store(counts + j, met)
        else:
            total = tl.load(sums + place, mask=column < width, other=0)
        value = tl.sum(unit * total[None, :], 1)
        share = tl.zeros([ROWS], ACC) + met
        if EXCLUDE:
            own = label == j
            value = tl.where(own & (length > 0), value - 1, value)
            share = tl.where(own, share - 1, share)
        value = tl.where(share > 0, value / tl.maximum(share, 1), 0.0)
        value = tl.where(bad, float("nan"), tl.where(used, value, 0.0))
        tl.store(mean + row * classes + j, value.to(mean.dtype.element_ty), mask=row < rows)


@triton.jit(do_not_specialize=["rows", "parts"])
def final_kernel(
    grad, features, labels, inverse, sums, pulls, counts, result, flag, rows, width, stride, classes, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr, EXCLUDE: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """d features for a block of rows: class sums by ``grad``, the pull of the row's own class, the norm's chain.

    The term of leaving the anchor out of its class is parallel to the row: the chain removes it, it is never formed.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    label, used, x = _rows(features, labels, row, column, rows, width, stride, classes, ACC)
    bad = (label < -1) | (label >= classes)
    tl.store(flag + row * 0, 1, mask=bad)
    length = tl.load(inverse + row, mask=used, other=0)
    unit = x * length[:, None]
    span = tl.cast(width, tl.int64)
    inner = used[:, None] & (column < width)[None, :]
    place = tl.where(used, label, 0)[:, None] * span + column[None, :]
    met = _own_members(label, used, labels, counts, rows, FEW, ACC)
    if FEW:
        pull = tl.zeros([ROWS, COLUMNS], ACC)
        for part in range(0, parts):
            pull += tl.load(pulls + part * (classes * span) + place, mask=inner, other=0)
    else:
        pull = tl.load(pulls + place, mask=inner, other=0)
    pull = pull * (1.0 / tl.maximum(met, 1))[:, None]
    for j in range(0, classes):
        share = tl.zeros([ROWS], ACC) + _members(j, labels, counts, rows, classes, FEW, ACC)
        if EXCLUDE:
            share = tl.where(label == j, share - 1, share)
        weight = tl.load(grad + row * classes + j, mask=used, other=0).to(ACC)
        weight = tl.where(share > 0, weight / tl.maximum(share, 1), 0.0)
        pull += weight[:, None] * tl.load(sums + j * span + column, mask=column < width, other=0)[None, :]
    pull = length[:, None] * (pull - unit * tl.sum(unit * pull, 1)[:, None])
    pull = tl.where(bad[:, None], float("nan"), tl.where(used[:, None], pull, 0.0))
    mask = (row < rows)[:, None] & (column < width)[None, :]
    tl.store(result + row[:, None] * width + column[None, :], pull.to(result.dtype.element_ty), mask=mask)
