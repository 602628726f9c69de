"""concordance (CCC of valence and arousal) against its formula in six passes, and torchmetrics where installed."""

from __future__ import annotations

import torch

from benchmarks import bounds, peers, textbook
from benchmarks.registry import Ask, Case, register
from ferkit import ops

TARGETS = 2


def make(size):
    def arguments(dtype, device, rows=size):
        prediction = torch.rand(rows, TARGETS, dtype=dtype, device=device, requires_grad=True)
        return prediction, torch.rand(rows, TARGETS, dtype=dtype, device=device)

    return arguments


def ours(prediction, target):
    return ops.concordance(prediction, target, loss=True, mean=True)


def case(size, ask=None, **more):
    return Case(
        op="concordance",
        shape=f"{size}x{TARGETS}",
        rows=size,
        make=make(size),
        ours=ours,
        textbook=textbook.concordance_loss,
        peers={"torchmetrics": peers.torchmetrics_concordance} if peers.available("torchmetrics") else {},
        bound=bounds.every_byte,
        bound_name="every argument read twice, gradients written",
        ask=ask or Ask(),
        **more,
    )


register(case(72, Ask(eager=1.0, compiled=1.0), rounds=300))
register(case(288, compile=False, rounds=300))
register(case(1024, compile=False, rounds=300))
register(case(4096, Ask(eager=1.0), rounds=300))

register(case(72, Ask(eager=1.0, compiled=0.95), rounds=100, device="cuda"))
register(case(288, compile=False, rounds=50, device="cuda"))
register(case(4096, compile=False, rounds=50, device="cuda"))
register(case(1 << 20, rounds=20, device="cuda"))
