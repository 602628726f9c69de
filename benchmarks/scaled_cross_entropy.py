"""scaled_cross_entropy against F.cross_entropy(scale * logits), both as the mean of the batch."""

import torch

from benchmarks import textbook
from benchmarks.registry import Case, register
from ferkit.ops import scaled_cross_entropy

CLASSES = 8


def make(size):
    def arguments(dtype):
        logits, scale = torch.randn(size, CLASSES, dtype=dtype), torch.rand(size, dtype=dtype)
        return logits.requires_grad_(), scale.requires_grad_(), torch.arange(size) % CLASSES

    return arguments


def ours(logits, scale, labels):
    return scaled_cross_entropy(logits, scale, labels, mean=True)


for size, target in ((72, 1.0), (4096, 3.0)):
    register(Case("scaled_cross_entropy", f"{size}x8", make(size), ours, textbook.scaled_cross_entropy, target, 300))
