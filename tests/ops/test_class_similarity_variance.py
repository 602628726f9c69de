"""The variance of the cosines as an operator: its gradient written out, both forms, and its registration."""

import math

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from ferkit.kernels.eager import class_similarity as eager
from ferkit.kernels.eager import class_similarity_variance as written
from ferkit.ops import class_similarity


def problem(size, width, classes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, width, generator=generator, dtype=torch.float64).to(dtype)
    grad = torch.randn(size, classes, generator=generator, dtype=torch.float64).to(dtype)
    return features, torch.randint(-1, classes, (size,), generator=generator), grad


def spread(features, labels, classes, include_self=True):
    return class_similarity(features, labels, classes, include_self, variance=True)[2]


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize(("size", "width", "classes"), [(0, 3, 2), (1, 3, 2), (9, 40, 4), (40, 3, 2), (30, 2, 7)])
def test_the_written_gradient_is_that_of_the_forward_pass(size, width, classes, include_self):
    """40 rows of 3 numbers in 2 classes take the D x D form, 9 rows of 40 the N x N form."""
    features, labels, grad = problem(size, width, classes)
    leaf = features.clone().requires_grad_()
    (want,) = torch.autograd.grad(eager.variance(leaf, labels, classes, include_self), leaf, grad)
    got = written.variance_backward(grad, features, labels, classes, include_self)
    torch.testing.assert_close(got, want, atol=1e-13, rtol=1e-11)
    narrow = written.variance_backward(grad.float(), features.float(), labels, classes, include_self)
    leaf = features.float().requires_grad_()
    (other,) = torch.autograd.grad(eager.variance(leaf, labels, classes, include_self), leaf, grad.float())
    error, old = ((value.double() - want).abs().amax() if size else 0 for value in (narrow, other))
    assert narrow.dtype == torch.float32 and error <= 2 * old + 1e-6


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize(("size", "width"), [(7, 4), (14, 2)])
def test_gradcheck(backend, size, width, include_self):
    features, labels, _ = problem(size, width, 3, seed=size)
    features.requires_grad_()
    assert gradcheck(lambda x: spread(x, labels, 3, include_self), features)
    assert gradgradcheck(lambda x: spread(x, labels, 3, include_self), features)


def test_opcheck(backend):
    features, labels, grad = problem(7, 5, 4, dtype=torch.float32)
    opcheck(torch.ops.ferkit.class_similarity_variance.default, (features.clone().requires_grad_(), labels, 4, True))
    opcheck(torch.ops.ferkit.class_similarity_variance_backward.default, (grad, features, labels, 4, False))


def test_conventions(backend):
    features, labels, _ = problem(9, 6, 3, dtype=torch.float32)
    labels[:] = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 1])
    features[1], features[6] = 0, math.nan
    features.requires_grad_()
    value = spread(features, labels, 3)
    value.sum().backward()
    assert torch.isfinite(value).all() and not value[[1, 6]].any()
    assert torch.isfinite(features.grad).all() and not features.grad[[1, 6]].any()
    with pytest.raises(ValueError, match="labels: expected values"):
        spread(features, labels, 2)


def test_autocast(backend):
    features, labels, _ = problem(12, 8, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = spread(features, labels, 3)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, eager.variance(features.float(), labels, 3, True))


def test_compiles_once():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(features, labels):
        return spread(features, labels, 3).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    for size in (7, 40, 2):  # both forms, without another compilation
        features, labels, _ = problem(size, 4, 3)
        features.requires_grad_()
        got = torch.autograd.grad(compiled(features, labels), features)
        want = torch.autograd.grad(loss(features, labels), features)
        torch.testing.assert_close(got, want)
    assert counter.frame_count == 1
