"""The variance of the cosines by Triton: tiles of the N x N cosines are formed, used and forgotten, never stored.

In float32 on unit rows that the launcher forms (N x D); float64 goes to the eager kernel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferkit.kernels.eager import class_similarity as eager
from ferkit.kernels.eager import class_similarity_variance as eager_variance
from ferkit.kernels.triton.launch import FUSED, Specimen, next_power_of_two

__all__ = ["specimens", "variance_backward", "variance_forward"]

_MOST_CLASSES = 32  # classes of one program
_REGISTERS = 224  # of spread_kernel: left alone, the compiler may take 128 and spill two
_BLOCK = {"ieee": 32, "tf32": 64}  # rows of one program: products without tensor cores hold more in registers


@triton.jit
def _cosines(
    unit, row, column, rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    cosine = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, width, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        left = (row < rows)[:, None] & (depth < width)[None, :]
        right = (column < rows)[None, :] & (depth < width)[:, None]
        a = tl.load(unit + row[:, None] * width + depth[None, :], mask=left, other=0.0)
        b = tl.load(unit + column[None, :] * width + depth[:, None], mask=right, other=0.0)
        cosine = tl.dot(a, b, cosine, input_precision=PRECISION)
    return cosine


@triton.jit
def _pairs(table, row, kind, mask, classes):
    """table[row, kind] for every pair of a row and a label, 0 outside the mask."""
    return tl.load(table + row * classes + kind, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["rows"])
def spread_kernel(
    unit, labels, mean, total, rows, width, classes,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, CLASSES: tl.constexpr, EXCLUDE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """total (N, C): the squares of cosine minus mean, summed over the members of each class."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * CLASSES
    chosen = first + tl.arange(0, CLASSES)
    sums = tl.zeros([ROWS, CLASSES], tl.float32)
    for start in range(0, rows, COLUMNS):
        column = start + tl.arange(0, COLUMNS).to(tl.int64)
        label = tl.load(labels + column, mask=column < rows, other=-1)
        member = (label >= 0) & (label < classes)
        kind = tl.where(member, label, 0)
        cosine = _cosines(unit, row, column, rows, width, ROWS, COLUMNS, DEPTH, PRECISION)
        mask = (row < rows)[:, None] & member[None, :]
        centred = cosine - _pairs(mean, row[:, None], kind[None, :], mask, classes)
        if EXCLUDE:
            mask = mask & (row[:, None] != column[None, :])
        square = tl.where(mask, centred * centred, 0.0)
        for j in range(0, CLASSES):
            part = tl.sum(tl.where((label == first + j)[None, :], square, 0.0), 1)
            sums += tl.where((chosen == first + j)[None, :], part[:, None], 0.0)
    mask = (row < rows)[:, None] & (chosen < classes)[None, :]
    tl.store(total + row[:, None] * classes + chosen[None, :], sums, mask=mask)


