"""Jeffreys divergence and the loss towards a distribution, against loops and PyTorch."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.functional import jeffreys_divergence, label_distribution_loss


def distributions(size, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.rand(2, size, classes, generator=generator, dtype=torch.float64) + 1e-3
    holes = torch.rand(size, classes, generator=generator) < 0.3
    holes[:, 0] = False
    q = q.masked_fill(holes, 0)
    return p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(0, 6),
    classes=st.integers(1, 6),
    eps=st.sampled_from([1e-10, 1e-6, 1e-2, 1.0]),
)
def test_jeffreys_equals_the_loops(seed, size, classes, eps):
    p, q = distributions(size, classes, seed)
    actual = jeffreys_divergence(p, q, eps, reduction="none")
    torch.testing.assert_close(jeffreys_divergence(q, p, eps, reduction="none"), actual, rtol=1e-12, atol=1e-14)
    assert (actual >= 0).all()
    for n in range(size):
        a, b = ([max(value, eps) for value in side[n].tolist()] for side in (p, q))
        a, b = ([value / sum(side) for value in side] for side in (a, b))
        expected = sum((x - y) * math.log(x / y) for x, y in zip(a, b))
        assert math.isclose(actual[n], expected, rel_tol=1e-9, abs_tol=1e-12)


def test_jeffreys_is_the_metric():
    metrics = pytest.importorskip("ferkit.metrics", exc_type=ImportError)
    p, q = distributions(20, 7, 0)
    for reduction in ("mean", "sum", "none"):
        expected = metrics.jeffreys_divergence(p, q, reduction=reduction)
        torch.testing.assert_close(jeffreys_divergence(p, q, reduction=reduction), expected, rtol=1e-12, atol=1e-14)
    accumulated = metrics.JeffreysDivergence()
    for part in range(0, 20, 7):
        accumulated.update(p[part : part + 7], q[part : part + 7])
    torch.testing.assert_close(jeffreys_divergence(p, q), accumulated.compute())


def test_jeffreys_of_equal_and_of_opposite_rows():
    p = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert torch.equal(jeffreys_divergence(p, p), torch.tensor(0.0))
    far = jeffreys_divergence(p[1:], p[1:].flip(1))
    torch.testing.assert_close(far, torch.tensor(2 * math.log(1e6)), rtol=1e-4, atol=0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(0, 6), classes=st.integers(1, 6))
def test_loss_equals_the_loops(seed, size, classes):
    _, d = distributions(size, classes, seed)
    logits = torch.randn(size, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for eps in (0.0, 1e-10, 1e-3):
        entropy = label_distribution_loss(logits, d, divergence="cross-entropy", eps=eps, reduction="none")
        divergence = label_distribution_loss(logits, d, eps=eps, reduction="none")
        for n in range(size):
            total = sum(math.exp(z) for z in logits[n].tolist())
            p = [math.exp(z) / total + eps for z in logits[n].tolist()]
            crossed = sum(-t * math.log(x) for t, x in zip(d[n].tolist(), p))
            own = sum(-t * math.log(t) for t in d[n].tolist() if t > 0)
            assert math.isclose(entropy[n], crossed, rel_tol=1e-9, abs_tol=1e-12)
            assert math.isclose(divergence[n], crossed - own, rel_tol=1e-9, abs_tol=1e-12)


def test_loss_is_that_of_pytorch():
    _, d = distributions(9, 5, 0)
    logits = torch.randn(9, 5, dtype=torch.float64)
    crossed = label_distribution_loss(logits, d, divergence="cross-entropy")
    torch.testing.assert_close(crossed, torch.nn.functional.cross_entropy(logits, d))
    expected = torch.nn.functional.kl_div(logits.log_softmax(1), d, reduction="batchmean")
    torch.testing.assert_close(label_distribution_loss(logits, d), expected)


@pytest.mark.parametrize("divergence", ["kl", "cross-entropy"])
@pytest.mark.parametrize("eps", [0.0, 1e-10])
def test_extreme_logits_are_finite(divergence, eps):
    logits = torch.tensor([[1000.0, -1000.0, 0.0], [0.0, -torch.inf, 3.0]], requires_grad=True)
    d = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]], requires_grad=True)
    value = label_distribution_loss(logits, d, divergence=divergence, eps=eps, reduction="none")
    assert value.isfinite().all()
    assert math.isclose(value[0].item(), 2000.0 if eps == 0 else -math.log(1e-10), rel_tol=1e-4)
    for gradient in torch.autograd.grad(value.sum(), (logits, d)):
        assert gradient.isfinite().all()


def test_gradient_by_the_logits_is_the_residual():
    _, d = distributions(6, 4, 1)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    for divergence in ("kl", "cross-entropy"):
        value = label_distribution_loss(logits, d, divergence=divergence, reduction="sum")
        (gradient,) = torch.autograd.grad(value, logits)
        torch.testing.assert_close(gradient, logits.detach().softmax(1) - d)


def test_detach_stops_the_distribution():
    logits, d = torch.randn(3, 4, requires_grad=True), torch.rand(3, 4).softmax(1).requires_grad_()
    assert torch.autograd.grad(label_distribution_loss(logits, d), d)[0].abs().sum() > 0
    stopped = label_distribution_loss(logits, d, detach="distribution")
    assert torch.autograd.grad(stopped, (logits, d), allow_unused=True)[1] is None


def test_divisors_and_class_weights():
    _, d = distributions(6, 3, 2)
    logits, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, -1, 1, 0])
    by_class = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    sample = torch.tensor([1.0, 1.0, 3.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    plain = label_distribution_loss(logits, d, reduction="none")
    weight = torch.tensor([1.0, 2.0, 1.5, 0.0, 0.0, 2.0], dtype=torch.float64)
    options = {"sample_weight": sample, "class_weight": by_class}
    torch.testing.assert_close(label_distribution_loss(logits, d, labels, reduction="none", **options), plain * weight)
    total = (plain * weight).sum()
    torch.testing.assert_close(label_distribution_loss(logits, d, labels, **options), total / weight.sum())
    counted = label_distribution_loss(logits, d, labels, divisor="samples", **options)
    torch.testing.assert_close(counted, total / 4)
    unweighted = [label_distribution_loss(logits, d, divisor=divisor) for divisor in ("weights", "samples")]
    assert torch.equal(*unweighted)
    none = label_distribution_loss(logits, d, torch.full((6,), -1), divisor="samples")
    assert none == 0


Z, D, Y = torch.randn(4, 3), torch.full((4, 3), 1 / 3), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: jeffreys_divergence(Z.long(), D), TypeError, "p: expected a floating-point tensor"),
        (lambda: jeffreys_divergence(D, D[:2]), ValueError, "q: expected shape (4, 3), got (2, 3)"),
        (lambda: jeffreys_divergence(D[0], D), ValueError, "p: expected shape (N, C), got (3,)"),
        (lambda: jeffreys_divergence(-D, D), ValueError, "p: expected values of 0 or more"),
        (lambda: jeffreys_divergence(D, D, 0.0), ValueError, "eps: expected a value in (0.0, 1.0], got 0.0"),
        (lambda: jeffreys_divergence(D, D, reduction="avg"), ValueError, "reduction: expected one of"),
        (lambda: label_distribution_loss(Z[0], D), ValueError, "logits: expected shape (N, C), got (3,)"),
        (lambda: label_distribution_loss(Z, D[:, :2]), ValueError, "distribution: expected shape (4, 3), got (4, 2)"),
        (lambda: label_distribution_loss(Z, -D), ValueError, "distribution: expected values of 0 or more"),
        (lambda: label_distribution_loss(Z, D, Y + 1), ValueError, "labels: expected values in 0..2 or -1"),
        (lambda: label_distribution_loss(Z, D, Y.float()), TypeError, "labels: expected dtype torch.int64"),
        (lambda: label_distribution_loss(Z, D, divergence="js"), ValueError, "divergence: expected one of 'kl'"),
        (lambda: label_distribution_loss(Z, D, detach="all"), ValueError, "detach: expected None or 'distribution'"),
        (lambda: label_distribution_loss(Z, D, eps=-1.0), ValueError, "eps: expected a value in [0.0, 1.0], got -1.0"),
        (lambda: label_distribution_loss(Z, D, divisor="n"), ValueError, "divisor: expected one of 'weights'"),
        (lambda: label_distribution_loss(Z, D, class_weight=D[0]), ValueError, "class_weight: expected labels"),
        (lambda: label_distribution_loss(Z, D.to("meta")), ValueError, "distribution: expected device cpu, got meta"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_votes_are_no_distribution():
    logits = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"distribution: expected rows summing to 1 \(votes.*got 10 in row 1"):
        label_distribution_loss(logits, torch.tensor([[0.5, 0.5], [8.0, 2.0], [0.0, 0.0]]))
    votes = torch.tensor([[0.5, 0.5], [8.0, 2.0], [0.0, 0.0]])
    label_distribution_loss(logits, votes, labels=torch.tensor([0, -1, 1]))  # a row without a part in the loss
