"""The variance of the cosines in plain PyTorch: forward as in `class_similarity`, and the gradient written out."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.kernels.eager.class_similarity import divisors, inverse_norms, labelled_rows, membership
from ferkit.kernels.eager.class_similarity import variance as variance_forward
from ferkit.kernels.precision import accumulate

__all__ = ["variance_backward", "variance_forward"]


def variance_backward(grad: Tensor, features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Tensor:
    """d features (N, D), differentiable in ``grad`` and ``features``; N x N or D x D, as the forward pass."""
    labelled = (labels >= 0)[:, None]
    rows = labelled_rows(features, labels)
    inverse = inverse_norms(rows)
    unit = rows * inverse[:, None]
    member = membership(labels, num_classes, rows.dtype)
    counts, scale = divisors(member, include_self)
    weight = torch.where(labelled, accumulate(grad), 0) * scale
    pairs = features.shape[0] <= num_classes * features.shape[1]
    form = _by_pairs if pairs else _by_covariances
    d_unit = 2 * form(unit, member, labelled, counts, scale, weight, include_self)
    d_rows = inverse[:, None] * (d_unit - unit * (unit * d_unit).sum(1, keepdim=True))
    return torch.where(labelled, d_rows, 0).to(features.dtype)


def _by_pairs(
    unit: Tensor, member: Tensor, labelled: Tensor, counts: Tensor, scale: Tensor, weight: Tensor, include_self: bool
) -> Tensor:
    """Sum over b of (G_ab + G_ba) u_b with G_ab = w_aj (c_ab - S_aj), j the class of b: S_aj itself adds nothing."""
    similarity = unit @ (member.t() @ unit).t()
    if not include_self:
        similarity = similarity - member * (unit * unit).sum(1, keepdim=True)
    pull = (unit @ unit.t() - (similarity * scale) @ member.t()) * (weight @ member.t())
    if not include_self:
        keep = ~torch.eye(unit.shape[0], dtype=torch.bool, device=unit.device)
        pull = torch.where(keep, pull, 0)
    return (pull + pull.t()) @ unit


def _by_covariances(
    unit: Tensor, member: Tensor, labelled: Tensor, counts: Tensor, scale: Tensor, weight: Tensor, include_self: bool
) -> Tensor:
    """Sum over j of w_aj Cov_j u_a, and (sum over a of w_aj u_a u_a^T) (u_b - T_j/n_j) for b in j."""
    every = torch.where(counts > 0, 1 / counts.clamp_min(1), 0)
    centres = (member.t() @ unit) * every[:, None]
    deviation = (unit - member @ centres) * labelled
    result = torch.zeros_like(unit)
    for j in range(member.shape[1]):
        own, share = deviation * member[:, j : j + 1], weight[:, j : j + 1]
        result = result + share * (unit @ (own.t() @ own)) + own @ ((share * unit).t() @ unit)
    if include_self:
        return result
    # the anchor's own part, gap^2 n / (n - 1) with gap = |u|^2 - u . T/n, is taken out again
    own = (unit * unit).sum(1, keepdim=True) - (unit @ centres.t() * member).sum(1, keepdim=True)
    part = (weight * member * counts * scale).sum(1, keepdim=True) * own
    return result - part * (2 * unit - member @ centres) + member @ ((member.t() @ (part * unit)) * every[:, None])
