"""Distances from class centres and the centres' steps, against loops written from the papers."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from ferkit.functional import (
    center_loss,
    inter_class_loss,
    inter_class_step,
    intra_class_step,
    uncertainty_center_loss,
)


def make(size, classes=3, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, classes, (size,), generator=generator)
    certainty = torch.rand(size, generator=generator, dtype=torch.float64)
    return features, labels, certainty, torch.randn(classes, dim, generator=generator, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(0, 9), classes=st.integers(1, 4), dim=st.integers(1, 5))
def test_losses_equal_the_loops(seed, size, classes, dim):
    features, labels, certainty, centers = make(size, classes, dim, seed)
    plain = center_loss(features, labels, centers, reduction="none")
    certain = uncertainty_center_loss(features, labels, certainty, centers, reduction="none")
    total = count = 0
    for n in range(size):
        expected = 0.0
        if labels[n] >= 0:
            pairs = zip(features[n].tolist(), centers[labels[n]].tolist())
            expected = 0.5 * sum((f - c) ** 2 for f, c in pairs)
            total, count = total + float(certainty[n]) * expected, count + 1
        assert math.isclose(plain[n], expected, rel_tol=1e-12)
        assert math.isclose(certain[n], float(certainty[n]) * expected, rel_tol=1e-12)
    mean = uncertainty_center_loss(features, labels, certainty, centers)
    assert math.isclose(mean, total / max(count, 1), rel_tol=1e-12)  # over the rows, not over their certainty


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(0, 9), classes=st.integers(1, 4), dim=st.integers(1, 5))
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_intra_class_step_equals_the_loops(seed, size, classes, dim, per_sample, weighted):
    features, labels, certainty, centers = make(size, classes, dim, seed)
    actual = intra_class_step(centers, features, labels, certainty if weighted else None, 0.5, per_sample)
    taking = int((labels >= 0).sum())
    for j in range(classes):
        members = [n for n in range(size) if labels[n] == j]
        step = torch.zeros(dim, dtype=torch.float64)
        for n in members:
            step -= (float(certainty[n]) if weighted else 1.0) * (features[n] - centers[j]) / (len(members) + 1)
        step = step / max(taking, 1) if per_sample else step
        torch.testing.assert_close(actual[j], centers[j] - 0.5 * step, rtol=1e-12, atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), classes=st.integers(1, 5), dim=st.integers(1, 5))
@pytest.mark.parametrize("spread", ["dim", "sqrt-dim"])
def test_inter_class_step_is_gradient_descent(seed, classes, dim, spread):
    centers = make(0, classes, dim, seed)[3].requires_grad_()
    scale = dim if spread == "dim" else math.sqrt(dim)
    expected = 0.0
    for i in range(classes):
        for j in range(i + 1, classes):
            expected += math.exp(-(centers[i] - centers[j]).square().sum().item() / scale)
    value = inter_class_loss(centers, spread)
    assert math.isclose(value.item(), expected, rel_tol=1e-12)
    (gradient,) = torch.autograd.grad(value, centers)
    stepped = inter_class_step(centers, 0.05, spread)
    assert not stepped.requires_grad
    torch.testing.assert_close(stepped, centers.detach() - 0.05 * gradient, rtol=1e-12, atol=1e-14)


def test_gradients_reach_all_that_ask():
    features, labels, certainty, centers = make(5)
    leaves = [value.requires_grad_() for value in (features, certainty, centers)]

    def both(features, certainty, centers):
        value = uncertainty_center_loss(features, labels, certainty, centers, None)
        return value + center_loss(features, labels, centers) + inter_class_loss(centers)

    assert gradcheck(both, leaves)
    assert gradgradcheck(both, leaves, fast_mode=True)
    stopped = uncertainty_center_loss(features, labels, certainty, centers)
    gradients = torch.autograd.grad(stopped, leaves, allow_unused=True)
    assert gradients[1] is None and gradients[0].abs().sum() > 0 and gradients[2].abs().sum() > 0


def test_a_class_without_rows_stays_and_inputs_are_left_alone():
    features, _, certainty, centers = make(4)
    labels = torch.tensor([0, 0, 2, -1])
    copies = [value.clone() for value in (features, labels, certainty, centers)]
    moved = intra_class_step(centers, features, labels, certainty)
    assert torch.equal(moved[1], centers[1]) and not torch.equal(moved[0], centers[0])
    inter_class_step(moved)
    assert all(torch.equal(value, copy) for value, copy in zip((features, labels, certainty, centers), copies))
    assert torch.equal(intra_class_step(centers, features, torch.full((4,), -1), per_sample=True), centers)
    assert torch.equal(inter_class_step(torch.ones(3, 2)), torch.ones(3, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("per_sample", [False, True])
def test_rows_that_are_not_finite_leave_the_centres_alone(value, per_sample):
    features, _, certainty, centers = make(6)
    labels = torch.tensor([0, 1, 2, -1, 1, 0])
    features[3], certainty[3] = math.nan, math.nan
    features[1, 2] = value
    certainty[5] = math.nan
    kept = torch.tensor([0, 2, 4])
    actual = intra_class_step(centers, features, labels, certainty, 0.5, per_sample)
    expected = intra_class_step(centers, features[kept], labels[kept], certainty[kept], 0.5, per_sample)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_steps_keep_the_dtype_of_the_centres(dtype):
    features, labels, certainty, centers = make(6)
    with torch.autocast("cpu", torch.bfloat16):
        moved = intra_class_step(centers.to(dtype), features.half(), labels, certainty.bfloat16())
        apart = inter_class_step(moved)
    assert moved.dtype == apart.dtype == dtype
    exact = intra_class_step(centers.to(dtype).double(), features.half(), labels, certainty.bfloat16())
    torch.testing.assert_close(moved, exact.to(dtype))


def test_twenty_runs_are_equal_to_the_bit():
    features, labels, certainty, centers = make(200)
    first = intra_class_step(centers, features, labels, certainty)
    for _ in range(20):
        assert torch.equal(intra_class_step(centers, features, labels, certainty), first)


def test_steps_compile_whole():
    torch._dynamo.reset()

    def step(centers, features, labels, certainty):
        return inter_class_step(intra_class_step(centers, features, labels, certainty, 0.5, True))

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (7, 11):
        features, labels, certainty, centers = make(size)
        actual = compiled(centers, features, labels, certainty)
        torch.testing.assert_close(actual, step(centers, features, labels, certainty))


F, Y, R, C = make(5)
Y = Y.clamp_min(0)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: center_loss(F[0], Y, C), ValueError, "features: expected shape (N, 4), got (4,)"),
        (lambda: center_loss(F, Y, C[:, :3]), ValueError, "features: expected shape (N, 3), got (5, 4)"),
        (lambda: center_loss(F, Y, C[:0]), ValueError, "centers: expected shape (C, D) with C of 1 or more"),
        (lambda: center_loss(F, Y + 3, C), ValueError, "labels: expected values in 0..2 or -1"),
        (lambda: center_loss(F, Y, C.long()), TypeError, "centers: expected a floating-point tensor"),
        (lambda: center_loss(F, Y, C, reduction="avg"), ValueError, "reduction: expected one of"),
        (lambda: center_loss(F, Y, C, class_weight=R), ValueError, "class_weight: expected shape (3,), got (5,)"),
        (lambda: uncertainty_center_loss(F, Y, R[:2], C), ValueError, "certainty: expected shape (5,), got (2,)"),
        (lambda: uncertainty_center_loss(F, Y, R + 1, C), ValueError, "certainty: expected values in [0, 1]"),
        (lambda: uncertainty_center_loss(F, Y, R, C, "x"), ValueError, "detach: expected None or 'certainty'"),
        (lambda: intra_class_step(C, F, Y, rate=2.0), ValueError, "rate: expected a value in [0.0, 1.0], got 2.0"),
        (lambda: intra_class_step(C, F, Y, R - 1), ValueError, "certainty: expected values in [0, 1]"),
        (lambda: intra_class_step(C, F, Y, process_group="all"), ValueError, "process_group: expected None, 'global'"),
        (lambda: inter_class_step(C[0]), ValueError, "centers: expected shape (C, D), got (4,)"),
        (lambda: inter_class_step(C, -1.0), ValueError, "rate: expected a value in [0.0, inf], got -1.0"),
        (lambda: inter_class_loss(C, "var"), ValueError, "spread: expected one of 'dim', 'sqrt-dim', got 'var'"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
