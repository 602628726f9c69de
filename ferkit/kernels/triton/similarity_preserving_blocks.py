"""The steps of the factored form around its kernels: D x D blocks over chunks of rows, in fixed order, all in float64.

Launches where one chunk holds all rows: forward 14 (zero; a side: spread, two products, norms; then pairs, two
products, dots, finish; the sides are the target and all branches at once), backward 18 (pairs, two products, pull, sum,
one more sum for the target's norms; a side: zero, spread, three products, close).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ferkit.kernels.triton import similarity_preserving_factored as kernels
from ferkit.kernels.triton.launch import FUSED, Specimen, accumulation_dtype, dense
from ferkit.kernels.triton.similarity_preserving_gram import finish

__all__ = ["backward", "forward", "specimens", "state_size"]

BUDGET = 64 << 20  # bytes of float64 rows in flight
_HEIGHT = 8  # rows a program, as in the kernels


def _even(count: int) -> int:
    return count + count % 2


class _Layout:
    """Where things lie in the flat float64 state."""

    def __init__(self, target: Tensor, auxiliary: Tensor, subset: bool) -> None:
        self.size, self.branches = target.shape[0], auxiliary.shape[0]
        self.targets = self.branches if subset else 1
        self.wide = max(target.shape[1], auxiliary.shape[2])
        sides, block = self.targets + self.branches, self.wide * self.wide
        lengths = (
            *(self.targets * block, self.branches * block, self.targets * self.size, self.branches * self.size),
            *(4 * self.branches * block, 4 * self.branches * block, self.branches, self.branches * kernels.SPLITS),
        )
        self.starts = [0]
        for length in lengths:  # even, so that every part is aligned to 16 bytes
            self.starts.append(self.starts[-1] + _even(length))
        self.length = self.starts[-1] + 1  # odd: never taken for a state of the Gram form
        self.height = self._rows(3 * sides * self.wide * 8)
        self.pair_height = self._rows(8 * self.branches * self.wide * 8)

    def _rows(self, item: int) -> int:
        return min(self.size, max(64, BUDGET // max(item, 1) // 64 * 64))

    def view(self, work: Tensor, part: int, *shape: int) -> Tensor:
        count = 1
        for length in shape:
            count *= length
        return work[self.starts[part] : self.starts[part] + count].view(shape)


@dataclass
class _Family:
    """The target, or all branches: features, and per side the block F^T V F and 1/r."""

    features: Tensor
    matrix: int  # entries from one side's features to the next one's
    block: Tensor  # (sides, W, W)
    inverse: Tensor  # (sides, N)

    @property
    def sides(self) -> int:
        return self.block.shape[0]

    @property
    def width(self) -> int:
        return self.features.shape[-1]


def _launch(kernel: Any, matrices: int, rows: int, *arguments: Any, **flags: bool) -> None:
    kernel[(matrices * triton.cdiv(rows, _HEIGHT),)](*arguments, **flags, num_warps=4, **FUSED)


def _chunks(size: int, height: int) -> Iterator[tuple[int, int]]:
    for row in range(0, size, height):
        yield row, min(height, size - row)


class _Problem:
    """One call: arguments, layout and views of the state."""

    def __init__(self, target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, work: Tensor) -> None:
        at = self.layout = _Layout(target, auxiliary, subset)
        self.work = work if work.numel() == at.length else work.new_empty(at.length)
        self.kept = self.work is work
        self.mask, self.subset, self.strides = mask, subset, mask.stride()
        kind = accumulation_dtype(target.dtype)
        target, auxiliary = dense(target).to(kind), dense(auxiliary).to(kind)
        wide, size, branches = at.wide, at.size, at.branches
        block_t, inverse_t = (at.view(self.work, 0, at.targets, wide, wide), at.view(self.work, 2, at.targets, size))
        block_i, inverse_i = (at.view(self.work, 1, branches, wide, wide), at.view(self.work, 3, branches, size))
        self.target = _Family(target, 0, block_t, inverse_t)
        self.auxiliary = _Family(auxiliary, size * auxiliary.shape[2], block_i, inverse_i)
        self.xx = at.view(self.work, 4, branches, 2 * wide, 2 * wide)
        self.zz = at.view(self.work, 5, branches, 2 * wide, 2 * wide)

    def rows(self, *shape: int) -> Tensor:
        return self.work.new_empty(shape)

    def spread(self, side: _Family, row: int, rows: int, right: Tensor, left: Tensor, along: Tensor | None) -> None:
        at = self.layout
        sizes = row, rows, right.shape[1], at.size, side.width, at.wide, side.matrix, *self.strides
        dots = side.inverse if along is None else along
        arguments = side.features, self.mask, side.inverse, dots, right, left, *sizes
        _launch(kernels.spread, side.sides, rows, *arguments, SUBSET=self.subset, LEFT=along is not None)

    def pairs(self, row: int, rows: int, x: Tensor, z: Tensor) -> None:
        at, t, i = self.layout, self.target, self.auxiliary
        sizes = row, rows, x.shape[1], at.size, t.width, i.width, at.wide, *self.strides
        arguments = t.features, i.features, self.mask, t.inverse, i.inverse, x, z, *sizes
        _launch(kernels.pairs, at.branches, rows, *arguments, SUBSET=self.subset)


def _normalise(p: _Problem, side: _Family) -> None:
    """The block F^T V F of every side, then 1/r of every row."""
    at = p.layout
    height = at.height
    right, product = (p.rows(side.sides, height, at.wide) for _ in range(2))
    for row, rows in _chunks(at.size, height):
        p.spread(side, row, rows, right, right, None)
        side.block.baddbmm_(right[:, :rows].mT, right[:, :rows])
    for row, rows in _chunks(at.size, height):
        if height < at.size:
            p.spread(side, row, rows, right, right, None)
        torch.bmm(right[:, :rows], side.block, out=product[:, :rows])
        sizes = row, rows, height, at.size, at.wide, *p.strides
        _launch(kernels.norms, side.sides, rows, right, product, p.mask, side.inverse, *sizes, SUBSET=p.subset)


def state_size(target: Tensor, auxiliary: Tensor, subset: bool) -> int:
    """float64 numbers kept for the backward."""
    return _Layout(target, auxiliary, subset).length


def forward(target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, loss: Tensor, state: Tensor) -> _Problem:
    """Fills ``loss``, and ``state`` if it has the room."""
    p = _Problem(target, auxiliary, mask, subset, state)
    at = p.layout
    p.work.zero_()  # the blocks are sums over chunks
    _normalise(p, p.target)
    _normalise(p, p.auxiliary)
    x, z = (p.rows(at.branches, at.pair_height, 2 * at.wide) for _ in range(2))
    for row, rows in _chunks(at.size, at.pair_height):
        p.pairs(row, rows, x, z)
        p.xx.baddbmm_(x[:, :rows].mT, x[:, :rows])
        p.zz.baddbmm_(z[:, :rows].mT, z[:, :rows])
    entries = 4 * at.wide * at.wide
    parts = p.work[at.starts[7] :]
    kernels.dots[(at.branches * kernels.SPLITS,)](
        p.xx, p.zz, parts, entries, SPLIT=kernels.SPLITS, BLOCK=1024, num_warps=4, **FUSED
    )
    finish(p.work, at.starts[7], kernels.SPLITS, at.starts[6], 0, mask, loss)
    return p


def backward(
    grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, state: Tensor
) -> tuple[Tensor, Tensor]:
    p = _Problem(target, auxiliary, mask, subset, state)
    if not p.kept:  # a caller that could not keep the forward's state: form it anew
        p = forward(target, auxiliary, mask, subset, torch.empty_like(grad), state[:0])
    at = p.layout
    direct_t = p.rows(at.size, p.target.width)
    direct_i = torch.empty_like(p.auxiliary.features)
    along_t, along_i = (p.rows(at.branches, at.size) for _ in range(2))
    x, z, dx, dz = (p.rows(at.branches, at.pair_height, 2 * at.wide) for _ in range(4))
    divisor = p.work[at.starts[6] :]
    for row, rows in _chunks(at.size, at.pair_height):
        p.pairs(row, rows, x, z)
        torch.bmm(x[:, :rows], p.zz, out=dx[:, :rows])
        torch.bmm(z[:, :rows], p.xx, out=dz[:, :rows])
        sizes = row, rows, at.pair_height, at.size, p.auxiliary.width, at.wide, *p.strides, *grad.stride()
        views = mask, grad, divisor, p.target.inverse, p.auxiliary.inverse, along_t, along_i
        _launch(kernels.pull, at.branches, rows, dx, dz, z, x, direct_i, *views, *sizes, SUBSET=subset)
        torch.sum(x[:, :rows, : p.target.width], 0, out=direct_t[row : row + rows])  # x is free again: d F_t by branch
    del x, z, dx, dz
    if not subset:
        along_t = along_t.sum(0, keepdim=True)
    d_target = torch.empty_like(p.target.features)
    _through_norms(p, p.target, along_t, direct_t, d_target, 1)
    _through_norms(p, p.auxiliary, along_i, direct_i, direct_i, at.branches)
    return d_target.to(target.dtype), direct_i.to(auxiliary.dtype)


def _through_norms(p: _Problem, side: _Family, along: Tensor, direct: Tensor, result: Tensor, matrices: int) -> None:
    """result = direct + 2 q (F block) + 2 v F (F^T diag(q) F), summed over the sides of one matrix."""
    at = p.layout
    height = at.height
    right, left, product = (p.rows(side.sides, height, at.wide) for _ in range(3))
    d_block = torch.zeros_like(side.block)
    for row, rows in _chunks(at.size, height):
        p.spread(side, row, rows, right, left, along)
        d_block.baddbmm_(left[:, :rows].mT, right[:, :rows])
    for row, rows in _chunks(at.size, height):
        if height < at.size:
            p.spread(side, row, rows, right, left, along)
        out = product[:, :rows]
        torch.bmm(left[:, :rows], side.block, out=out)
        out.baddbmm_(right[:, :rows], d_block)
        sizes = row, rows, height, at.size, side.width, at.wide, side.sides // matrices, *p.strides
        _launch(kernels.close, matrices, rows, direct, product, p.mask, result, *sizes, SUBSET=p.subset)


def specimens() -> list[Specimen]:
    """The kernels of the factored form; they are the same for every shape."""
    found = []
    for name, flags in (
        ("spread", {"LEFT": True}),
        ("norms", {}),
        ("pairs", {}),
        ("dots", {}),
        ("pull", {}),
        ("close", {}),
    ):
        kernel = getattr(kernels, name)
        constants: dict[str, Any] = {**flags, "SUBSET": True}
        if name == "dots":
            constants = {"SPLIT": kernels.SPLITS, "BLOCK": 1024}
        pointers = {
            key: "*fp64" for key in ("inverse", "along", "right", "left", "product", "x", "z", "xx", "zz", "parts")
        }
        pointers |= {key: "*fp64" for key in ("dx", "dz", "direct_t", "divisor", "along_t", "along_i", "direct")}
        pointers |= {key: "*fp64" for key in ("inverse_t", "inverse_i")} | {"mask": "*u8"}
        pointers |= {key: "*fp32" for key in ("features", "target", "auxiliary", "direct_i", "grad", "result")}
        signature = {key: pointers.get(key, "i32") for key in kernel.arg_names if key not in constants}
        found.append(Specimen("similarity_preserving", f"factored_{name}", kernel, signature, constants, warps=4))
    return found
