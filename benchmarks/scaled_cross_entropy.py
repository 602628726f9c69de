"""scaled_cross_entropy against F.cross_entropy(scale * logits), textbook and peer in one, as the mean of the batch."""

from __future__ import annotations

import torch

from benchmarks import bounds, textbook
from benchmarks.registry import Ask, Case, register
from ferkit import ops

CLASSES = 8


def make(size):
    def arguments(dtype, device, rows=size):
        logits = torch.randn(rows, CLASSES, dtype=dtype, device=device, requires_grad=True)
        scale = torch.rand(rows, dtype=dtype, device=device, requires_grad=True)
        return logits, scale, torch.arange(rows, device=device) % CLASSES

    return arguments


def ours(logits, scale, labels):
    return ops.scaled_cross_entropy(logits, scale, labels, mean=True)


def case(size, ask=None, **more):
    return Case(
        op="scaled_cross_entropy",
        shape=f"{size}x{CLASSES}",
        rows=size,
        make=make(size),
        ours=ours,
        textbook=textbook.scaled_cross_entropy,
        bound=bounds.every_byte,
        bound_name="every argument read twice, gradients written",
        ask=ask or Ask(),
        **more,
    )


register(case(72, Ask(eager=1.0, compiled=1.0), rounds=300))
register(case(288, compile=False, rounds=300))
register(case(1024, compile=False, rounds=300))
register(case(4096, Ask(eager=3.0), rounds=300))

register(case(72, Ask(eager=1.0, compiled=0.95), rounds=100, device="cuda"))
register(case(288, compile=False, rounds=50, device="cuda"))
register(case(4096, compile=False, rounds=50, device="cuda"))
register(case(1 << 20, rounds=20, device="cuda"))
register(case(1 << 20, compile=False, rounds=20, dtype="bfloat16", device="cuda"))
