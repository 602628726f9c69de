"""DMUE's released optimiser: Adam with one learning rate for the backbone and one for the classifiers, by epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["BACKBONE_RATES", "HEAD_RATES", "rate_of", "released_adam"]

# (first epoch that it no longer holds in, learning rate), epochs counted from 0; the last one holds on.
BACKBONE_RATES = ((6, 1e-4), (12, 5e-5), (22, 1e-5), (25, 5e-5), (None, 1e-5))
HEAD_RATES = ((4, 1e-3), (8, 5e-4), (14, 1e-4), (22, 1e-5), (25, 5e-5), (None, 1e-5))


def rate_of(epoch: int, rates: tuple[tuple[int | None, float], ...]) -> float:
    """The learning rate in an epoch counted from 0.

    >>> [rate_of(epoch, BACKBONE_RATES) for epoch in (0, 6, 12, 22, 35)]
    [0.0001, 5e-05, 1e-05, 5e-05, 1e-05]
    """
    return next(rate for end, rate in rates if end is None or epoch < end)


def released_adam(backbone: list[nn.Parameter], heads: list[nn.Parameter], weight_decay: float) -> dict[str, Any]:
    """Adam over both groups with the released rates, as Lightning takes it."""

    def by_epoch(rates: tuple[tuple[int | None, float], ...]) -> Callable[[int], float]:
        return lambda epoch: rate_of(epoch, rates)

    groups = [{"params": backbone}, {"params": heads}]
    optimizer = torch.optim.Adam(groups, 1.0, weight_decay=weight_decay, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [by_epoch(BACKBONE_RATES), by_epoch(HEAD_RATES)])
    return {"optimizer": optimizer, "lr_scheduler": scheduler}
