"""neighbor_divergence (LDL-ALSG's guidance, all neighbours in one pass) against the formula and F.kl_div."""

from __future__ import annotations

import torch

from benchmarks import bounds, peers, textbook
from benchmarks.registry import Ask, Case, register
from ferkit import ops

CLASSES, NEIGHBORS = 8, 8


def make(size):
    def arguments(dtype, device, rows=size):
        logits = torch.randn(rows, CLASSES, dtype=dtype, device=device, requires_grad=True)
        neighbors = torch.randn(rows, NEIGHBORS, CLASSES, dtype=dtype, device=device)
        return logits, neighbors, torch.rand(rows, NEIGHBORS, dtype=dtype, device=device)

    return arguments


def ours(logits, neighbor_logits, weight):
    return ops.neighbor_divergence(logits, neighbor_logits, weight, mean=True)


def case(size, ask=None, **more):
    return Case(
        op="neighbor_divergence",
        shape=f"{size}x{NEIGHBORS}x{CLASSES}",
        rows=size,
        make=make(size),
        ours=ours,
        textbook=textbook.neighbor_guidance,
        peers={"F.kl_div": peers.kl_div_guidance},
        bound=bounds.every_byte,
        bound_name="every argument read twice, gradients written",
        ask=ask or Ask(),
        **more,
    )


register(case(32, Ask(eager=3.0), compile=False, rounds=300))
register(case(72, Ask(eager=1.0, compiled=1.0), rounds=300))
register(case(288, compile=False, rounds=300))
register(case(1024, compile=False, rounds=100))
register(case(4096, Ask(eager=1.0), rounds=100))

register(case(72, Ask(eager=1.0, compiled=0.95), rounds=100, device="cuda"))
register(case(288, compile=False, rounds=50, device="cuda"))
register(case(4096, compile=False, rounds=50, device="cuda"))
register(case(1 << 17, rounds=20, device="cuda"))
register(case(1 << 17, compile=False, rounds=20, dtype="bfloat16", device="cuda"))
