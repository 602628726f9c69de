"""LDLVA's target distribution: recorded values, loops, what takes no part, bad input."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import ferkit.functional as ff
from ferkit.functional import label_distribution_loss, va_target_distribution

RELEASED = {"divergence": "cross-entropy", "eps": 1e-10, "divisor": "samples"}


def make(size, count=3, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    certainty = torch.rand(size, generator=generator, dtype=torch.float64)
    near = torch.randn(size, count, classes, generator=generator, dtype=torch.float64).softmax(2)
    return labels, certainty, near, 0.05 + torch.rand(size, count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("detach", ["neighbors", None])
@pytest.mark.parametrize("weighted", [False, True])
def test_golden_step(golden, close, detach, weighted):
    data = golden("ldlva_target")
    names = ("lambda_hat", "calibration", "center_logits", "neighbor_logits")
    scalar, calibration, center, neighbors = (data[name].clone().requires_grad_() for name in names)
    contribution = data["knn_weights"] * calibration
    target = va_target_distribution(data["labels"], scalar.sigmoid(), neighbors.softmax(2), contribution, detach)
    close(target, data["target"])
    weight = data["sample_weights"] if weighted else None
    rows = label_distribution_loss(center, target, sample_weight=weight, reduction="none", **RELEASED)
    close(rows, data["ce_per_sample"] * (1 if weight is None else weight))
    value = label_distribution_loss(center, target, sample_weight=weight, **RELEASED)
    close(value, data["loss_weighted" if weighted else "loss"])
    value.backward()
    close(center.grad, data["grad_center_logits" + "_weighted" * weighted])
    if weighted:
        return
    close(calibration.grad, data["grad_calibration"])
    close(scalar.grad, data["grad_lambda_hat"])
    close(scalar.detach() - 10 * scalar.grad, data["lambda_hat_after_sgd_lr10"])
    if detach is None:
        close(neighbors.grad, data["grad_neighbor_logits_if_not_detached"])
    else:
        assert neighbors.grad is None


def test_golden_neighbour_distribution(golden, close):
    data = golden("ldlva_target")
    contribution = data["knn_weights"] * data["calibration"]
    none = torch.zeros(10, dtype=torch.float64)
    around = va_target_distribution(data["labels"], none, data["neighbor_logits"].softmax(2), contribution)
    close(around, data["neighbor_dist"])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(0, 6), count=st.integers(0, 4), classes=st.integers(1, 5))
def test_equals_the_loops(seed, size, count, classes):
    labels, certainty, near, contribution = make(size, count, classes, seed)
    generator = torch.Generator().manual_seed(seed)
    contribution = contribution * torch.randint(0, 2, (size, count), generator=generator)
    labels = torch.where(torch.rand(size, generator=generator) < 0.2, -1, labels)
    actual = va_target_distribution(labels, certainty, near, contribution)
    assert actual.shape == (size, classes)
    for n in range(size):
        row = torch.zeros(classes, dtype=torch.float64)
        if labels[n] >= 0:
            total = sum(float(c) for c in contribution[n])
            share = float(certainty[n]) if total > 0 else 1.0
            row[labels[n]] = share
            for k in range(count):
                if total > 0:
                    row += (1 - share) * float(contribution[n, k]) / total * near[n, k]
            torch.testing.assert_close(row.sum(), torch.tensor(1.0, dtype=torch.float64))
        torch.testing.assert_close(actual[n], row, rtol=1e-12, atol=1e-14)


def test_gradients():
    labels, *inputs = make(4)
    labels[1] = -1
    inputs[2][2] = 0.0  # no neighbour at all
    inputs[2][3, 0] = 0.0  # one missing
    fixed = inputs[2] == 0
    leaves = [value.requires_grad_() for value in inputs]

    def function(certainty, near, contribution):  # a missing neighbour stays missing
        return va_target_distribution(labels, certainty, near, contribution.masked_fill(fixed, 0), None)

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


def test_what_takes_no_part_may_hold_nan():
    labels, certainty, near, contribution = make(5)
    labels[1], certainty[1], near[1], contribution[1] = -1, torch.nan, torch.nan, torch.nan
    near[2, 1], contribution[2, 1] = torch.nan, 0.0
    near[3], contribution[3] = torch.nan, 0.0
    leaves = [value.requires_grad_() for value in (certainty, near, contribution)]
    target = va_target_distribution(labels, *leaves, detach=None)
    assert target.isfinite().all()
    assert torch.equal(target[1], torch.zeros_like(target[1]))
    assert torch.equal(target[3], torch.eye(4, dtype=torch.float64)[labels[3]])
    gradients = torch.autograd.grad((target * torch.arange(4)).sum(), leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0][[1, 3]].tolist() == [0, 0]
    assert gradients[2][2, 1] == 0 and gradients[1][2, 1].tolist() == [0] * 4
    expected = va_target_distribution(labels[2:3], certainty[2:3], near[2:3, ::2], contribution[2:3, ::2])
    torch.testing.assert_close(target[2:3], expected)


def test_nan_is_not_hidden():
    for position in range(1, 4):
        inputs = list(make(4))
        inputs[position][2].view(-1)[0] = torch.nan
        assert va_target_distribution(*inputs).isnan().any(1).tolist() == [False, False, True, False]
    labels, certainty, near, contribution = make(2)
    certainty[0], contribution[0] = torch.nan, 0
    assert va_target_distribution(labels, certainty, near, contribution)[0].isnan().any()


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e30])
def test_the_scale_of_the_contributions_does_not_matter(scale):
    labels, certainty, near, _ = make(6)
    contribution = torch.tensor([[1.0, 2.0, 4.0]]).expand(6, 3)
    expected = va_target_distribution(labels, certainty, near, contribution)
    actual = va_target_distribution(labels, certainty.float(), near.float(), contribution * scale)
    tolerance = 0.2 if scale == 1e-44 else 1e-6  # seven units of the smallest number are no finer than that
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(actual.sum(1), torch.ones(6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32(dtype):
    labels, *inputs = make(6)
    half = [value.to(dtype).requires_grad_() for value in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        target = va_target_distribution(labels, *half, detach=None)
        gradients = torch.autograd.grad(target[:, 0].sum(), half)
    assert target.dtype == torch.float32
    assert all(gradient.dtype == dtype for gradient in gradients)
    torch.testing.assert_close(target, va_target_distribution(labels, *[value.float() for value in half]))


def test_columns_are_accepted_and_inputs_left_alone():
    inputs = make(5)
    copies = [value.clone() for value in inputs]
    labels, certainty, near, contribution = inputs
    actual = va_target_distribution(labels, certainty[:, None], near, contribution)
    torch.testing.assert_close(actual, va_target_distribution(*inputs))
    strided = torch.stack([near, near], 3)[..., 1]
    torch.testing.assert_close(va_target_distribution(labels, certainty, strided, contribution), actual)
    assert all(torch.equal(value, copy) for value, copy in zip(inputs, copies))


def test_compiles_whole_once_for_all_batch_sizes():
    torch._dynamo.reset()
    compiled = torch.compile(va_target_distribution, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (11, 17, 23):
        labels, *inputs = make(size)
        labels[1] = -1
        leaves = [value.requires_grad_() for value in inputs]
        with torch._dynamo.config.patch(error_on_recompile=size > 11):
            target = compiled(labels, *leaves, None)
            gradients = torch.autograd.grad(target[:, 0].sum(), leaves)
        expected = va_target_distribution(labels, *leaves, None)
        torch.testing.assert_close(target, expected)
        for gradient, wanted in zip(gradients, torch.autograd.grad(expected[:, 0].sum(), leaves)):
            torch.testing.assert_close(gradient, wanted)


def test_a_label_out_of_range_on_a_device_gives_nan_and_a_flag(monkeypatch):
    """The CPU stands in for the GPU: the check that it alone can afford is switched off."""
    import sys

    for name, module in list(sys.modules.items()):
        if name.startswith("ferkit.") and hasattr(module, "check_label_range"):
            monkeypatch.setattr(module, "check_label_range", lambda *_, **__: False)
        if name.startswith("ferkit.") and hasattr(module, "out_of_range"):
            monkeypatch.setattr(module, "out_of_range", lambda labels, c: (labels < -1) | (labels >= c))
    labels, *inputs = make(5)
    labels[2] = 4
    assert va_target_distribution(labels, *inputs).isnan().all(1).tolist() == [n == 2 for n in range(5)]
    with pytest.raises(ValueError, match="labels"):
        ff.raise_label_errors()


Y, R, P, A = make(5)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: va_target_distribution(Y.int(), R, P, A), TypeError, "labels: expected dtype torch.int64"),
        (lambda: va_target_distribution(Y + 4, R, P, A), ValueError, "labels: expected values in 0..3 or -1"),
        (lambda: va_target_distribution(Y[:2], R, P, A), ValueError, "labels: expected shape (5,), got (2,)"),
        (lambda: va_target_distribution(Y, R[:2], P, A), ValueError, "certainty: expected shape (5,), got (2,)"),
        (lambda: va_target_distribution(Y, R + 1, P, A), ValueError, "certainty: expected values in [0, 1], got 1."),
        (lambda: va_target_distribution(Y, Y, P, A), TypeError, "certainty: expected a floating-point tensor"),
        (
            lambda: va_target_distribution(Y, R, P[0], A),
            ValueError,
            "neighbor_probabilities: expected shape (N, K, C), got (3, 4)",
        ),
        (
            lambda: va_target_distribution(Y, R, P.log(), A),
            ValueError,
            "neighbor_probabilities: expected values of 0 or more, got -",
        ),
        (lambda: va_target_distribution(Y, R, P, A[:, :2]), ValueError, "contribution: expected shape (5, 3)"),
        (lambda: va_target_distribution(Y, R, P, -A), ValueError, "contribution: expected values of 0 or more"),
        (lambda: va_target_distribution(Y, R, P, A.to("meta")), ValueError, "contribution: expected device cpu"),
        (lambda: va_target_distribution(Y, R, P, A, "all"), ValueError, "detach: expected None or 'neighbors'"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
