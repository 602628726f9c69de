"""neighbor_divergence in plain PyTorch: the reference, the fallback, and the second-order path."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.kernels.precision import accumulate


def _compare(logits: Tensor, neighbor_logits: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p (N, 1, C), q (N, K, C), log q - log p where q > 0 (else 0), and KL(q || p) (N, K)."""
    present = (weight != 0)[:, :, None]
    # What takes no part is blanked before the softmax: its NaN must reach neither value nor gradient.
    center = torch.where(present.any(1), accumulate(logits), 0)[:, None]
    neighbors = torch.where(present, accumulate(neighbor_logits), 0)
    log_p, log_q = center.log_softmax(2), neighbors.log_softmax(2)
    p, q = log_p.exp(), log_q.exp()
    ratio = torch.where(q == 0, 0, log_q - log_p)
    # KL = sum q (r + exp(-r) - 1), r = log q - log p: no term is negative, and an error in r enters by its square.
    inner = ratio.clamp(-1, 1)  # an exp that overflows in the branch not taken would make NaN of the second order
    near = q * (inner + torch.expm1(-inner)).clamp_min(0)
    terms = torch.where((ratio.abs() < 1) & (q > 0), near, q * ratio + (p - q))
    return p, q, ratio, torch.where(present[:, :, 0], terms.sum(2), 0)


def forward(logits: Tensor, neighbor_logits: Tensor, weight: Tensor, mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (N,) or their mean; and for the backward their derivatives by logits (N, C) and by weight (N, K)."""
    p, q, _, divergence = _compare(logits, neighbor_logits, weight)
    factor = accumulate(weight)
    loss = (factor * divergence).sum(1)
    residual = (factor[:, :, None] * (p - q)).sum(1)
    if mean:
        size = max(1, logits.shape[0])
        loss, residual, divergence = loss.sum() / size, residual / size, divergence / size
    return loss.to(logits.dtype), residual, divergence


def backward(
    grad: Tensor,
    logits: Tensor,
    neighbor_logits: Tensor,
    weight: Tensor,
    residual: Tensor,
    divergence: Tensor,
    mean: bool,
    neighbors: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """d logits (N, C), d neighbor_logits (N, K, C) if ``neighbors`` (else empty), d weight (N, K).

    Recomputes everything, hence differentiable in grad, logits, neighbor_logits and weight.
    """
    p, q, ratio, value = _compare(logits, neighbor_logits, weight)
    share = accumulate(grad) / max(1, logits.shape[0]) if mean else accumulate(grad)[:, None]
    factor = accumulate(weight) * share
    d_logits = (factor[:, :, None] * (p - q)).sum(1).to(logits.dtype)
    d_weight = (share * value).to(weight.dtype)
    if not neighbors:
        return d_logits, neighbor_logits.new_empty(0), d_weight
    d_neighbors = factor[:, :, None] * q * (ratio - value[:, :, None])
    return d_logits, d_neighbors.to(neighbor_logits.dtype), d_weight
