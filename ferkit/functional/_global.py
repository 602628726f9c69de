"""The batch-coupled values over the batches of all processes, by the smallest exact exchange."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferkit.distributed import all_reduce_sum, gather_rows
from ferkit.functional._inputs import zero_rows
from ferkit.ops.similarity_preserving import similarity_preserving
from ferkit.reduction import safe_divide

__all__ = ["global_class_similarity", "global_msp"]

# Rows to gather take C·N·D numbers, float64 blocks up to 9·C·D² numbers of twice the size.
BLOCKS_FROM = 18


def global_class_similarity(
    features: Tensor, labels: Tensor, num_classes: int, include_self: bool, variance: bool, group: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The local rows (N, C) of equation 7 over all ranks, the global counts (C,), and on request the variance (N, C).

    Exchanged: class sums and counts, (C, D + 1); for the variance one covariance (D, D) per class more.
    """
    labelled = labels >= 0
    unit = _unit(zero_rows(features, labelled))
    member = (labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)).to(unit.dtype)
    exchanged = all_reduce_sum(torch.cat([member.T @ unit, member.sum(0).unsqueeze(1)], 1), group)
    sums, counts = exchanged[:, :-1], exchanged[:, -1].detach()
    own = unit.square().sum(1, keepdim=True)
    met = counts.unsqueeze(0) if include_self else counts - member
    total = unit @ sums.T if include_self else unit @ sums.T - member * own
    mean = zero_rows(safe_divide(total, met), labelled)
    if not variance:
        return mean, counts, None
    centres = safe_divide(sums, counts.unsqueeze(1))
    deviation = zero_rows(unit - member @ centres, labelled)
    covariance = torch.stack([(deviation * member[:, j : j + 1]).T @ deviation for j in range(num_classes)])
    spread = torch.einsum("nd,jde,ne->nj", unit, all_reduce_sum(covariance, group), unit)
    if not include_self:  # taking one value x out of n with mean m lowers the sum of squares by (x - m)² n / (n - 1)
        spread = spread - member * (own - unit @ centres.T).square() * safe_divide(counts.expand_as(met), met)
    return mean, counts, zero_rows(safe_divide(spread.clamp_min(0), met), labelled)


def _unit(features: Tensor) -> Tensor:
    """Rows over their norms; a row shorter than 1e-12 becomes 0 and gets no gradient."""
    norms = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=torch.float64).to(features.dtype)
    short = norms < 1e-12
    return torch.where(short, 0, features / torch.where(short, 1, norms))


def global_msp(
    target: Tensor, auxiliary: Tensor, labels: Tensor, weight: Tensor | None, normalize: str, form: str, group: Any
) -> Tensor:
    """Loss per branch (C,) over the batches of all ranks, the same on each of them.

    ``form="gram"`` gathers the rows, ``"factored"`` sums D×D blocks; ``"auto"`` takes what moves fewer bytes. Whether
    there are sample weights must be the same on all ranks.
    """
    branches, size, width = auxiliary.shape
    keep = labels >= 0 if weight is None else (labels >= 0) & (weight != 0)
    target, auxiliary = zero_rows(target, keep), zero_rows(auxiliary, keep)
    share = torch.where(keep, 1 if weight is None else weight, 0).to(target.dtype).unsqueeze(1)
    if form == "auto":
        total = all_reduce_sum(torch.tensor(size, device=labels.device), group)
        form = "gram" if int(total) <= BLOCKS_FROM * max(target.shape[1], width) else "factored"
    if form == "factored":
        return _by_blocks(target, auxiliary, _mask(labels, share, branches), normalize, group)
    packed = torch.cat([target, auxiliary.transpose(0, 1).flatten(1), share], 1)
    rows = gather_rows(packed, group)
    labels = gather_rows(labels, group)
    mask = _mask(labels, rows[:, -1:].detach(), branches)
    target, others = rows[:, : target.shape[1]], rows[:, target.shape[1] : -1]
    auxiliary = others.reshape(-1, branches, width).transpose(0, 1)
    return similarity_preserving(target, auxiliary, mask, normalize, "auto")


def _mask(labels: Tensor, share: Tensor, branches: int) -> Tensor:
    negative = labels != torch.arange(branches, device=labels.device).unsqueeze(1)
    return torch.where(negative, share.T, 0)


def _by_blocks(target: Tensor, auxiliary: Tensor, mask: Tensor, normalize: str, group: Any) -> Tensor:
    """A_t - A_i = X Zᵀ with X = [U_t - U_i, U_i], Z = [F_t, F_t - F_i]; XᵀMX and ZᵀMZ are sums over the ranks."""
    width = max(target.shape[1], auxiliary.shape[2])
    dtype = target.dtype
    # in float64, where the factors cancel without harm
    first = torch.nn.functional.pad(target.double(), (0, width - target.shape[1])).expand(len(auxiliary), -1, -1)
    second = torch.nn.functional.pad(auxiliary.double(), (0, width - auxiliary.shape[2]))
    weight = mask.double().unsqueeze(-1)
    inner = weight if normalize == "subset" else torch.ones_like(weight)
    if normalize == "subset":
        first, second = (torch.where(weight != 0, part, 0) for part in (first, second))
    stacked = torch.stack([first, second])
    blocks = all_reduce_sum(stacked.mT @ (inner * stacked), group)
    squared = ((stacked @ blocks) * stacked).sum(-1, keepdim=True)
    # the root is taken where it has a gradient only: a row of zeros stays 0
    positive = squared > 0
    unit = stacked * torch.where(positive, torch.where(positive, squared, 1).rsqrt(), squared * 0)
    x = torch.cat([unit[0] - unit[1], unit[1]], -1)
    z = torch.cat([first, first - second], -1)
    pair = torch.stack([x, z])
    sums = all_reduce_sum(pair.mT @ (weight * pair), group)
    count = all_reduce_sum(mask.double().sum(1), group)
    return safe_divide((sums[0] * sums[1]).sum((1, 2)).clamp_min(0), count.square()).to(dtype)
