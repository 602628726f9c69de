"""The Triton kernels of concordance under the interpreter, against the eager formula in float64."""

import math

import pytest
import torch

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the interpreter is for machines without a GPU; see tests/gpu", allow_module_level=True)

from ferkit.kernels.eager import concordance as eager
from ferkit.kernels.triton import concordance as fused
from ferkit.ops import _select, concordance

# rows below, at and above a block (512 for two targets) and one program (2048); targets across blocks of 32 and 4
SHAPES = [
    (0, 2), (1, 2), (2, 1), (72, 2), (511, 2), (512, 2), (513, 2), (300, 3), (40, 33), (2048, 2), (2049, 2), (2100, 5),
]  # fmt: skip
BOUND = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3}


@pytest.fixture
def poisoned():
    """torch.empty gives NaN, so that memory nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def problem(size, targets, dtype=torch.float32, offset=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, targets, generator=generator, dtype=torch.float64)
    y = 0.6 * x + 0.5 * torch.randn(size, targets, generator=generator, dtype=torch.float64) + 0.2
    w = torch.rand(size, generator=generator, dtype=torch.float64)
    w = torch.where(torch.rand(size, generator=generator) < 0.2, 0, w)
    return (x + offset).to(dtype), (y + offset).to(dtype), w.to(dtype)


def compare(x, y, w, released=False, loss=False, mean=False, bound=None):
    """Value, state and both gradients, each relative to its largest number."""
    wide = [None if v is None else v.double() for v in (x, y, w)]
    value, state = fused.forward(x, y, w, released, loss, mean)
    want, wanted_state = eager.forward(*wide, released, loss, mean)
    assert value.dtype == x.dtype and value.shape == want.shape and state.shape == wanted_state.shape
    grad = torch.rand(value.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype) + 0.5
    got = [value, *fused.backward(grad, x, y, w, state, released, loss, mean, True)]
    wanted = [want, *eager.backward(grad.double(), *wide, wanted_state, released, loss, mean, True)]
    bound = BOUND[x.dtype] if bound is None else bound
    for one, exact in zip(got, wanted):
        assert one.dtype == x.dtype and one.shape == exact.shape and one.isfinite().all()
        if exact.numel():
            assert (one.double() - exact).abs().max() <= bound * exact.abs().max().clamp_min(1e-30)
    assert state.dtype == torch.float64
    return got


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("size", "targets"), SHAPES)
def test_matches_eager(poisoned, size, targets, weighted):
    x, y, w = problem(size, targets)
    if weighted:
        gone = w == 0
        x[gone], y[gone] = math.nan, math.inf
    compare(x, y, w if weighted else None, released=weighted, loss=weighted, mean=not weighted)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("size", [100, 2100])
def test_every_form(size, released, loss, mean):
    x, y, w = problem(size, 6)
    compare(x, y, w, released, loss, mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [90, 2500])
def test_dtypes(dtype, size):
    compare(*problem(size, 2, dtype))


@pytest.mark.parametrize("size", [90, 2500])
def test_a_large_mean_does_not_cancel(size):
    x, y, w = problem(size, 2, offset=1e4)
    compare(x, y, None)
    compare(x, y + 3e3, w, released=True)


@pytest.mark.parametrize("size", [90, 2500])
def test_near_agreement_the_loss_keeps_its_digits(size):
    x, _, w = problem(size, 2, offset=10.0)
    compare(x, x + 1e-4 * problem(size, 2, seed=1)[0], w, loss=True, mean=True, bound=1e-5)


def test_a_first_row_far_away_does_no_harm():
    x, y, _ = problem(700, 2)
    x[0], y[0] = 1e4, 1e4
    value, state = fused.forward(x, y, None, False, True, False)
    want, _ = eager.forward(x.double(), y.double(), None, False, True, False)
    torch.testing.assert_close(value.double(), want, atol=0, rtol=1e-4)
    assert (state[:, 2] <= 1).all()


@pytest.mark.parametrize("size", [1, 90, 2500])
@pytest.mark.parametrize("released", [False, True])
def test_where_it_is_not_defined(size, released):
    """Columns: equal constants; different constants; a constant prediction."""
    x = torch.full((size, 3), 0.1)
    y = torch.stack([x[:, 0], x[:, 0] + 1, torch.linspace(0, 1, size)], 1)
    for w in (None, torch.ones(size)):
        for loss in (False, True):
            value, state = fused.forward(x, y, w, released, loss, False)
            want, _ = eager.forward(x.double(), y.double(), w, released, loss, False)
            torch.testing.assert_close(value.double(), want, atol=1e-6, rtol=0)
            for gradient in fused.backward(torch.ones(3), x, y, w, state, released, loss, False, True):
                assert gradient.isfinite().all() and (gradient[:, :2] == 0).all()


@pytest.mark.parametrize("size", [0, 5, 2500])
def test_the_empty_set(poisoned, size):
    x = torch.full((size, 2), math.nan)
    for loss in (False, True):
        value, state = fused.forward(x, x, torch.zeros(size), False, loss, False)
        assert torch.equal(value, torch.zeros(2))
        for gradient in fused.backward(torch.ones(2), x, x, torch.zeros(size), state, False, loss, False, True):
            assert torch.equal(gradient, torch.zeros(size, 2))


@pytest.mark.parametrize("size", [600, 2500])
def test_nan_shows(size):
    x, y, _ = problem(size, 3)
    x[size - 1, 1] = math.nan
    value, state = fused.forward(x, y, None, False, False, False)
    assert value.isnan().tolist() == [False, True, False]
    gradient = fused.backward(torch.ones(3), x, y, None, state, False, False, False, False)[0]
    assert gradient[:, 1].isnan().all() and gradient[:, ::2].isfinite().all()


@pytest.mark.parametrize("size", [100, 2100])
def test_layouts_and_twice_the_same(size):
    x, y, w = problem(size, 3)
    first = compare(x, y, w)
    views = [v.t().contiguous().t() for v in (x, y)] + [torch.stack([w, w], 1)[:, 1]]
    before = [view.clone() for view in views]
    for one, other in zip(compare(*views), first):
        assert torch.equal(one, other)
    assert all(torch.equal(view, old) for view, old in zip(views, before))


@pytest.mark.parametrize("size", [1, 60, 2100])
def test_through_the_operator(size):
    x, y, w = problem(size, 2)
    leaves = [x.requires_grad_(), y.requires_grad_()]
    want = concordance(*leaves, w, released=True, loss=True, mean=True)
    wanted = torch.autograd.grad(want, leaves)
    with _select.force("triton"):
        assert _select.kernel("concordance", "cpu", torch.float32, size) is fused
        got = concordance(*leaves, w, released=True, loss=True, mean=True)
        torch.testing.assert_close(got, want)
        for one, other in zip(torch.autograd.grad(got, leaves), wanted):
            torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-4)
        alone = concordance(leaves[0], y.detach(), w, released=True, loss=True, mean=True)
        torch.testing.assert_close(torch.autograd.grad(alone, leaves[0])[0], wanted[0], atol=1e-7, rtol=1e-4)


def test_specimens_name_every_argument():
    for specimen in fused.specimens():
        assert set(specimen.kernel.arg_names) == set(specimen.signature) | set(specimen.constants)
        assert not set(specimen.signature) & set(specimen.constants)
