"""similarity_preserving in plain PyTorch, both exact forms: the reference, the fallback, and the second-order path.

In float64 whatever the input: where branches agree, both forms subtract nearly equal numbers, and what float32 would
round off is the result. Branch by branch, so that memory does not grow with the number of branches. The derivation is
in docs/math/similarity_preserving.md.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _inverse_root(square: Tensor) -> Tensor:
    """1/sqrt, and 0 with a zero gradient where the square is 0."""
    zero = square == 0
    return torch.where(zero, torch.zeros_like(square), torch.where(zero, torch.ones_like(square), square).rsqrt())


def _branches(target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool):  # type: ignore[no-untyped-def]
    """Yield (index, target rows, branch rows, row weights, weights inside the norms) per branch."""
    whole = target.double()
    ones = torch.ones_like(mask[0], dtype=torch.float64) if mask.shape[0] else None
    for index in range(auxiliary.shape[0]):
        weight = mask[index].double()
        rows, own = auxiliary[index].double(), whole
        if subset:  # a masked row takes no part at all, not even by its NaN
            rows, own = (torch.where((weight != 0)[:, None], part, 0) for part in (rows, own))
        yield index, own, rows, weight, weight if subset else ones


def _inverse_square(weight: Tensor) -> Tensor:
    """1 / N_i^2, 0 for a branch without a row."""
    total = weight.sum()
    return torch.where(total > 0, 1 / torch.where(total > 0, total, 1) ** 2, 0)


def state_size(*_: object) -> int:
    """What the forward keeps for the backward, in float64 numbers: nothing."""
    return 0


def forward(
    target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, gram: bool, kept: int
) -> tuple[Tensor, Tensor]:
    """Loss per branch (M,), and room (kept,) for what a backward may want kept; this one recomputes."""
    value = _gram_value if gram else _factored_value
    losses = [
        value(own, rows, weight, inner) * _inverse_square(weight)
        for _, own, rows, weight, inner in _branches(target, auxiliary, mask, subset)
    ]
    state = target.new_zeros(kept, dtype=torch.float64)
    return torch.stack(losses).to(target.dtype) if losses else target.new_zeros(0), state


def backward(
    grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, state: Tensor, subset: bool, gram: bool
) -> tuple[Tensor, Tensor]:
    """d target and d auxiliary; differentiable in grad, target and auxiliary."""
    pull = _gram_pull if gram else _factored_pull
    d_target, d_rows = torch.zeros_like(target, dtype=torch.float64), []
    for index, own, rows, weight, inner in _branches(target, auxiliary, mask, subset):
        part, d_branch = pull(grad[index].double() * _inverse_square(weight), own, rows, weight, inner)
        if subset:
            part, d_branch = (torch.where((weight != 0)[:, None], piece, 0) for piece in (part, d_branch))
        d_target = d_target + part
        d_rows.append(d_branch.to(auxiliary.dtype))
    return d_target.to(target.dtype), torch.stack(d_rows) if d_rows else torch.zeros_like(auxiliary)


# ---- Gram form: A = G / r with G = F F^T and r_n^2 = sum_p v_p G_np^2


def _gram(rows: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """A = G / r and 1/r."""
    gram = rows @ rows.t()
    inv = _inverse_root((gram * gram * inner).sum(1))
    return gram * inv[:, None], inv


def _gram_value(target: Tensor, rows: Tensor, weight: Tensor, inner: Tensor) -> Tensor:
    difference = _gram(target, inner)[0] - _gram(rows, inner)[0]
    return weight @ (difference * difference) @ weight


def _gram_pull(scale: Tensor, target: Tensor, rows: Tensor, weight: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    (a_t, inv_t), (a, inv) = _gram(target, inner), _gram(rows, inner)
    d_a = 2 * scale * weight[:, None] * weight * (a_t - a)

    def chain(d_a: Tensor, a: Tensor, inv: Tensor, features: Tensor) -> Tensor:
        d_gram = inv[:, None] * (d_a - inner * a * (d_a * a).sum(1, keepdim=True))
        return (d_gram + d_gram.t()) @ features

    return chain(d_a, a_t, inv_t, target), chain(-d_a, a, inv, rows)


# ---- factored form: A_t - A_i = X Z^T with thin X and Z, so its norm needs D x D blocks only


def _factors(target: Tensor, rows: Tensor, inner: Tensor):  # type: ignore[no-untyped-def]
    width = max(target.shape[1], rows.shape[1])
    target, rows = (torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (target, rows))
    block_t, block = (part.t() @ (inner[:, None] * part) for part in (target, rows))
    inv_t = _inverse_root(((target @ block_t) * target).sum(1))
    inv = _inverse_root(((rows @ block) * rows).sum(1))
    ratio = _length_ratio(block_t, block)
    unit_t, unit = target * inv_t[:, None], rows * (inv / ratio)[:, None]
    x, z = torch.cat([unit_t - unit, unit], 1), torch.cat([target, target - rows * ratio], 1)
    return target, rows, block_t, block, inv_t, inv, ratio, x, z


@torch.no_grad()
def _length_ratio(block_t: Tensor, block: Tensor) -> Tensor:
    """A power of two that makes the branch as long as the target: A does not know the difference, rounding does."""
    power = ((block_t.trace().log2() - block.trace().log2()) / 2).round()
    return torch.where(power.abs() <= 200, power.exp2(), 1)  # 1 for zero, infinite and NaN features too


def _factored_value(target: Tensor, rows: Tensor, weight: Tensor, inner: Tensor) -> Tensor:
    *_, x, z = _factors(target, rows, inner)
    value: Tensor = ((x.t() @ (weight[:, None] * x)) * (z.t() @ (weight[:, None] * z))).sum().clamp_min(0)
    return value


def _factored_pull(scale: Tensor, target: Tensor, rows: Tensor, weight: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    wide_t, wide, block_t, block, inv_t, inv, ratio, x, z = _factors(target, rows, inner)
    width = wide.shape[1]
    d_x = 2 * scale * (weight[:, None] * x) @ (z.t() @ (weight[:, None] * z))
    d_z = 2 * scale * (weight[:, None] * z) @ (x.t() @ (weight[:, None] * x))

    def chain(d_unit: Tensor, d_direct: Tensor, features: Tensor, block: Tensor, inv: Tensor) -> Tensor:
        d_square = -0.5 * inv**3 * (d_unit * features).sum(1)
        d_block = features.t() @ (d_square[:, None] * features)
        through = 2 * d_square[:, None] * (features @ block) + 2 * inner[:, None] * (features @ d_block)
        return d_direct + inv[:, None] * d_unit + through

    d_unit_t, d_unit = d_x[:, :width], (d_x[:, width:] - d_x[:, :width]) / ratio
    d_t = chain(d_unit_t, d_z[:, :width] + d_z[:, width:], wide_t, block_t, inv_t)
    d_r = chain(d_unit, -ratio * d_z[:, width:], wide, block, inv)
    return d_t[:, : target.shape[1]], d_r[:, : rows.shape[1]]
