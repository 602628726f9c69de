"""similarity_preserving, eight branches: against the textbook, and against the matrix products it cannot avoid."""

import torch

from benchmarks import textbook
from benchmarks.registry import Case, register
from ferkit.ops import similarity_preserving

BRANCHES = 8


def make(size, width):
    def arguments(dtype):
        target = torch.randn(size, width, dtype=dtype, requires_grad=True)
        auxiliary = torch.randn(BRANCHES, size, width, dtype=dtype, requires_grad=True)
        return target, auxiliary, torch.arange(size) % BRANCHES

    return arguments


def ours(target, auxiliary, labels):
    mask = labels != torch.arange(BRANCHES)[:, None]
    return similarity_preserving(target, auxiliary, mask).mean()


def bare(arguments):
    """Gram matrices of target and branches, then d G times F."""
    target, auxiliary = arguments[0].detach(), arguments[1].detach()
    one, many = torch.randn(target.shape[0], target.shape[0]), torch.randn(BRANCHES, *([target.shape[0]] * 2))

    def run():
        torch.mm(target, target.t())
        torch.bmm(auxiliary, auxiliary.mT)
        torch.mm(one, target)
        torch.bmm(many, auxiliary)

    return run


def case(size, width, target, **more):
    name = f"{size}x{width}"
    return Case("similarity_preserving", name, make(size, width), ours, textbook.similarity_preserving, target, **more)


register(case(72, 512, 3, rounds=200, bound=bare, bound_target=1.6))
register(case(4096, 64, 60, rounds=3, compile=False))
register(case(4096, 7, 900, rounds=3, compile=False))
MEMORY = case(16384, 64, 0)  # measured for its peak alone: the textbook does not fit
