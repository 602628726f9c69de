"""The Triton kernels of class_similarity under the interpreter, against the eager kernels in float64."""

import math

import pytest
import torch

from ferkit.kernels.eager import class_similarity as eager
from ferkit.kernels.eager import class_similarity_variance as eager_variance
from ferkit.kernels.flags import label_flag, raise_label_errors
from ferkit.ops import _select
from ferkit.ops import class_similarity as op

launch = pytest.importorskip("ferkit.kernels.triton.launch")
ours = pytest.importorskip("ferkit.kernels.triton.class_similarity", exc_type=ImportError)
kernels = pytest.importorskip("ferkit.kernels.triton.class_similarity_mean", exc_type=ImportError)
pytestmark = pytest.mark.skipif(not launch.INTERPRETED, reason="runs under the interpreter only")

EPS = {torch.float16: 2**-11, torch.float32: 2**-24, torch.float64: 2**-53}


@pytest.fixture
def poisoned():
    """torch.empty gives NaN, so that memory nobody wrote shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


def problem(size, width, classes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, width, generator=generator, dtype=torch.float64).to(dtype)
    grad = torch.randn(size, classes, generator=generator, dtype=torch.float64).to(dtype)
    return features, torch.randint(-1, classes, (size,), generator=generator), grad


def both(kernel, features, labels, grad, classes, include_self):
    mean, counts, sums, inverse = kernel.forward(features, labels, classes, include_self)
    return mean, counts, sums, inverse, kernel.backward(grad, features, labels, sums, inverse, classes, include_self)


def compare(features, labels, grad, classes, include_self):
    got = both(ours, features, labels, grad, classes, include_self)
    want = both(eager, features.double(), labels, grad.double(), classes, include_self)
    for mine, exact in zip(got, want):
        bound = EPS[mine.dtype] * (1 + 4 * math.log2(2 + features.numel())) * max(1.0, float(exact.abs().max()))
        torch.testing.assert_close(mine.double(), exact, atol=bound, rtol=0)
    assert got[0].dtype == got[4].dtype == features.dtype
    return got


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize(
    ("size", "width", "classes"),
    [(1, 1, 1), (3, 16, 8), (4, 17, 9), (5, 15, 7), (17, 33, 2), (9, 5, 17)],  # below, at and above every block
)
def test_mean(poisoned, size, width, classes, include_self):
    compare(*problem(size, width, classes), classes, include_self)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtypes(poisoned, dtype):
    compare(*problem(19, 20, 3, dtype), 3, True)
    compare(*problem(19, 20, 3, dtype), 3, False)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("size", [8, 9, 37])
def test_three_launches(poisoned, monkeypatch, size, include_self):
    """What batches beyond 512 rows take, with few rows: partial sums of several blocks, combined by a kernel."""
    monkeypatch.setattr(kernels, "SMALL", 0)
    compare(*problem(size, 6, 9), 9, include_self)


@pytest.mark.parametrize("size", [16, 17])
def test_at_the_bound_of_two_launches(poisoned, monkeypatch, size):
    monkeypatch.setattr(kernels, "SMALL", 16)
    compare(*problem(size, 2, 2), 2, True)


def test_rows_wider_than_a_pass(poisoned, monkeypatch):
    monkeypatch.setattr(ours, "_WIDE_SUMS", 16)
    features, labels, grad = problem(9, 40, 3)
    compare(features, labels, grad, 3, False)
    monkeypatch.setattr(ours, "WIDEST", 32)  # beyond it the eager kernel
    torch.testing.assert_close(ours.forward(features, labels, 3, True)[0], eager.forward(features, labels, 3, True)[0])


@pytest.mark.parametrize(("size", "width", "classes"), [(0, 4, 3), (4, 0, 3)])
def test_nothing_to_do(size, width, classes):
    mean, counts, _, _, gradient = both(ours, *problem(size, width, classes), classes, True)
    assert mean.shape == (size, classes) and not mean.any() and gradient.shape == (size, width)
    assert counts.shape == (classes,)


@pytest.mark.filterwarnings("ignore:.*encountered in")  # numpy, under the interpreter
@pytest.mark.parametrize("small", [512, 0])
def test_zero_rows_nan_and_lengths(poisoned, monkeypatch, small):
    monkeypatch.setattr(kernels, "SMALL", small)
    features, labels, grad = problem(9, 6, 3)
    labels[:] = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 1])
    want = both(eager, features.double(), labels, grad.double(), 3, True)
    for factor in (1e25, 3e37, 1e-11):  # squares that overflow, and the shortest rows that count
        got = both(ours, features * factor, labels, grad, 3, True)
        torch.testing.assert_close(got[0].double(), want[0], atol=1e-6, rtol=0)
    features[1], features[6], grad[6] = 0, math.nan, math.nan
    mean, _, _, inverse, gradient = both(ours, features, labels, grad, 3, True)
    assert torch.isfinite(mean).all() and torch.isfinite(gradient).all()
    assert not mean[[1, 6]].any() and not gradient[[1, 6]].any() and not inverse[[1, 6]].any()
    features[2] = math.nan
    mean = ours.forward(features, labels, 3, True)[0]
    assert mean[2].isnan().all() and mean[labels >= 0, 2].isnan().all() and not mean[6].any()


def test_layouts_and_inputs_untouched(poisoned):
    base, labels, grad = problem(11, 8, 4)
    want = both(ours, base, labels, grad, 4, True)
    wide = torch.full((11, 19), math.nan)
    wide[:, 3::2] = base
    spaced = torch.stack([labels, labels + 7], 1)[:, 0]
    rows = torch.full((11, 13), math.nan)
    rows[:, 2:10] = base
    for view in (wide[:, 3::2], base.t().contiguous().t(), rows[:, 2:10]):
        before, places = view.clone(), grad.t().contiguous().t()
        for mine, exact in zip(both(ours, view, spaced, places, 4, True), want):
            assert torch.equal(mine, exact)
        assert torch.equal(view, before)
    expanded = base[:1].expand(11, 8)
    one = grad[:1, :1].expand(11, 4)
    for mine, exact in zip(
        both(ours, expanded, labels, one, 4, False), both(ours, expanded.clone(), labels, one.clone(), 4, False)
    ):
        assert torch.equal(mine, exact)


@pytest.mark.parametrize("bad", [3, 2**40, -2])
@pytest.mark.parametrize("small", [512, 0])
def test_labels_out_of_range(poisoned, monkeypatch, bad, small):
    monkeypatch.setattr(kernels, "SMALL", small)
    features, labels, grad = problem(9, 6, 3)
    label_flag(features.device).zero_()
    labels[4] = -1
    want = both(eager, features, labels, grad, 3, True)
    labels[4] = bad
    mean, counts, sums, inverse = ours.forward(features, labels, 3, True)
    with pytest.raises(ValueError, match="labels: expected values"):
        raise_label_errors()
    gradient = ours.backward(grad, features, labels, sums, inverse, 3, True)
    with pytest.raises(ValueError, match="labels: expected values"):
        raise_label_errors()
    others = torch.arange(9) != 4
    assert mean[4].isnan().all() and gradient[4].isnan().all() and torch.equal(counts, want[1])
    torch.testing.assert_close(mean[others], want[0][others])
    torch.testing.assert_close(gradient[others], want[4][others], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize(("size", "width", "classes"), [(1, 1, 1), (31, 16, 3), (33, 17, 5), (66, 7, 2), (7, 129, 2)])
def test_variance(poisoned, size, width, classes, include_self):
    features, labels, grad = problem(size, width, classes)
    got = ours.variance_forward(features, labels, classes, include_self)
    exact = eager.variance(features.double(), labels, classes, include_self)
    torch.testing.assert_close(got.double(), exact, atol=2e-6, rtol=0)
    got = ours.variance_backward(grad, features, labels, classes, include_self)
    exact = eager_variance.variance_backward(grad.double(), features.double(), labels, classes, include_self)
    torch.testing.assert_close(got.double(), exact, atol=4e-6 * max(1.0, float(exact.abs().max())), rtol=0)


def test_variance_of_more_classes_than_a_program(poisoned):
    features, labels, _ = problem(5, 4, 70)
    got = ours.variance_forward(features, labels, 70, True)
    torch.testing.assert_close(got.double(), eager.variance(features.double(), labels, 70, True), atol=2e-6, rtol=0)


def test_variance_conventions(poisoned):
    features, labels, grad = problem(9, 6, 3)
    labels[:] = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 1])
    features[1], features[6], grad[6] = 0, math.nan, math.nan
    spread = ours.variance_forward(features, labels, 3, True)
    gradient = ours.variance_backward(grad, features, labels, 3, True)
    assert torch.isfinite(spread).all() and not spread[[1, 6]].any()
    assert torch.isfinite(gradient).all() and not gradient[[1, 6]].any()
    for dtype in (torch.float16, torch.float64):
        assert ours.variance_forward(features.to(dtype), labels, 3, True).dtype == dtype
    labels[4] = 3
    assert ours.variance_forward(features, labels, 3, True)[4].isnan().all()
    assert ours.variance_backward(grad, features, labels, 3, True)[4].isnan().all()
    label_flag(features.device).zero_()


def test_two_runs_are_equal(poisoned, monkeypatch):
    monkeypatch.setattr(kernels, "SMALL", 0)
    features, labels, grad = problem(21, 5, 2)
    runs = [
        (
            *both(ours, features, labels, grad, 2, False),
            ours.variance_forward(features, labels, 2, False),
            ours.variance_backward(grad, features, labels, 2, False),
        )
        for _ in range(2)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*runs))


@pytest.mark.parametrize("include_self", [True, False])
def test_public_op(poisoned, include_self):
    features, labels, grad = problem(14, 5, 3)
    results = {}
    for backend in ("triton", "eager"):
        with _select.force(backend):
            leaf = features.clone().requires_grad_()
            mean, counts, spread = op(leaf, labels, 3, include_self, variance=True)
            torch.autograd.backward((mean, spread), (grad, grad * 3))
            results[backend] = (mean.detach(), counts, spread.detach(), leaf.grad)
    for mine, exact in zip(*results.values()):
        torch.testing.assert_close(mine, exact, atol=1e-5, rtol=1e-4)
