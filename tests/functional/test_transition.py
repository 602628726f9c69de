"""Cross-entropy through confusions, against loops; gradients of the matrices, zeros in them, and their trace."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import ferkit.functional as ff


def make(size=7, sources=3, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, classes, generator=generator, dtype=torch.float64)
    transition = torch.rand(sources, classes, classes, generator=generator, dtype=torch.float64) + 0.05
    labels = torch.randint(-1, classes, (size, sources), generator=generator)
    return logits, transition / transition.sum(2, keepdim=True), labels


def by_loops(logits, transition, labels):
    """(N, S): -log of what each annotator is expected to say; 0 where nothing was said."""
    p = logits.softmax(1)
    values = torch.zeros(labels.shape, dtype=torch.float64)
    for n, row in enumerate(labels.tolist()):
        for s, label in enumerate(row):
            if label >= 0:
                values[n, s] = -math.log(sum(p[n, k] * transition[s, k, label] for k in range(logits.shape[1])))
    return values


def test_values(close):
    logits, transition, labels = make()
    values = by_loops(logits, transition, labels)
    close(ff.transition_cross_entropy(logits, transition, labels, reduction="none"), values.sum(1))
    close(ff.transition_cross_entropy(logits, transition, labels, reduction="sum"), values.sum())
    known = labels >= 0
    close(ff.transition_cross_entropy(logits, transition, labels), (values.sum(0) / known.sum(0)).sum())
    weight = torch.rand(len(labels), dtype=torch.float64)
    weight[2] = 0
    shares = known * weight[:, None]
    expected = ((values * shares).sum(0) / shares.sum(0)).sum()
    close(ff.transition_cross_entropy(logits, transition, labels, weight), expected)
    by_class = torch.tensor([1.0, 2.0, 0.0, 0.5], dtype=torch.float64)
    shares = shares * by_class[labels]
    expected = ((values * shares).sum(0) / shares.sum(0)).sum()
    close(ff.transition_cross_entropy(logits, transition, labels, weight, by_class), expected)


def test_one_annotator_and_nobody_mistaken_is_cross_entropy(close):
    logits, _, labels = make(sources=1)
    labels = labels[:, 0]
    expected = F.cross_entropy(logits, labels, ignore_index=-1)
    close(ff.transition_cross_entropy(logits, torch.eye(4, dtype=torch.float64), labels), expected)
    extreme = torch.tensor([[900.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    value = ff.transition_cross_entropy(extreme.requires_grad_(), torch.eye(2).double(), torch.tensor([1, -1]))
    close(value, 900.0)  # no underflow
    close(torch.autograd.grad(value, extreme)[0], [[1.0, -1.0], [0.0, 0.0]])


def test_gradients_reach_the_matrices_and_gaps_none():
    logits, transition, labels = make(size=4)
    leaves = logits.requires_grad_(), transition.requires_grad_()

    def function(z, t):
        return ff.transition_cross_entropy(z, t, labels, reduction="none")

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, fast_mode=True)
    gap = torch.full_like(labels, -1)
    gap[:, 0] = labels[:, 0]
    gradient = torch.autograd.grad(ff.transition_cross_entropy(*leaves, gap), transition)[0]
    assert torch.equal(gradient[1:], torch.zeros_like(gradient[1:]))


def test_an_entry_of_zero_has_the_gradient_that_a_small_one_has(close):
    logits = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    gradients = []
    for entry in (0.0, 1e-12):
        transition = torch.eye(3, dtype=torch.float64)
        transition[1, 0] = entry
        transition.requires_grad_()
        value = ff.transition_cross_entropy(logits, transition, torch.tensor([0]))
        gradients.append(torch.autograd.grad(value, transition)[0])
    assert gradients[0][1, 0] < 0
    close(gradients[0], gradients[1])


def test_a_label_that_cannot_be_is_infinite_and_a_missing_one_is_not():
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    never = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert ff.transition_cross_entropy(logits, never, torch.tensor([1, 0])).isinf()
    value = ff.transition_cross_entropy(logits, never.flip(1), torch.tensor([-1, 1]))
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_nobody_has_labelled_anything():
    logits = torch.randn(3, 4, requires_grad=True)
    value = ff.transition_cross_entropy(logits, torch.zeros(0, 4, 4), torch.zeros(3, 0, dtype=torch.int64))
    value.backward()
    assert value == 0 and torch.equal(logits.grad, torch.zeros(3, 4))


def test_trace(close):
    _, transition, _ = make()
    traces = torch.stack([matrix.trace() for matrix in transition])
    close(ff.trace_regularization(transition, "none"), traces)
    close(ff.trace_regularization(transition), traces.mean())
    close(ff.trace_regularization(transition, "sum"), traces.sum())
    close(ff.trace_regularization(transition[1]), traces[1])
    nobody = torch.zeros(0, 4, 4, requires_grad=True)
    value = ff.trace_regularization(nobody)
    value.backward()
    assert value == 0
    assert ff.trace_regularization(transition.half()).dtype == torch.float32


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda z, t, y: ff.transition_cross_entropy(z, t[:, :3], y), ValueError, "transition: expected shape"),
        (lambda z, t, y: ff.transition_cross_entropy(z, t[:2], y), ValueError, "labels: expected shape"),
        (lambda z, t, y: ff.transition_cross_entropy(z, t[0], y), ValueError, "labels: expected shape"),
        (lambda z, t, y: ff.transition_cross_entropy(z, -t, y), ValueError, "transition: expected values of 0 or more"),
        (lambda z, t, y: ff.transition_cross_entropy(z, t, y.int()), TypeError, "labels: expected dtype torch.int64"),
        (lambda z, t, y: ff.transition_cross_entropy(z, t, y + 1), ValueError, "labels: expected values in 0..3"),
        (lambda z, t, y: ff.transition_cross_entropy(z, t, [0]), TypeError, "labels: expected a torch.Tensor"),
        (lambda z, t, y: ff.trace_regularization(t[0, 0]), ValueError, "transition: expected shape"),
        (lambda z, t, y: ff.trace_regularization(t[:, :3]), ValueError, "transition: expected shape"),
        (lambda z, t, y: ff.trace_regularization(y), TypeError, "transition: expected a floating-point tensor"),
        (lambda z, t, y: ff.trace_regularization(t, "all"), ValueError, "reduction: expected one of"),
    ],
)
def test_refused(call, error, message):
    logits, transition, labels = make()
    labels[0, 0] = 3
    with pytest.raises(error, match=message):
        call(logits, transition, labels)
