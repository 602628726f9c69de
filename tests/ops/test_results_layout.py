"""Compiled code finds what the fakes promise: shape, dtype and strides of every result, however inputs are laid out."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ferkit.ops import _select

N, K, C, D, M = 6, 4, 3, 5, 3
OPS = torch.ops.ferkit


def transposed(*shape):
    return torch.rand(*shape).transpose(0, -1).contiguous().transpose(0, -1)


def check(op, *arguments):
    """Run the op and its fake; the real results."""
    real = op.default(*arguments)
    mode = FakeTensorMode()
    faked = [mode.from_tensor(part) if isinstance(part, torch.Tensor) else part for part in arguments]
    with mode:
        fake = op.default(*faked)
    pairs = [(real, fake)] if isinstance(real, torch.Tensor) else zip(real, fake)
    for one, other in pairs:
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
    return real


@pytest.fixture(params=["eager", "triton", "native"], autouse=True)
def backend(request):
    torch.manual_seed(0)
    with _select.force(request.param), torch.no_grad():
        yield


@pytest.mark.parametrize("neighbors", [True, False])
def test_neighbor_divergence(neighbors):
    logits, others, weight = transposed(N, C), transposed(N, K, C), transposed(N, K)
    loss, residual, divergence = check(OPS.neighbor_divergence, logits, others, weight, False)
    saved = (logits, others, weight, residual, divergence)
    check(OPS.neighbor_divergence_backward, torch.ones_like(loss), *saved, False, neighbors)


@pytest.mark.parametrize("subset", [True, False])
@pytest.mark.parametrize("form", [1, 2])
def test_similarity_preserving(subset, form):
    target, auxiliary, mask = transposed(N, D), transposed(M, N, D), transposed(M, N) > 0.3
    loss, state = check(OPS.similarity_preserving, target, auxiliary, mask, subset, form, 0)
    check(OPS.similarity_preserving_backward, torch.ones_like(loss), target, auxiliary, mask, state, subset, form)


@pytest.mark.parametrize("include_self", [True, False])
def test_class_similarity(include_self):
    features, grad, labels = transposed(N, D), transposed(N, C), torch.arange(N) % C
    _, _, sums, inverse = check(OPS.class_similarity, features, labels, C, include_self)
    check(OPS.class_similarity_backward, grad, features, labels, sums, inverse, C, include_self)
    check(OPS.class_similarity_variance, features, labels, C, include_self)
    check(OPS.class_similarity_variance_backward, grad, features, labels, C, include_self)


@pytest.mark.parametrize("mean", [True, False])
def test_rows(mean):
    logits, scale, labels = transposed(N, C), torch.rand(N), torch.arange(N) % C
    loss, normaliser = check(OPS.scaled_cross_entropy, logits, scale, labels, mean)
    check(OPS.scaled_cross_entropy_backward, torch.ones_like(loss), logits, scale, labels, normaliser, mean)
    prediction, target = transposed(N, D), transposed(N, D)
    value, state = check(OPS.concordance, prediction, target, None, False, True, mean)
    settings = (None, state, False, True, mean, True)
    check(OPS.concordance_backward, torch.ones_like(value), prediction, target, *settings)
