"""class_similarity: O(N D C) against O(N^2 D)."""

import torch

from benchmarks import textbook
from benchmarks.registry import Case, register
from ferkit.ops import class_similarity

CLASSES = 8


def make(size, width):
    def arguments(dtype):
        return torch.randn(size, width, dtype=dtype, requires_grad=True), torch.arange(size) % CLASSES

    return arguments


def ours(features, labels):
    return class_similarity(features, labels, CLASSES)[0]


def plain(features, labels):
    return textbook.class_similarity(features, labels, CLASSES)


for size, width, target, rounds in ((72, 512, 2.5, 300), (4096, 512, 50, 6)):
    register(Case("class_similarity", f"{size}x{width}", make(size, width), ours, plain, target, rounds))
