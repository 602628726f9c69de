"""scaled_cross_entropy against a loop in float64, and its promises."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from ferkit.ops import scaled_cross_entropy

GOLDENS = Path(__file__).parent.parent / "goldens"
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def oracle(logits, scale, labels):
    losses = []
    for row, factor, label in zip(logits.double().tolist(), scale.double().tolist(), labels.tolist()):
        values = [factor * value for value in row]
        top = max(values)
        total = math.log(sum(math.exp(value - top) for value in values))
        losses.append(top + total - values[label] if label >= 0 else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


def problem(size, classes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    scale = torch.rand(size, generator=generator, dtype=torch.float64)
    return logits.to(dtype), scale.to(dtype), torch.randint(-1, classes, (size,), generator=generator)


@pytest.mark.parametrize(("size", "classes"), [(0, 3), (1, 1), (5, 2), (17, 8), (33, 7), (3, 100)])
def test_matches_the_loop(backend, size, classes):
    logits, scale, labels = problem(size, classes)
    want = oracle(logits, scale, labels)
    torch.testing.assert_close(scaled_cross_entropy(logits, scale, labels), want, atol=1e-13, rtol=1e-12)
    narrow = scaled_cross_entropy(logits.float(), scale.float(), labels)
    torch.testing.assert_close(narrow.double(), want, atol=16 * 1.2e-7 * 8, rtol=1e-6)
    mean = scaled_cross_entropy(logits, scale, labels, mean=True)
    torch.testing.assert_close(mean, want.sum() / max(1, int((labels >= 0).sum())))


def test_goldens(backend):
    data = np.load(GOLDENS / "dmue_weighted_ce.npz")
    logits = torch.from_numpy(data["logits"]).requires_grad_()
    alpha = torch.from_numpy(data["alpha"]).requires_grad_()
    labels = torch.from_numpy(data["labels"])
    loss = scaled_cross_entropy(logits, alpha[:, 0], labels, mean=True)
    loss.backward()
    np.testing.assert_allclose(loss.item(), data["loss"], atol=1e-9)
    np.testing.assert_allclose(
        scaled_cross_entropy(logits, alpha[:, 0], labels).detach(), data["per_sample"], atol=1e-9
    )
    np.testing.assert_allclose(logits.grad, data["grad_logits"], atol=1e-9)
    np.testing.assert_allclose(alpha.grad, data["grad_alpha"], atol=1e-9)


@pytest.mark.parametrize("mean", [False, True])
def test_gradients(backend, mean):
    logits, scale, labels = problem(9, 4, seed=1)
    inputs = (logits.requires_grad_(), scale.requires_grad_())

    def loss(logits, scale):
        return scaled_cross_entropy(logits, scale, labels, mean)

    assert gradcheck(loss, inputs) and gradgradcheck(loss, inputs)


@pytest.mark.parametrize("mean", [False, True])
def test_opcheck(backend, mean):
    logits, scale, labels = problem(7, 5, dtype=torch.float32)
    forward = torch.ops.ferkit.scaled_cross_entropy.default
    opcheck(forward, (logits.clone().requires_grad_(), scale.clone().requires_grad_(), labels, mean))
    loss, normaliser = forward(logits, scale, labels, mean)
    arguments = (torch.ones_like(loss), logits.requires_grad_(), scale, labels, normaliser, mean)
    opcheck(torch.ops.ferkit.scaled_cross_entropy_backward.default, arguments)


@QUICK
@given(st.integers(0, 40), st.integers(1, 20), st.integers(0, 10**6))
def test_promises(backend, size, classes, seed):
    logits, scale, labels = problem(size, classes, seed)
    loss = scaled_cross_entropy(logits, scale, labels)
    assert (loss >= -1e-12).all() and (loss[labels < 0] == 0).all()
    torch.testing.assert_close(scaled_cross_entropy(logits + 5, scale, labels), loss)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    renamed = torch.where(labels < 0, labels, torch.argsort(order)[labels.clamp_min(0)])
    torch.testing.assert_close(scaled_cross_entropy(logits[:, order], scale, renamed), loss)


def test_ties_extremes_and_nan(backend):
    labels = torch.tensor([0, 1, -1, 0, 1])
    logits = torch.tensor([[2.0, 2.0], [1e4, -1e4], [math.nan, 1.0], [0.0, -math.inf], [math.nan, 0.0]])
    scale = torch.ones(5).requires_grad_()
    logits.requires_grad_()
    loss = scaled_cross_entropy(logits, scale, labels)
    assert loss[0].item() == pytest.approx(math.log(2)) and loss[1].item() == pytest.approx(2e4)
    assert loss[2] == 0 and loss[3] == 0 and torch.isnan(loss[4])
    loss[:3].sum().backward()
    assert torch.equal(logits.grad[0], torch.tensor([-0.5, 0.5])) and (logits.grad[2] == 0).all()
    assert scale.grad[2] == 0


def test_layouts_and_inputs_untouched(backend, poisoned):
    logits, scale, labels = problem(21, 6, seed=4, dtype=torch.float32)
    want = scaled_cross_entropy(logits.clone(), scale.clone(), labels)
    for view in (logits.t().contiguous().t(), torch.stack([logits, logits], 2)[:, :, 0]):
        leaf, factor = view.detach().requires_grad_(), torch.stack([scale, scale], 1)[:, 0].requires_grad_()
        before = view.clone()
        got = scaled_cross_entropy(leaf, factor, labels)
        got.sum().backward()
        assert torch.equal(got, want) and torch.equal(view, before)
        assert torch.isfinite(leaf.grad).all() and torch.isfinite(factor.grad).all()
    one = torch.tensor(0.5).expand(21)
    assert torch.equal(
        scaled_cross_entropy(logits, one, labels), scaled_cross_entropy(logits, torch.full((21,), 0.5), labels)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(backend, dtype):
    logits, scale, labels = problem(50, 8, seed=6, dtype=dtype)
    labels = labels.clamp_min(0)
    exact = oracle(logits, scale, labels)
    plain = torch.nn.functional.cross_entropy(scale[:, None] * logits, labels, reduction="none").double()
    loss = scaled_cross_entropy(logits, scale, labels)
    assert loss.dtype == dtype
    assert (loss.double() - exact).abs().max() <= 2 * (plain - exact).abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = scaled_cross_entropy(logits, scale, labels)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under.double(), exact, atol=1e-5, rtol=1e-5)


def test_label_range(backend):
    logits, scale, labels = problem(5, 3)
    labels[2] = 3
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.2 or -1 \(unlabelled\), got"):
        scaled_cross_entropy(logits, scale, labels)
