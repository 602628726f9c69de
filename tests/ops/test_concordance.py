"""concordance against a loop in exact fractions, and its promises."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from ferkit.ops import concordance

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# below, at and above a block of the CPU kernel (1024 numbers), and periods that are no power of two
SHAPES = [(0, 2), (1, 2), (2, 1), (5, 3), (72, 2), (511, 2), (512, 2), (513, 2), (150, 7), (3, 20), (1030, 1), (40, 33)]


def oracle(prediction, target, weight=None, released=False):
    """CCC and 1 - CCC by column, without rounding until the end."""
    rows = range(prediction.shape[0])
    w = [Fraction(1 if weight is None else weight[n].item()) for n in rows]
    total, squares = sum(w), sum(v * v for v in w)
    pairs = []
    for t in range(prediction.shape[1]):
        if total == 0:
            pairs.append((0.0, 0.0))
            continue
        kept = [n for n in rows if w[n] != 0]
        x = {n: Fraction(prediction[n, t].item()) for n in kept}
        y = {n: Fraction(target[n, t].item()) for n in kept}
        mean_x, mean_y = (sum(w[n] * v[n] for n in kept) / total for v in (x, y))
        covariance = sum(w[n] * (x[n] - mean_x) * (y[n] - mean_y) for n in kept) / total
        spread = sum(w[n] * ((x[n] - mean_x) ** 2 + (y[n] - mean_y) ** 2) for n in kept)
        room = total - squares / total if released else total
        spread = spread / room if room else Fraction(0)
        bottom = spread + (mean_x - mean_y) ** 2
        ccc = 2 * covariance / bottom if bottom else room / total
        pairs.append((float(ccc), float(1 - ccc)))
    return torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2).unbind(1)


def problem(size, targets, seed=0, dtype=torch.float64, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, targets, generator=generator, dtype=torch.float64)
    y = 0.6 * x + 0.5 * torch.randn(size, targets, generator=generator, dtype=torch.float64) + 0.2
    w = torch.rand(size, generator=generator, dtype=torch.float64)
    w = torch.where(torch.rand(size, generator=generator) < 0.2, 0, w)
    return (x + offset).to(dtype), (y + offset).to(dtype), w.to(dtype)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("size", "targets"), SHAPES)
def test_matches_the_loop(backend, poisoned, size, targets, weighted, released):
    for dtype, offset, bound in [(torch.float64, 0.0, 1e-13), (torch.float32, 0.0, 1e-6), (torch.float32, 1e4, 1e-6)]:
        x, y, w = problem(size, targets, dtype=dtype, offset=offset)
        w = w if weighted else None
        for loss, want in zip((False, True), oracle(x, y, w, released)):
            got = concordance(x, y, w, released, loss)
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), want, atol=bound, rtol=0)
            mean = concordance(x, y, w, released, loss, mean=True)
            torch.testing.assert_close(mean.double(), want.mean(), atol=bound, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e6])
def test_a_large_mean_does_not_cancel(backend, offset):
    """float32 against the same numbers in float64, relative to the largest entry: values and both gradients."""
    x, y, w = problem(3000, 2, dtype=torch.float32, offset=offset)
    wide = [v.double().requires_grad_() for v in (x, y)]
    narrow = [v.requires_grad_() for v in (x, y)]
    for weight in (None, w):
        want = concordance(*wide, None if weight is None else weight.double())
        got = concordance(*narrow, weight)
        torch.testing.assert_close(got.double(), want, atol=0, rtol=2e-6)
        for one, exact in zip(torch.autograd.grad(got.sum(), narrow), torch.autograd.grad(want.sum(), wide)):
            assert (one.double() - exact).abs().max() <= 2e-6 * exact.abs().max()


def test_a_first_row_far_away_does_no_harm(backend):
    x, y, _ = problem(700, 2, dtype=torch.float32)
    x[0], y[0] = 1e4, 1e4
    want, rest = oracle(x, y)
    torch.testing.assert_close(concordance(x, y).double(), want, atol=0, rtol=1e-6)
    torch.testing.assert_close(concordance(x, y, loss=True).double(), rest, atol=0, rtol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("distance", [1e-2, 1e-5])
def test_near_agreement_the_loss_keeps_its_digits(backend, distance, offset):
    x, _, _ = problem(300, 2, dtype=torch.float32, offset=offset)
    y = x + distance * torch.randn(300, 2, generator=torch.Generator().manual_seed(3))
    leaves = [v.clone().requires_grad_() for v in (x, y)]
    wide = [v.double().requires_grad_() for v in (x, y)]
    got, want = concordance(*leaves, loss=True), concordance(*wide, loss=True)
    torch.testing.assert_close(want.detach(), oracle(x, y)[1], atol=0, rtol=1e-12)
    torch.testing.assert_close(got.double(), want, atol=0, rtol=1e-5)
    for one, exact in zip(torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(want.sum(), wide)):
        assert (one.double() - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("near", [False, True])
def test_gradients(backend, near, released, loss):
    x, y, w = problem(7, 3, seed=1)
    y = x + 0.1 * y if near else y  # the two forms of the backward
    w[:2] = torch.tensor([0.5, 0.0])
    inputs = (x.requires_grad_(), y.detach().requires_grad_())
    for weight, mean in ((None, True), (w, False)):

        def value(x, y, weight=weight, mean=mean):
            return concordance(x, y, weight, released, loss, mean)

        assert gradcheck(value, inputs) and gradgradcheck(value, inputs)
    assert gradcheck(lambda x: concordance(x, y.detach(), w, released, loss), inputs[:1])
    assert gradcheck(lambda y: concordance(x.detach(), y, w, released, loss), inputs[1:])


@pytest.mark.parametrize("every", [False, True])
def test_opcheck(backend, every):
    x, y, w = problem(7, 5, dtype=torch.float32)
    weight = w if every else None
    forward = torch.ops.ferkit.concordance.default
    opcheck(forward, (x.clone().requires_grad_(), y.clone().requires_grad_(), weight, every, True, every))
    value, state = forward(x, y, weight, every, True, every)
    arguments = (torch.ones_like(value), x.requires_grad_(), y, weight, state, every, True, every, every)
    opcheck(torch.ops.ferkit.concordance_backward.default, arguments)


@QUICK
@given(st.integers(2, 60), st.integers(1, 9), st.integers(0, 10**6), st.booleans())
def test_promises(backend, size, targets, seed, released):
    x, y, w = problem(size, targets, seed)
    value = concordance(x, y, w, released)
    assert (value.abs() <= 1 + 1e-12).all()
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(concordance(x[order], y[order], w[order], released), value)
    torch.testing.assert_close(concordance(y, x, w, released), value)  # symmetric
    torch.testing.assert_close(concordance(3 - 7 * x, 3 - 7 * y, w, released), value)  # one affine map of both
    torch.testing.assert_close(concordance(x, y, 5 * w, released), value)  # weights up to a factor
    torch.testing.assert_close(1 - concordance(x, y, w, released, loss=True), torch.where(w.sum() == 0, 1, value))
    kept = w != 0
    torch.testing.assert_close(concordance(x[kept], y[kept], w[kept], released), value)
    # once means and variances agree, CCC is the correlation
    a, b = ((v - v.mean(0)) / v.std(0, correction=0) for v in (x, y))
    torch.testing.assert_close(concordance(a, b), (a * b).mean(0))


@QUICK
@given(st.integers(1, 30), st.integers(0, 10**6))
def test_whole_weights_are_repetition(backend, size, seed):
    x, y, _ = problem(size, 2, seed)
    times = torch.randint(0, 4, (size,), generator=torch.Generator().manual_seed(seed))
    leaves = [x.requires_grad_(), y.requires_grad_()]
    value = concordance(x, y, times.double())
    repeated = concordance(x.repeat_interleave(times, 0), y.repeat_interleave(times, 0))
    torch.testing.assert_close(value, repeated)
    pair = (torch.autograd.grad(v.sum(), leaves) for v in (value, repeated))
    for one, other in zip(*pair):
        torch.testing.assert_close(one, other)


def test_released_weights_are_those_of_numpy(backend):
    x, y, w = problem(40, 1, seed=2)
    spread = np.cov(x[:, 0], y[:, 0], aweights=w.numpy())
    biased = np.cov(x[:, 0], y[:, 0], aweights=w.numpy(), ddof=0)
    gap = np.average(x[:, 0], weights=w) - np.average(y[:, 0], weights=w)
    want = 2 * biased[0, 1] / (spread[0, 0] + spread[1, 1] + gap**2)
    assert concordance(x, y, w, released=True).item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_it_is_not_defined(backend, released, dtype):
    """Columns: equal constants; different constants; one constant; the same numbers twice."""
    size = 1200
    same = torch.linspace(0, 1, size, dtype=dtype)
    x = torch.stack([torch.full((size,), 0.1, dtype=dtype), torch.full((size,), 0.1, dtype=dtype), same, same], 1)
    y = torch.stack([x[:, 0], x[:, 0] + 1, torch.full((size,), 0.3, dtype=dtype), same], 1)
    leaves = [x.requires_grad_(), y.requires_grad_()]
    equal = (size - 1) / size if released else 1.0
    for weight in (None, torch.ones(size, dtype=dtype)):
        value = concordance(*leaves, weight, released)
        torch.testing.assert_close(value, torch.tensor([equal, 0.0, 0.0, equal], dtype=dtype), atol=1e-6, rtol=0)
        for gradient, moves in zip(torch.autograd.grad(value.sum(), leaves), (False, True)):
            assert gradient.isfinite().all() and (gradient[:, :2] == 0).all()
            assert bool((gradient[:, 2] != 0).any()) == moves  # only the constant side can make CCC differ from 0
    loss = concordance(*leaves, None, released, loss=True)
    torch.testing.assert_close(loss, torch.tensor([1 - equal, 1, 1, 1 - equal], dtype=dtype), atol=1e-6, rtol=0)
    one = concordance(x[:1], y[:1], None, released)
    assert one.tolist() == [0.0 if released else 1.0, 0.0, 0.0, 0.0 if released else 1.0]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("loss", [False, True])
def test_the_empty_set(backend, loss, mean):
    for x, w in [(torch.zeros(0, 2), None), (torch.full((4, 2), math.nan), torch.zeros(4)), (torch.zeros(3, 0), None)]:
        leaves = [x.clone().requires_grad_(), x.clone().requires_grad_()]
        value = concordance(*leaves, w, loss=loss, mean=mean)
        assert torch.equal(value, torch.zeros(() if mean else x.shape[1]))
        for gradient in torch.autograd.grad(value.sum(), leaves):
            assert torch.equal(gradient, torch.zeros_like(x))


def test_nan_shows_unless_its_weight_is_0(backend):
    x, y, _ = problem(600, 3, dtype=torch.float32)
    w = torch.ones(600)
    x[5, 1] = y[300, 1] = math.nan
    value = concordance(x, y, w)
    assert value.isnan().tolist() == [False, True, False]
    w[5] = w[300] = 0
    leaves = [x.requires_grad_(), y.requires_grad_()]
    value = concordance(*leaves, w)
    kept = w != 0
    torch.testing.assert_close(value, concordance(x[kept], y[kept]))
    for gradient in torch.autograd.grad(value.sum(), leaves):
        assert gradient.isfinite().all() and (gradient[~kept] == 0).all()


def test_layouts_and_inputs_untouched(backend, poisoned):
    x, y, w = problem(321, 3, seed=4, dtype=torch.float32)
    leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    want = concordance(*leaves, w)
    gradients = torch.autograd.grad(want.sum(), leaves)
    spread = torch.stack([w, w], 1)[:, 0]
    for view in (lambda v: v.t().contiguous().t(), lambda v: torch.stack([v, v], 2)[:, :, 0]):
        a, b = view(x).requires_grad_(), view(y).requires_grad_()
        got = concordance(a, b, spread)
        torch.testing.assert_close(got, want)
        for one, other in zip(torch.autograd.grad(got.sum(), [a, b]), gradients):
            torch.testing.assert_close(one, other)
        assert torch.equal(a, x) and torch.equal(b, y) and torch.equal(spread, w)
    wide = torch.tensor([[0.5]]).expand(321, 3)
    assert torch.equal(concordance(x, wide), concordance(x, wide.contiguous()))


def test_the_number_of_threads_changes_nothing(backend):
    x, y, w = problem(60_000, 3, dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            value = concordance(leaf, y, w)
            found.append((value.detach(), torch.autograd.grad(value.sum(), leaf)[0]))
    finally:
        torch.set_num_threads(before)
    if backend == "native":
        for value, gradient in found[1:]:
            assert torch.equal(value, found[0][0]) and torch.equal(gradient, found[0][1])
    torch.testing.assert_close(found[0][0].double(), concordance(x.double(), y.double(), w), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(backend, dtype):
    x, y, w = problem(50, 3, seed=6, dtype=dtype)
    leaf = x.clone().requires_grad_()
    value = concordance(leaf, y, w)
    assert value.dtype == dtype
    exact = oracle(x, y, w)[0]
    assert (value.double() - exact).abs().max() <= torch.finfo(dtype).eps
    assert torch.autograd.grad(value.sum(), leaf)[0].dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = concordance(x, y, w)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under.double(), exact, atol=1e-6, rtol=0)


def test_the_target_gets_no_gradient_it_does_not_want(backend):
    x, y, _ = problem(9, 2)
    value, state = torch.ops.ferkit.concordance.default(x, y, None, False, False, False)
    alone = torch.ops.ferkit.concordance_backward.default(
        torch.ones_like(value), x, y, None, state, False, False, False, False
    )
    assert alone[1].shape == (0,)
    both = torch.ops.ferkit.concordance_backward.default(
        torch.ones_like(value), x, y, None, state, False, False, False, True
    )
    assert torch.equal(alone[0], both[0]) and both[1].shape == y.shape