@triton.jit(do_not_specialize=["rows"])
def pull_kernel(
    unit, labels, mean, weight, pull, rows, width, classes,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, SLICE: tl.constexpr, EXCLUDE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """pull (N, D): the sum over b of (G_ab + G_ba) u_b, G_ab = w_aj (c_ab - S_aj) with j the class of b.

    A program owns a block of rows and a slice of the columns of u, and forms the cosines again for its slice.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    depth = tl.program_id(1) * SLICE + tl.arange(0, SLICE)
    label_a = tl.load(labels + row, mask=row < rows, other=-1)
    member_a = (label_a >= 0) & (label_a < classes)
    kind_a = tl.where(member_a, label_a, 0)[:, None]
    sums = tl.zeros([ROWS, SLICE], tl.float32)
    for start in range(0, rows, COLUMNS):
        column = start + tl.arange(0, COLUMNS).to(tl.int64)
        label_b = tl.load(labels + column, mask=column < rows, other=-1)
        member_b = (label_b >= 0) & (label_b < classes)
        kind_b = tl.where(member_b, label_b, 0)[None, :]
        cosine = _cosines(unit, row, column, rows, width, ROWS, COLUMNS, DEPTH, PRECISION)
        mask = member_a[:, None] & member_b[None, :]
        if EXCLUDE:
            mask = mask & (row[:, None] != column[None, :])
        along = cosine - _pairs(mean, row[:, None], kind_b, mask, classes)
        factor = along * _pairs(weight, row[:, None], kind_b, mask, classes)
        back = cosine - _pairs(mean, column[None, :], kind_a, mask, classes)
        factor += back * _pairs(weight, column[None, :], kind_a, mask, classes)
        factor = tl.where(mask, factor, 0.0)
        inner = (column < rows)[:, None] & (depth < width)[None, :]
        u = tl.load(unit + column[:, None] * width + depth[None, :], mask=inner, other=0.0)
        sums = tl.dot(factor, u, sums, input_precision=PRECISION)
    mask = (row < rows)[:, None] & (depth < width)[None, :]
    tl.store(pull + row[:, None] * width + depth[None, :], sums, mask=mask)


def _precision() -> str:
    """As torch's own matrix products: TF32 only where the user allowed it."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _prepare(
    features: Tensor, labels: Tensor, num_classes: int, include_self: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit rows (N, D), inverse norms (N,), means and shares 1/(members met) (N, C), in float32."""
    from ferkit.kernels.triton.class_similarity import forward

    mean, counts, _, inverse = forward(features, labels, num_classes, include_self, torch.float32)
    unit = eager.labelled_rows(features, labels) * inverse[:, None]
    bad = labels >= num_classes  # in no class, but 0 * NaN would reach the others through the product
    unit = torch.where(bad[:, None], 0, unit)
    met = counts[None]
    if not include_self:
        met = met - eager.membership(labels, num_classes, torch.float32)
    return unit.contiguous(), inverse, mean, torch.where(met > 0, 1 / met.clamp_min(1), 0)


def _finish(result: Tensor, labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """0 in unlabelled rows, NaN where the label is out of range (the mean's kernel has set the flag)."""
    bad = (labels < -1) | (labels >= num_classes)
    return torch.where(bad[:, None], torch.nan, torch.where((labels >= 0)[:, None], result, 0)).to(dtype)


def _streams(features: Tensor, num_classes: int) -> bool:
    return features.dtype != torch.float64 and features.numel() * num_classes > 0


def variance_forward(features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Tensor:
    """Variance (N, C) of the cosines of each anchor with each class, centred before squaring."""
    if not _streams(features, num_classes):
        result = eager_variance.variance_forward(features, labels, num_classes, include_self)
        return _finish(result, labels, num_classes, features.dtype)
    rows, width = features.shape
    labels = labels.contiguous()
    with torch.cuda.device_of(features):
        unit, _, mean, share = _prepare(features, labels, num_classes, include_self)
        total = torch.empty_like(mean)
        precision = _precision()
        block = _BLOCK[precision]
        classes = min(next_power_of_two(num_classes), _MOST_CLASSES)
        spread_kernel[(triton.cdiv(rows, block), triton.cdiv(num_classes, classes))](
            unit, labels, mean, total, rows, width, num_classes,
            ROWS=block, COLUMNS=64, DEPTH=16, CLASSES=classes, EXCLUDE=not include_self, PRECISION=precision,
            num_warps=8, num_stages=2, maxnreg=_REGISTERS, **FUSED,
        )  # fmt: skip
    return _finish(total * share, labels, num_classes, features.dtype)


def variance_backward(grad: Tensor, features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Tensor:
    """d features (N, D)."""
    if not _streams(features, num_classes):
        result = eager_variance.variance_backward(grad, features, labels, num_classes, include_self)
        return _finish(result, labels, num_classes, features.dtype)
    rows, width = features.shape
    labels = labels.contiguous()
    with torch.cuda.device_of(features):
        unit, inverse, mean, share = _prepare(features, labels, num_classes, include_self)
        weight = (torch.where((labels >= 0)[:, None], grad.float(), 0) * share).contiguous()
        pull = torch.empty_like(unit)
        precision = _precision()
        block = _BLOCK[precision]
        pull_kernel[(triton.cdiv(rows, block), triton.cdiv(width, 128))](
            unit, labels, mean, weight, pull, rows, width, num_classes,
            ROWS=block, COLUMNS=32, DEPTH=16, SLICE=128, EXCLUDE=not include_self, PRECISION=precision,
            num_warps=8, num_stages=2, **FUSED,
        )  # fmt: skip
    d_rows = 2 * inverse[:, None] * (pull - unit * (unit * pull).sum(1, keepdim=True))
    return _finish(d_rows, labels, num_classes, features.dtype)


def specimens() -> list[Specimen]:
    """Both kernels, in IEEE float32 and with TF32."""
    made = []
    for precision in ("ieee", "tf32"):
        tile = {"ROWS": _BLOCK[precision], "DEPTH": 16, "EXCLUDE": True, "PRECISION": precision}
        spread, pull = tile | {"COLUMNS": 64, "CLASSES": _MOST_CLASSES}, tile | {"COLUMNS": 32, "SLICE": 128}
        for kernel, constants in ((spread_kernel, spread), (pull_kernel, pull)):
            names = [parameter.name for parameter in kernel.params if not parameter.is_constexpr]
            types = dict.fromkeys(names, "*fp32") | {"labels": "*i64"} | dict.fromkeys(names[-3:], "i32")
            name = f"{kernel.fn.__name__.removesuffix('_kernel')} of the variance, {precision}"
            options = FUSED | ({"maxnreg": _REGISTERS} if kernel is spread_kernel else {})
            made.append(Specimen("class_similarity", name, kernel, types, constants, 8, 2, options))
    return made
