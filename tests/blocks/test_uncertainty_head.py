"""UncertaintyHead: by hand, unlabelled rows, gradients, bad input."""

import re

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ferkit.blocks import UncertaintyHead


def test_equals_the_equation_by_hand():
    torch.manual_seed(0)
    head = UncertaintyHead(3).double()
    similarity, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([2, 0, -1, 1])
    value = head(similarity, labels)
    assert value.shape == (4,)
    for n in range(4):
        hot = torch.zeros(3, dtype=torch.float64)
        if labels[n] >= 0:
            hot[labels[n]] = 1
        hidden = head.hidden.weight @ torch.cat([similarity[n], hot]) + head.hidden.bias
        hidden = torch.where(hidden > 0, hidden, head.activation.weight * hidden)
        expected = 1 / (1 + torch.exp(-(head.output.weight[0] @ hidden + head.output.bias[0])))
        torch.testing.assert_close(value[n], expected)
        assert 0 < value[n] < 1


@pytest.mark.parametrize("bias, count", [(True, 6 * 3 + 3 + 1 + 3 + 1), (False, 6 * 3 + 1 + 3)])
def test_parameters(bias, count):
    head = UncertaintyHead(3, bias=bias)
    assert sum(parameter.numel() for parameter in head.parameters()) == count


def test_gradients():
    torch.manual_seed(1)
    head = UncertaintyHead(3).double()
    similarity = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([2, 0, -1, 1])
    assert gradcheck(lambda values: head(values, labels), similarity)
    assert gradgradcheck(lambda values: head(values, labels), similarity)
    head(similarity, labels).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_empty_batch_and_compile():
    head = UncertaintyHead(3)
    assert head(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    torch._dynamo.reset()
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True, dynamic=True)
    similarity, labels = torch.rand(5, 3), torch.tensor([0, 1, 2, -1, 0])
    torch.testing.assert_close(compiled(similarity, labels), head(similarity, labels))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: UncertaintyHead(0), ValueError, "num_classes: expected a value in [1, inf], got 0"),
        (lambda: UncertaintyHead(3)(torch.zeros(2, 4), torch.tensor([0, 1])), ValueError, "similarity: expected shape"),
        (lambda: UncertaintyHead(3)(torch.zeros(2, 3), torch.tensor([0, 3])), ValueError, "labels: expected values in"),
        (
            lambda: UncertaintyHead(3)(torch.zeros(2, 3), torch.zeros(2)),
            TypeError,
            "labels: expected dtype torch.int64",
        ),
        (
            lambda: UncertaintyHead(3)(torch.zeros(2, 3).long(), torch.tensor([0, 1])),
            TypeError,
            "similarity: expected a",
        ),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
