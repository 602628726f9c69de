"""Differentiable exchanges between processes: the sum over ranks, and all ranks' rows in rank order.

The identity behind the batch-coupled losses: let every rank return the same global loss L, computed from its own rows
and from exchanged ones. Backward sums the ranks' gradients of an exchanged tensor, so that rank r holds the gradient of
(L + ... + L) = W·L with respect to its own rows; data-parallel training averages the ranks' parameter gradients, which
divides by W again. The averaged gradient is thus exactly that of L on the whole batch in one process, however unequal
the local batches are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["all_reduce_sum", "gather_rows", "resolve_group"]


def resolve_group(process_group: Any) -> Any:
    """The group to exchange with: None (alone), a ProcessGroup, or "global", which is all ranks if there are any.

    >>> resolve_group("global") is None  # one process, nothing initialised
    True
    """
    if process_group is None:
        return None
    ready = dist.is_available() and dist.is_initialized()
    if isinstance(process_group, str):
        if process_group != "global":
            raise ValueError(f"process_group: expected None, 'global' or a ProcessGroup, got {process_group!r}")
        return dist.group.WORLD if ready else None
    if not dist.is_available() or not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(f"process_group: expected None, 'global' or a ProcessGroup, got {process_group!r}")
    return process_group


def all_reduce_sum(values: Tensor, group: Any) -> Tensor:
    """The elementwise sum over the ranks, of one shape on all of them; backward sums the gradients likewise."""
    result: Tensor = _AllReduceSum.apply(values, group)
    return result


def gather_rows(rows: Tensor, group: Any) -> Tensor:
    """All ranks' rows (N_0 + N_1 + ..., ...) in rank order; the numbers of rows may differ, and be 0.

    Two collectives: the numbers of rows, read on the host, then rows padded to the largest number. Backward hands each
    rank the sum over the ranks of its rows' gradients.
    """
    sizes = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=rows.device)
    sizes[dist.get_rank(group)] = rows.shape[0]
    dist.all_reduce(sizes, group=group)
    result: Tensor = _GatherRows.apply(rows, sizes.tolist(), group)
    return result


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return all_reduce_sum(grads[0], ctx.group), None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], group: Any) -> Tensor:
        ctx.group, ctx.sizes, rank = group, sizes, dist.get_rank(group)
        ctx.start = sum(sizes[:rank])
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: sizes[rank]] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        size = ctx.sizes[dist.get_rank(ctx.group)]
        return all_reduce_sum(grads[0], ctx.group)[ctx.start : ctx.start + size], None, None
