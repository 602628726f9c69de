"""All of DMUE's losses at once, ferkit's parts in their released forms, against the released step re-expressed."""

from __future__ import annotations

import torch
from torch.nn.functional import linear, prelu

from benchmarks import peers
from benchmarks.registry import Ask, Case, register
from ferkit import functional

CLASSES, WIDTH = 8, 512


def make(size):
    def arguments(dtype, device, rows=size):
        def leaf(*shape):
            return torch.randn(*shape, dtype=dtype, device=device, requires_grad=True)

        head = (leaf(CLASSES, 2 * CLASSES), leaf(CLASSES), leaf(1), leaf(1, CLASSES), leaf(1))
        labels = torch.arange(rows, device=device) % CLASSES
        wide = (leaf(rows, WIDTH), leaf(rows, WIDTH), leaf(CLASSES, rows, CLASSES - 1), leaf(rows, CLASSES))
        return *wide, *head, labels

    return arguments


def ours(features, neck, auxiliary, logits, w1, b1, slope, w2, b2, labels):
    similarity = functional.class_similarity(features, labels, CLASSES, scale="minmax")
    member = (labels[:, None] == torch.arange(CLASSES, device=labels.device)).to(similarity.dtype)
    alpha = torch.sigmoid(linear(prelu(linear(torch.cat([similarity, member], 1), w1, b1), slope), w2, b2))
    latent = functional.latent_distribution(auxiliary, labels)
    weighted = functional.weighted_logit_cross_entropy(logits, alpha, labels)
    soft = functional.latent_distribution_loss(logits, latent, labels, divisor="released")
    preserving = functional.msp_loss(neck, auxiliary, labels, normalize="subset")
    return weighted + 0.5 * soft + 1000 * preserving + functional.auxiliary_cross_entropy(auxiliary, labels)


def released(features, neck, auxiliary, logits, w1, b1, slope, w2, b2, labels):
    return peers.released_losses(features, neck, auxiliary, logits, (w1, b1, slope, w2, b2), labels)


def case(size, **more):
    return Case(
        op="dmue_losses",
        shape=f"{size}x{WIDTH}x{CLASSES}",
        rows=size,
        make=make(size),
        ours=ours,
        textbook=released,
        compile=False,  # boolean indexing: every branch is a graph break
        replay=(),
        ask=Ask(),
        **more,
    )


register(case(72, rounds=100))
register(case(72, rounds=30, device="cuda"))
register(case(1024, rounds=10, device="cuda"))
