"""torch.compile of forward and backward: whole graph, one compilation for every batch of two or more."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ferkit.ops import class_similarity, scaled_cross_entropy, similarity_preserving


def similarity(features, labels):
    return class_similarity(features, labels, 4)[0].square().sum()


def preserving(target, auxiliary, mask):
    return similarity_preserving(target, auxiliary, mask).sum()


def entropy(logits, scale, labels):
    return scaled_cross_entropy(logits, scale, labels).sum()


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


MAKERS = {
    similarity: lambda size: (leaf(size, 5), torch.randint(-1, 4, (size,))),
    preserving: lambda size: (leaf(size, 5), leaf(3, size, 4), torch.rand(3, size) > 0.3),
    entropy: lambda size: (leaf(size, 5), leaf(size), torch.randint(-1, 5, (size,))),
}


@pytest.mark.parametrize("function", MAKERS, ids=lambda function: function.__name__)
def test_compiles_once(function):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for size in (7, 40, 100, 2):  # 7 and 100 take different forms of similarity_preserving
        arguments = MAKERS[function](size)
        leaves = [argument for argument in arguments if argument.requires_grad]
        got = torch.autograd.grad(compiled(*arguments), leaves)
        want = torch.autograd.grad(function(*arguments), leaves)
        for one, other in zip(got, want):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert counter.frame_count == 1
