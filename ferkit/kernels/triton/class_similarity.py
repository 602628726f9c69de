"""class_similarity by Triton: two launches each way up to 512 rows, three beyond; features are read twice."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferkit.kernels.eager import class_similarity as eager
from ferkit.kernels.flags import label_flag
from ferkit.kernels.triton import class_similarity_mean as kernels
from ferkit.kernels.triton.class_similarity_variance import specimens as variance_specimens
from ferkit.kernels.triton.class_similarity_variance import variance_backward, variance_forward
from ferkit.kernels.triton.launch import FUSED, Specimen, accumulation_dtype, dense, next_power_of_two

__all__ = ["backward", "forward", "specimens", "variance_backward", "variance_forward"]

WIDEST = 16384  # wider rows do not fit a program: they go to the eager kernel
_MOST_CLASSES = 4096  # more would ask for partial sums larger than the features: to the eager kernel likewise
_WIDE_SUMS = 1024  # up to here a row's norm and its class sums are one pass
_MOST_PARTS = 384  # partial sums: three programs for each multiprocessor of a large GPU, on every device alike
_REGISTERS = 168  # so that three fit; nothing spills (checked ahead of time)


def _fits(width: int, classes: int, wide: bool) -> bool:
    return width <= WIDEST // (8 if wide else 1) and classes <= _MOST_CLASSES


def _row_block(width: int, wide: bool, tiles: int) -> tuple[int, int, int]:
    """Rows, columns and warps of a program that holds whole rows in ``tiles`` tiles of registers."""
    columns = next_power_of_two(width)
    warps = min(8, max(1, columns // (512 if tiles == 1 else 128)))
    held = 128 // tiles // (2 if wide else 1)  # numbers a thread holds of a tile
    return min(16, max(1, held * 32 * warps // columns)), columns, warps


def _sum_block(width: int, wide: bool) -> tuple[int, int, int, int]:
    """Rows, columns, classes and warps of a program of `partial_kernel`."""
    columns = min(next_power_of_two(width), _WIDE_SUMS // (2 if wide else 1))
    return (2 if wide else 4), columns, 8, min(8, max(1, columns // 128))


def _parts(rows: int, block: int, groups: int) -> int:
    if rows <= kernels.SMALL:
        return min(kernels.PARTS, -(-rows // block))
    return min(-(-rows // 32), max(32, _MOST_PARTS // groups))


def _by_rows(features: Tensor) -> Tensor:
    """Rows of neighbouring numbers, at any distance from each other."""
    return features if features.stride(1) == 1 else features.contiguous()


def _marked(result: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The eager kernel's answer with the marks of the kernels here: NaN and a flag for labels out of range."""
    bad = (labels < -1) | (labels >= classes)
    label_flag(labels.device).logical_or_(bad.any())
    return torch.where(bad[:, None], torch.nan, result)


def _sum_classes(
    features: Tensor, labels: Tensor, inverse: Tensor, classes: int, grad: Tensor | None, exclude: bool
) -> tuple[Tensor, Tensor, int]:
    """Partial sums (parts, C, D) up to `SMALL` rows, else sums (C, D), with counts (C,), and the number of parts."""
    (rows, width), dtype = features.shape, inverse.dtype
    wide, few = dtype == torch.float64, rows <= kernels.SMALL
    block, columns, kinds, warps = _sum_block(width, wide)
    grid = [triton.cdiv(classes, kinds), 1, triton.cdiv(width, columns)]
    parts = grid[1] = _parts(rows, block, grid[0] * grid[2])
    partial = features.new_empty((parts, classes, width), dtype=dtype)
    counted = inverse if few else features.new_empty((parts, classes), dtype=dtype)
    counts = inverse
    if grad is not None and exclude and not few:
        counts = eager.membership(labels, classes, dtype).sum(0)
    acc = tl.float64 if wide else tl.float32
    stride = features.stride(0)
    norms = grad is None and grid[2] == 1
    if grad is None and not norms:
        tile = _row_block(width, wide, 1)
        kernels.norms_kernel[(triton.cdiv(rows, tile[0]),)](
            features, labels, inverse, rows, width, stride, classes,
            ROWS=tile[0], COLUMNS=tile[1], ACC=acc, WIDE=wide, num_warps=tile[2], **FUSED,
        )  # fmt: skip
    kernels.partial_kernel[tuple(grid)](
        features, labels, features if grad is None else grad, inverse, counts, partial, counted,
        rows, width, stride, classes, parts,
        ROWS=block, COLUMNS=columns, CLASSES=kinds, ACC=acc, WIDE=wide, NORMS=norms, WEIGHTED=grad is not None,
        EXCLUDE=exclude and grad is not None, FEW=few,
        num_warps=warps, maxnreg=None if wide or few else _REGISTERS, **FUSED,
    )  # fmt: skip
    if few:
        return partial, counted, parts
    sums, counts = features.new_empty((classes, width), dtype=dtype), features.new_empty(classes, dtype=dtype)
    kernels.combine_kernel[(triton.cdiv(width, 32), classes)](
        partial, counted, sums, counts, width, classes, parts, PARTS=64, COLUMNS=32, ACC=acc, num_warps=4, **FUSED
    )
    return sums, counts, parts


