"""class_similarity in plain PyTorch: the reference, the fallback, and the second-order path."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.kernels.eager._labels import check_and_flag, out_of_range
from ferkit.kernels.precision import accumulate

EPS = 1e-12  # a shorter vector counts as a zero vector: cosine 0, gradient 0


def inverse_norms(features: Tensor) -> Tensor:
    """1/|f| per row, 0 for a zero row; the squares are summed in float64, where float32 input cannot overflow."""
    norms = torch.linalg.vector_norm(features, dim=1, dtype=torch.float64).to(features.dtype)
    short = norms < EPS
    return torch.where(short, torch.zeros_like(norms), 1 / torch.where(short, torch.ones_like(norms), norms))


def membership(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """One-hot rows (N, C), a row of zeros for a label of -1."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(dtype)


def labelled_rows(features: Tensor, labels: Tensor) -> Tensor:
    """The rows in the accumulation dtype, unlabelled ones zeroed so that not even their NaN takes part."""
    return torch.where((labels >= 0)[:, None], accumulate(features), 0)


def divisors(member: Tensor, include_self: bool) -> tuple[Tensor, Tensor]:
    """Counts per class (C,), and 1 / (members that anchor a meets in class j) (N or 1, C), 0 where there is none."""
    counts = member.sum(0)
    met = counts[None] if include_self else counts - member
    return counts, torch.where(met > 0, 1 / met.clamp_min(1), 0)


def _mark(values: Tensor, wrong: Tensor | None) -> Tensor:
    """NaN in the rows whose label is out of range."""
    return values if wrong is None else torch.where(wrong[:, None], torch.nan, values)


def forward(
    features: Tensor, labels: Tensor, num_classes: int, include_self: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (N, C), counts (C,), and for the backward class sums (C, D) and inverse norms (N,)."""
    wrong = check_and_flag(labels, num_classes)
    rows = labelled_rows(features, labels)
    inverse = inverse_norms(rows)
    unit = rows * inverse[:, None]
    member = membership(labels, num_classes, rows.dtype)
    counts, scale = divisors(member, include_self)
    sums = member.t() @ unit
    similarity = unit @ sums.t()
    if not include_self:
        similarity = similarity - member * (unit * unit).sum(1, keepdim=True)
    similarity = similarity * scale
    labelled = (labels >= 0)[:, None]  # NaN class sums must not reach unlabelled rows through 0 * NaN
    similarity = torch.where(labelled, similarity, 0)
    return _mark(similarity, wrong).to(features.dtype), counts, sums, inverse


def backward(
    grad: Tensor,
    features: Tensor,
    labels: Tensor,
    sums: Tensor,
    inverse: Tensor,
    num_classes: int,
    include_self: bool,
) -> Tensor:
    """d features (N, D). Recomputes everything from ``features``, hence differentiable in ``grad`` and ``features``."""
    rows = labelled_rows(features, labels)
    inverse = inverse_norms(rows)
    unit = rows * inverse[:, None]
    member = membership(labels, num_classes, rows.dtype)
    _, scale = divisors(member, include_self)
    weight = torch.where((labels >= 0)[:, None], accumulate(grad), 0) * scale
    d_unit = weight @ (member.t() @ unit) + member @ (weight.t() @ unit)
    if not include_self:
        d_unit = d_unit - 2 * (weight * member).sum(1, keepdim=True) * unit
    d_rows = inverse[:, None] * (d_unit - unit * (unit * d_unit).sum(1, keepdim=True))
    d_rows = torch.where((labels >= 0)[:, None], d_rows, 0)
    return _mark(d_rows, out_of_range(labels, num_classes)).to(features.dtype)


def variance(features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Tensor:
    """Variance (N, C) of the cosines of each anchor with each class, differentiable, centred before squaring.

    Through the N x N cosines, or through one D x D covariance per class, whichever is cheaper.
    """
    rows = labelled_rows(features, labels)
    unit = rows * inverse_norms(rows)[:, None]
    member = membership(labels, num_classes, rows.dtype)
    counts, scale = divisors(member, include_self)
    every = torch.where(counts > 0, 1 / counts.clamp_min(1), 0)
    sums = member.t() @ unit
    if features.shape[0] <= num_classes * features.shape[1]:
        cosine = unit @ unit.t()
        similarity = unit @ sums.t()
        if not include_self:
            similarity = similarity - member * (unit * unit).sum(1, keepdim=True)
        centred = cosine - (similarity * scale) @ member.t()
        if not include_self:
            keep = ~torch.eye(features.shape[0], dtype=torch.bool, device=features.device)
            centred = torch.where(keep, centred, 0)
        result = (centred * centred) @ member * scale
    else:
        deviation = (unit - member @ (sums * every[:, None])) * (labels >= 0)[:, None]
        parts = []
        for j in range(num_classes):
            own = deviation * member[:, j : j + 1]
            projected = unit @ (own.t() @ own)
            parts.append((projected * unit).sum(1))
        total = torch.stack(parts, 1) if parts else unit.new_zeros(unit.shape[0], 0)
        if not include_self:
            # Taking one value x out of n with mean m lowers the sum of squares by (x - m)^2 n / (n - 1).
            gap = (unit * unit).sum(1, keepdim=True) - unit @ (sums * every[:, None]).t()
            total = total - member * gap * gap * counts * scale
        result = total.clamp_min(0) * scale
    result = torch.where((labels >= 0)[:, None], result, 0)
    return _mark(result, out_of_range(labels, num_classes)).to(features.dtype)
