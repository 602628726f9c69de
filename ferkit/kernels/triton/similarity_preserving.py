"""similarity_preserving on Triton: the choice of form and the steps around the kernels of its two forms.

Launches in the Gram form while all Gram matrices fit in `WHOLE` bytes (72x512x8 does): 4 forward (stack, batched
product, rows, finish; mm and bmm instead of stack and product where the widths differ) and 3 backward (pull, mm, bmm);
4 more backward for normalize="subset". Beyond, per chunk of rows: 3 forward, 7 backward.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from ferkit.kernels.triton import similarity_preserving_blocks as factored_form
from ferkit.kernels.triton import similarity_preserving_gram as gram_form
from ferkit.kernels.triton.launch import Specimen, accumulation_dtype, dense

__all__ = ["backward", "forward", "specimens", "state_size"]

WHOLE = 32 << 20  # bytes: up to here every Gram matrix is formed at once, and kept for the backward
BUDGET = 64 << 20  # bytes of Gram rows in flight beyond


def _device(tensor: Tensor) -> Any:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _entries(mask: Tensor) -> Tensor:
    """Triton reads bool as bytes."""
    return mask.view(torch.uint8) if mask.dtype == torch.bool else mask


class _Plan:
    """Where things lie in the flat state of the Gram form: the matrices if all are kept, then the vectors."""

    __slots__ = ("dtype", "height", "length", "vectors", "whole", "wide")

    def __init__(self, size: int, branches: int, subset: bool, dtype: torch.dtype) -> None:
        self.dtype = accumulation_dtype(dtype)
        item = 8 if self.dtype == torch.float64 else 4
        self.wide = -(-size // 8) * 8
        row = (branches + 1) * self.wide * item
        self.whole = size * row <= WHOLE
        self.height = size if self.whole else min(size, _rounded(BUDGET // row))
        self.vectors = (branches + 1) * size * self.wide if self.whole else 0
        sides = 4 * branches + (branches if subset else 1)
        count = self.vectors + sides * size + branches
        self.length = -(-count * item // 16) * 16 // item  # an even number of float64


def _rounded(height: int) -> int:
    """Chunks in whole tiles of a matrix product."""
    return max(16, height // 128 * 128 if height >= 128 else height // 16 * 16)


def state_size(target: Tensor, auxiliary: Tensor, subset: bool, gram: bool) -> int:
    """float64 numbers kept for the backward: even for the Gram form, odd for the factored one, never mistaken."""
    if not gram:
        return factored_form.state_size(target, auxiliary, subset)
    plan = _Plan(target.shape[0], auxiliary.shape[0], subset, target.dtype)
    return plan.length * (8 if plan.dtype == torch.float64 else 4) // 8


def forward(
    target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, gram: bool, kept: int
) -> tuple[Tensor, Tensor]:
    """Loss per branch (M,), and the state (kept,) for the backward."""
    state = target.new_empty(kept, dtype=torch.float64)
    loss = target.new_empty(auxiliary.shape[0])
    if target.shape[0] == 0 or auxiliary.shape[0] == 0:
        return loss.zero_(), state.zero_()
    with _device(target):
        run = _gram_forward if gram else factored_form.forward
        run(target, auxiliary, _entries(mask), subset, loss, state)
    return loss, state


def backward(
    grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, state: Tensor, subset: bool, gram: bool
) -> tuple[Tensor, Tensor]:
    """d target and d auxiliary."""
    if target.shape[0] == 0 or auxiliary.shape[0] == 0:
        return target.new_zeros(target.shape), auxiliary.new_zeros(auxiliary.shape)
    with _device(target):
        run = _gram_backward if gram else factored_form.backward
        return run(grad, target, auxiliary, _entries(mask), subset, state)


# ---- Gram form


def _features(target: Tensor, auxiliary: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
    return dense(target).to(plan.dtype), dense(auxiliary).to(plan.dtype)


def _products(target: Tensor, auxiliary: Tensor, gram: Tensor) -> None:
    """Every Gram matrix; in one batch where widths agree, so that equal features have equal matrices to the bit."""
    size = target.shape[0]
    if target.shape[1] == auxiliary.shape[2]:
        stack = torch.cat([target.unsqueeze(0), auxiliary])
        torch.bmm(stack, stack.mT, out=gram[:, :, :size])
    else:
        torch.mm(target, target.t(), out=gram[0, :, :size])
        torch.bmm(auxiliary, auxiliary.mT, out=gram[1:, :, :size])


def _gram_forward(
    target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, loss: Tensor, state: Tensor
) -> tuple[_Plan, Tensor]:
    """Fills ``loss``; the plan and its flat memory come back, which is ``state`` if that has the room."""
    branches, size = mask.shape
    plan = _Plan(size, branches, subset, target.dtype)
    work = state.view(plan.dtype)
    if work.numel() != plan.length:
        work = target.new_empty(plan.length, dtype=plan.dtype)
    target, auxiliary = _features(target, auxiliary, plan)
    if plan.whole:
        gram = work[: plan.vectors].view(branches + 1, size, plan.wide)
        _products(target, auxiliary, gram)
        gram_form.rows(gram, mask, work, plan.vectors, 0, size, subset)
    else:
        gram = work.new_empty(branches + 1, plan.height, plan.wide)
        for row in range(0, size, plan.height):
            end = min(row + plan.height, size)
            torch.mm(target[row:end], target.t(), out=gram[0, : end - row, :size])
            torch.bmm(auxiliary[:, row:end], auxiliary.mT, out=gram[1:, : end - row, :size])
            gram_form.rows(gram, mask, work, plan.vectors, row, end - row, subset)
    parts = plan.vectors + (4 * branches + (branches if subset else 1) - branches) * size
    gram_form.finish(work, parts, size, parts + branches * size, plan.length, mask, loss)
    return plan, work


def _gram_backward(
    grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, state: Tensor
) -> tuple[Tensor, Tensor]:
    branches, size = mask.shape
    plan = _Plan(size, branches, subset, target.dtype)
    work, own = state.view(plan.dtype), False
    if work.numel() != plan.length:  # a caller that could not keep the forward's state: form it anew
        work, own = _gram_forward(target, auxiliary, mask, subset, torch.empty_like(grad), state[:0])[1], True
    dtype = target.dtype
    if subset:  # H is 0 in a masked row and column, but 0 * NaN is NaN
        used = mask != 0
        target = torch.where(used.any(0).unsqueeze(1), target, 0)
        auxiliary = torch.where(used.unsqueeze(2), auxiliary, 0)
    target, auxiliary = _features(target, auxiliary, plan)
    if not plan.whole:
        d_target, d_auxiliary = _by_chunks(grad, target, auxiliary, mask, work, subset, plan)
        return d_target.to(dtype), d_auxiliary.to(dtype)
    gram = work[: plan.vectors].view(branches + 1, size, plan.wide)
    pull = gram if own else torch.empty_like(gram)
    gram_form.pull(gram, pull, mask, grad, work, plan.vectors, (0, size, 0, size), subset)
    d_target, d_auxiliary = torch.mm(pull[0, :, :size], target), torch.bmm(pull[1:, :, :size], auxiliary)
    return d_target.to(dtype), d_auxiliary.to(dtype)


def _by_chunks(
    grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, work: Tensor, subset: bool, plan: _Plan
) -> tuple[Tensor, Tensor]:
    """H is symmetric: only columns from the chunk's first row on are formed, and used on both sides."""
    branches, size = mask.shape
    d_target, d_auxiliary = torch.zeros_like(target), torch.zeros_like(auxiliary)
    memory = work.new_empty(branches + 1, plan.height, plan.wide)
    for row in range(0, size, plan.height):
        end = min(row + plan.height, size)
        count, width = end - row, size - row
        h_t, h = memory[0, :count, :width], memory[1:, :count, :width]
        torch.mm(target[row:end], target[row:].t(), out=h_t)
        torch.bmm(auxiliary[:, row:end], auxiliary[:, row:].mT, out=h)
        gram_form.pull(memory, memory, mask, grad, work, plan.vectors, (row, count, row, width), subset)
        d_target[row:end].addmm_(h_t, target[row:])
        d_auxiliary[:, row:end].baddbmm_(h, auxiliary[:, row:])
        if end < size:
            d_target[end:].addmm_(h_t[:, count:].t(), target[row:end])
            d_auxiliary[:, end:].baddbmm_(h[:, :, count:].mT, auxiliary[:, row:end])
    return d_target, d_auxiliary


def specimens() -> list[Specimen]:
    """Every kernel in the dtypes and launch buckets in use."""
    return gram_form.specimens() + factored_form.specimens()