def forward(
    features: Tensor, labels: Tensor, num_classes: int, include_self: bool, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (N, C) in ``dtype`` (None: the features'), counts (C,), class sums (C, D) and inverse norms (N,)."""
    rows, width = features.shape
    precise = accumulation_dtype(features.dtype)
    wide, few = precise == torch.float64, rows <= kernels.SMALL
    if rows * width * num_classes == 0 or not _fits(width, num_classes, wide):
        mean, counts, sums, inverse = eager.forward(features, labels, num_classes, include_self)
        return _marked(mean, labels, num_classes).to(dtype or mean.dtype), counts, sums, inverse
    features, labels = _by_rows(features), dense(labels)
    with torch.cuda.device_of(features):
        inverse = features.new_empty(rows, dtype=precise)
        mean = features.new_empty((rows, num_classes), dtype=dtype or features.dtype)
        sums, counts, parts = _sum_classes(features, labels, inverse, num_classes, None, False)
        partial = sums
        if few:
            sums = features.new_empty((num_classes, width), dtype=precise)
            counts = features.new_empty(num_classes, dtype=precise)
        block, columns, warps = _row_block(width, wide, 2 if few else 1)
        kernels.similarity_kernel[(triton.cdiv(rows, block), num_classes if few else 1)](
            features, labels, inverse, partial, sums, counts, mean, label_flag(features.device),
            rows, width, features.stride(0), num_classes, parts,
            ROWS=block, COLUMNS=columns, ACC=tl.float64 if wide else tl.float32, EXCLUDE=not include_self, FEW=few,
            num_warps=warps, **FUSED,
        )  # fmt: skip
    return mean, counts, sums, inverse


def backward(
    grad: Tensor,
    features: Tensor,
    labels: Tensor,
    sums: Tensor,
    inverse: Tensor,
    num_classes: int,
    include_self: bool,
) -> Tensor:
    """d features (N, D)."""
    rows, width = features.shape
    wide, few = inverse.dtype == torch.float64, rows <= kernels.SMALL
    if rows * width * num_classes == 0 or not _fits(width, num_classes, wide):
        result: Tensor = eager.backward(grad, features, labels, sums, inverse, num_classes, include_self)
        return _marked(result, labels, num_classes)
    grad = dense(grad)
    features, labels = _by_rows(features), dense(labels)
    with torch.cuda.device_of(features):
        result = features.new_empty((rows, width))
        pulls, counts, parts = _sum_classes(features, labels, inverse, num_classes, grad, not include_self)
        block, columns, warps = _row_block(width, wide, 4)
        kernels.final_kernel[(triton.cdiv(rows, block),)](
            grad, features, labels, inverse, sums, pulls, counts, result, label_flag(features.device),
            rows, width, features.stride(0), num_classes, parts,
            ROWS=block, COLUMNS=columns, ACC=tl.float64 if wide else tl.float32, EXCLUDE=not include_self, FEW=few,
            num_warps=warps, **FUSED,
        )  # fmt: skip
    return result


_ACCUMULATED = ("partial", "counted", "sums", "counts", "inverse", "pulls")


def _specimen(kernel: Any, note: str, dtype: str, width: int, classes: int, few: bool, **switches: Any) -> Specimen:
    wide = dtype == "fp64"
    pointers = dict.fromkeys(("features", "grad", "mean", "result"), f"*{dtype}") | {"labels": "*i64", "flag": "*i32"}
    pointers |= dict.fromkeys(_ACCUMULATED, "*fp64" if wide else "*fp32")
    numbers = dict.fromkeys(("rows", "width", "stride", "classes", "parts"), "i32")
    names = [parameter.name for parameter in kernel.params if not parameter.is_constexpr]
    constants = {"ACC": tl.float64 if wide else tl.float32, "FEW": few, "WIDE": wide} | switches
    if kernel is kernels.partial_kernel:
        rows, columns, kinds, warps = _sum_block(width, wide)
        constants |= {"ROWS": rows, "COLUMNS": columns, "CLASSES": kinds}
    elif kernel is kernels.combine_kernel:
        warps, constants = 4, constants | {"PARTS": 64, "COLUMNS": 32}
    else:
        tiles = 4 if kernel is kernels.final_kernel else 2 if few else 1
        rows, columns, warps = _row_block(width, wide, tiles)
        constants |= {"ROWS": rows, "COLUMNS": columns}
    capped = kernel is kernels.partial_kernel and not (wide or few)
    wanted = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    return Specimen(
        op="class_similarity",
        name=f"{kernel.fn.__name__.removesuffix('_kernel')} {note}{dtype} {width}x{classes}{' few' if few else ''}",
        kernel=kernel,
        signature={name: (pointers | numbers)[name] for name in names},
        constants={name: value for name, value in constants.items() if name in wanted},
        warps=warps,
        options=FUSED | ({"maxnreg": _REGISTERS} if capped else {}),
    )


def specimens() -> list[Specimen]:
    """The usual and the widest of each kernel, and the narrow and wide dtypes where registers are tightest."""
    first = {"NORMS": True, "WEIGHTED": False, "EXCLUDE": False}
    second = {"NORMS": False, "WEIGHTED": True, "EXCLUDE": True}
    return [
        _specimen(kernels.partial_kernel, "", "fp32", 512, 8, False, **first),
        _specimen(kernels.partial_kernel, "weighted ", "fp32", 512, 8, False, **second),
        _specimen(kernels.partial_kernel, "weighted ", "bf16", 1024, 100, True, **second),
        _specimen(kernels.partial_kernel, "", "fp64", 512, 8, False, **first),
        _specimen(kernels.combine_kernel, "", "fp32", 512, 8, False),
        _specimen(kernels.norms_kernel, "", "fp32", WIDEST, 8, False),
        _specimen(kernels.similarity_kernel, "", "fp32", 512, 8, False, EXCLUDE=False),
        _specimen(kernels.similarity_kernel, "", "bf16", 512, 8, True, EXCLUDE=True),
        _specimen(kernels.final_kernel, "", "fp32", 512, 8, False, EXCLUDE=False),
        _specimen(kernels.final_kernel, "", "fp64", WIDEST // 8, 8, True, EXCLUDE=True),
        *variance_specimens(),
    ]
