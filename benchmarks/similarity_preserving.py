"""similarity_preserving, eight branches: against the textbook, and against the matrix products it cannot avoid."""

from __future__ import annotations

import torch

from benchmarks import bounds, peers, textbook
from benchmarks.registry import Ask, Case, register
from ferkit import ops

BRANCHES = 8


def make(size, width):
    def arguments(dtype, device, rows=size):
        target = torch.randn(rows, width, dtype=dtype, device=device, requires_grad=True)
        auxiliary = torch.randn(BRANCHES, rows, width, dtype=dtype, device=device, requires_grad=True)
        return target, auxiliary, torch.arange(rows, device=device) % BRANCHES

    return arguments


def ours(target, auxiliary, labels):
    mask = labels != torch.arange(BRANCHES, device=labels.device)[:, None]
    return ops.similarity_preserving(target, auxiliary, mask).mean()


def case(size, width, ask=None, fits=True, **more):
    gram = size <= 6 * width
    return Case(
        op="similarity_preserving",
        shape=f"{size}x{width}x{BRANCHES}",
        rows=size,
        make=make(size, width),
        ours=ours,
        textbook=textbook.similarity_preserving if fits else None,
        peers={"released": peers.released_similarity_preserving} if fits and size <= 1024 else {},
        bound=bounds.gram_products if gram else bounds.every_byte,
        bound_name="bare matrix products" if gram else "every argument read twice, gradients written",
        ask=ask or Ask(),
        **more,
    )


register(case(72, 512, Ask(eager=3.0, compiled=1.0, over_bound=1.6), rounds=200))
register(case(72, 64, compile=False, rounds=100))
register(case(288, 64, compile=False, rounds=30))
register(case(1024, 64, compile=False, rounds=6, memory=True))
register(case(4096, 64, Ask(eager=60), rounds=3, compile=False, memory=True))
register(case(4096, 7, Ask(eager=900), rounds=3, compile=False))

register(case(72, 512, Ask(eager=8, replayed=8, compiled=0.95), rounds=100, device="cuda"))
register(case(288, 512, compile=False, rounds=50, device="cuda"))
register(case(1024, 512, compile=False, rounds=20, device="cuda"))
register(case(4096, 512, Ask(eager=2, memory=8), compile=False, rounds=10, device="cuda"))
register(case(72, 512, compile=False, rounds=50, tf32=True, device="cuda"))
register(case(4096, 512, Ask(eager=5), compile=False, rounds=10, tf32=True, device="cuda"))
register(case(4096, 64, compile=False, rounds=10, device="cuda"))
register(case(4096, 512, compile=False, rounds=10, dtype="bfloat16", device="cuda"))
register(case(72, 512, compile=False, rounds=50, dtype="bfloat16", device="cuda"))

# Measured for its peak alone: the textbook does not fit.
MEMORY = case(16384, 64, fits=False, memory=True)
