"""scaled_cross_entropy in plain PyTorch: the reference, the fallback, and the second-order path."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.kernels.eager._labels import check_and_flag, out_of_range
from ferkit.kernels.precision import accumulate


def forward(logits: Tensor, scale: Tensor, labels: Tensor, mean: bool) -> tuple[Tensor, Tensor]:
    """Losses (N,) or their mean; for the backward the largest scaled logit and the sum of exp(. - largest), (N, 2)."""
    wrong = check_and_flag(labels, logits.shape[1])
    scaled = accumulate(scale)[:, None] * accumulate(logits)
    if logits.shape[1] == 0:
        rows = scaled.sum(1) if wrong is None else torch.where(wrong, torch.nan, scaled.sum(1))
        return (rows.sum() if mean else rows).to(logits.dtype), scaled.new_zeros(logits.shape[0], 2)
    largest = scaled.amax(1)
    total = (scaled - largest[:, None]).exp().sum(1)
    own = scaled.gather(1, labels.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    loss = torch.where(labels >= 0, largest - own + total.log(), 0)
    if wrong is not None:
        loss = torch.where(wrong, torch.nan, loss)
    if mean:
        loss = loss.sum() / (labels >= 0).sum().clamp_min(1)
    return loss.to(logits.dtype), torch.stack([largest, total], 1)


def backward(
    grad: Tensor, logits: Tensor, scale: Tensor, labels: Tensor, normaliser: Tensor, mean: bool
) -> tuple[Tensor, Tensor]:
    """d logits (N, C) and d scale (N,). Recomputes the softmax, hence differentiable in grad, logits and scale."""
    values, factor = accumulate(logits), accumulate(scale)[:, None]
    labelled = labels >= 0
    share = accumulate(grad)
    if mean:
        share = share / labelled.sum().clamp_min(1)
    weight = torch.where(labelled, share, 0)[:, None]
    member = (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)).to(values.dtype)
    residual = weight * ((factor * values).softmax(1) - member)
    d_logits = torch.where(labelled[:, None], factor * residual, 0)
    d_scale = torch.where(labelled, (values * residual).sum(1), 0)
    wrong = out_of_range(labels, logits.shape[1])
    if wrong is not None:
        d_logits, d_scale = torch.where(wrong[:, None], torch.nan, d_logits), torch.where(wrong, torch.nan, d_scale)
    return d_logits.to(logits.dtype), d_scale.to(scale.dtype)
