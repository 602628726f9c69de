"""Labels for noisyFER's decoder: whole rows for training, a class's values for its pictures."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["follow_class_means", "label_rows"]


def label_rows(
    sources: Tensor, values: Tensor, logits: Tensor, predicted: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of complete labels for the decoder: a row with a gap gives way to a complete one of the batch.

    Args:
        sources: (N, S), -1 missing.
        values: (N, V), NaN missing.
        logits: (N, S, C) that fill the gaps where no row is complete.
        predicted: (N, V), likewise.
        generator: on the labels' device.

    Returns:
        One-hot labels (N, S, C), values (N, V) in [-1, 1], and the row (N,) of the batch that each is of.
    """
    count = len(sources)
    device = sources.device
    complete = (sources >= 0).all(1) & values.isfinite().all(1)
    draws = torch.rand(2, count, device=device, generator=generator)
    order = torch.where(complete, draws[0], 2.0).argsort()  # the complete rows first, shuffled
    number = complete.sum()
    other = order[(draws[1] * number).long().clamp_max((number - 1).clamp_min(0))]
    rows = torch.where(complete | (number == 0), torch.arange(count, device=device), other)
    sources, values = sources[rows], values[rows]
    sources = torch.where(sources < 0, logits.detach()[rows].argmax(2), sources)
    values = torch.where(values.isfinite(), values, predicted.detach()[rows])
    onehot = sources[:, :, None] == torch.arange(logits.shape[2], device=device)
    return onehot.to(predicted.dtype), values.clamp(-1, 1), rows


@torch.no_grad()
def follow_class_means(means: Tensor, seen: Tensor, labels: Tensor, values: Tensor, momentum: float) -> None:
    """Move the running means (C, V) of each class's values, in place; the first ones seen are taken as they are.

    Args:
        means: (C, V).
        seen: bool (C,), whether a class has a mean yet.
        labels: (N,), -1 unlabelled.
        values: (N, V); a row with NaN takes no part.
        momentum: share of the batch's mean.
    """
    known = values.isfinite().all(1)
    classes = torch.arange(len(means), device=values.device)[:, None]
    member = ((labels == classes) & known).to(means.dtype)
    mean = member @ values.nan_to_num(0.0).to(means.dtype) / member.sum(1, keepdim=True).clamp_min(1)
    came = member.sum(1) > 0
    share = torch.where(seen, momentum, 1.0)[:, None]
    means.copy_(torch.where(came[:, None], means.lerp(mean, share.to(means.dtype)), means))
    seen |= came
