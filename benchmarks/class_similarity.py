"""class_similarity: O(N D C) against O(N^2 D)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks import bounds, peers, textbook
from benchmarks.registry import Ask, Case, register
from ferkit import ops

CLASSES, WIDTH = 8, 512


def make(size):
    def arguments(dtype, device, rows=size):
        features = torch.randn(rows, WIDTH, dtype=dtype, device=device, requires_grad=True)
        return features, torch.arange(rows, device=device) % CLASSES

    return arguments


def ours(features, labels):
    return ops.class_similarity(features, labels, CLASSES)[0]


def plain(features, labels):
    return textbook.class_similarity(features, labels, CLASSES)


def released(features, labels):
    return peers.released_class_similarity(features, labels, CLASSES)


def linear(features, labels):
    """The textbook's value without its N x N matrix, for sizes where that does not fit."""
    unit = F.normalize(features)
    member = F.one_hot(labels, CLASSES).to(features.dtype)
    return unit @ (member.T @ unit).T / member.sum(0)


def case(size, ask=None, fits=True, **more):
    return Case(
        op="class_similarity",
        shape=f"{size}x{WIDTH}",
        rows=size,
        make=make(size),
        ours=ours,
        textbook=plain if fits else None,
        reference=None if fits else linear,
        peers={"released": released} if fits else {},
        # Two reads forward (norms, then products with the class sums), two reads and a write backward.
        bound=bounds.passes(reads=4, writes=1),
        bound_name="five passes over the features",
        ask=ask or Ask(),
        **more,
    )


register(case(72, Ask(eager=2.5, compiled=1.0), rounds=300))
register(case(288, compile=False, rounds=100))
register(case(1024, compile=False, rounds=20, memory=True))
register(case(4096, Ask(eager=50), rounds=6, memory=True))

register(case(72, Ask(eager=2.5, replayed=3.0, compiled=0.95), rounds=100, device="cuda"))
register(case(288, compile=False, rounds=50, device="cuda"))
register(case(1024, compile=False, rounds=50, device="cuda"))
register(case(8192, Ask(eager=100), rounds=10, device="cuda"))
register(case(262144, Ask(over_bound=1 / 0.6), fits=False, rounds=20, device="cuda"))
for dtype in ("float16", "bfloat16"):
    register(case(72, compile=False, rounds=50, dtype=dtype, device="cuda"))
    register(case(262144, fits=False, rounds=20, dtype=dtype, tolerance=2e-2, device="cuda"))
register(case(8192, compile=False, rounds=10, tf32=True, device="cuda"))
