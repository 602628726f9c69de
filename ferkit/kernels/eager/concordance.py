"""concordance in plain PyTorch: the reference, the fallback, and the second-order path."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.kernels.precision import accumulate

__all__ = ["NEAR", "STATE", "backward", "forward"]

# Columns of the state: means of prediction and target, CCC, 1 - CCC, 2 / D, and the ratio r of the two variances.
STATE = 6
NEAR = 0.5  # below it 1 - CCC, not CCC, is the small number that the gradient is formed from


class _Moments:
    """Everything the value and the gradient are made of; p and q are the centred columns (N, T)."""

    def __init__(self, prediction: Tensor, target: Tensor, weight: Tensor | None, released: bool) -> None:
        x, y = accumulate(prediction), accumulate(target)
        w = x.new_ones(x.shape[0]) if weight is None else weight.to(x.dtype)
        self.live = (w != 0).unsqueeze(1)
        self.weight = w.unsqueeze(1)
        self.total = w.sum()
        empty = self.total == 0
        inverse = 1 / torch.where(empty, 1, self.total)
        start_x, middle_x, self.p = self._centre(x, inverse)
        start_y, middle_y, self.q = self._centre(y, inverse)
        self.mean_x, self.mean_y = start_x.double() + middle_x, start_y.double() + middle_y
        self.difference = (start_x - start_y) + (middle_x - middle_y)
        self.gap = torch.where(self.live, x - y, 0)
        spread = (self.weight * (self.p.square() + self.q.square())).sum(0)
        apart = (self.weight * self.gap.square()).sum(0)
        agree, self.ratio = torch.ones_like(inverse), torch.ones_like(inverse)
        if released:
            square = self.total.square()
            room = (square - w.square().sum()).clamp_min(0)
            one = room == 0
            self.ratio = torch.where(one, 1, square / torch.where(one, 1, room))
            agree = room * inverse.square()
        bottom = self.ratio * spread + self.total * self.difference.square()
        flat = bottom == 0
        largest = 1e300 if x.dtype == torch.float64 else 1e38
        self.scale = torch.where(flat, 0, (2 / torch.where(flat, 1, bottom)).clamp_max(largest))
        agree, differ = torch.where(empty, 0, agree), torch.where(empty, 0, 1 - agree)
        self.ccc = torch.where(flat, agree, (self.weight * self.p * self.q).sum(0) * self.scale)
        # not 1 - ccc, which has no digits left once prediction and target agree
        self.rest = torch.where(flat, differ, (apart + (self.ratio - 1) * spread) * (self.scale / 2))

    def _centre(self, x: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A row that takes part, the mean's distance from it, and x less its mean; a large mean does not cancel."""
        start = x.new_zeros(x.shape[1])
        if x.shape[0] > 0:
            first = self.live[:, :1].to(torch.int32).argmax(0)  # indexing by a tensor without a size waits for a GPU
            start = x.detach().index_select(0, first)[0]
            start = torch.where(self.total == 0, 0, start)
        shifted = torch.where(self.live, x - start, 0)
        middle = (self.weight * shifted).sum(0) * inverse
        return start, middle, torch.where(self.live, shifted - middle, 0)


def forward(
    prediction: Tensor, target: Tensor, weight: Tensor | None, released: bool, loss: bool, mean: bool
) -> tuple[Tensor, Tensor]:
    """CCC, or with ``loss`` 1 - CCC, per target (T,) or their mean; and the float64 state (T, 6) for the backward."""
    m = _Moments(prediction, target, weight, released)
    value = m.rest if loss else m.ccc
    if mean:
        value = value.sum() / max(value.shape[0], 1)
    state = torch.stack([m.mean_x, m.mean_y, m.ccc, m.rest, m.scale, m.ratio.expand_as(m.ccc)], 1)
    return value.to(prediction.dtype), state


def backward(
    grad: Tensor,
    prediction: Tensor,
    target: Tensor,
    weight: Tensor | None,
    state: Tensor,
    released: bool,
    loss: bool,
    mean: bool,
    with_target: bool,
) -> tuple[Tensor, Tensor]:
    """d prediction and d target (N, T); the latter (0,) unless asked for. Differentiable: the state is not used."""
    m = _Moments(prediction, target, weight, released)
    share = accumulate(grad)
    if mean:
        share = share / max(prediction.shape[1], 1)
    factor = (-share if loss else share) * m.scale * m.weight
    near = m.rest < NEAR
    own = torch.where(near, m.rest * m.ratio + (1 - m.ratio), -m.ccc * m.ratio)
    gap = torch.where(near, m.gap, 0)
    other = torch.where(near, 0, 1)
    level = torch.where(near, m.rest, -m.ccc) * m.difference
    d_prediction = torch.where(m.live, factor * (own * m.p + other * m.q - gap + level), 0).to(prediction.dtype)
    if not with_target:
        return d_prediction, target.new_empty(0)
    return d_prediction, torch.where(m.live, factor * (own * m.q + other * m.p + gap - level), 0).to(target.dtype)
