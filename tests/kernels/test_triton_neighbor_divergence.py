"""The Triton kernels of neighbor_divergence under the interpreter, against the eager ones in float64."""

import pytest
import torch

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the interpreter is for machines without a GPU", allow_module_level=True)

from ferkit.kernels.eager import neighbor_divergence as eager
from ferkit.kernels.triton import neighbor_divergence as kernels
from ferkit.ops import _select, neighbor_divergence

TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.float16: 2e-3}


def problem(size, count, classes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    neighbors = 3 * torch.randn(size, count, classes, generator=generator, dtype=torch.float64)
    weight = 0.1 + torch.rand(size, count, generator=generator, dtype=torch.float64)
    return logits.to(dtype), neighbors.to(dtype), weight.to(dtype)


def run(module, logits, neighbors, weight, mean, grad):
    outputs = module.forward(logits, neighbors, weight, mean)
    return *outputs, *module.backward(grad, logits, neighbors, weight, *outputs[1:], mean, True)


def upstream(size, mean, dtype, seed=1):
    values = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return values.new_tensor(0.75) if mean else values


def check(logits, neighbors, weight, mean):
    grad = upstream(logits.shape[0], mean, logits.dtype)
    got = run(kernels, logits, neighbors, weight, mean, grad)
    want = run(eager, *(tensor.double() for tensor in (logits, neighbors, weight)), mean, grad.double())
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    for index, (mine, theirs) in enumerate(zip(got, want)):
        assert mine.dtype == (wide if index in (1, 2) else logits.dtype)
        close = TOLERANCE[mine.dtype]
        torch.testing.assert_close(mine.double(), theirs, rtol=close, atol=close)
    return got


# rows and columns below, at and above a block (32 rows of 4 columns, 16 of 8, 1 of 100), and the larger bucket
SIZES = [(1, 1, 1), (2, 3, 4), (31, 2, 3), (33, 1, 4), (16, 4, 8), (17, 3, 7), (5, 2, 9), (3, 2, 100), (2, 1, 300)]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(("size", "count", "classes"), SIZES)
def test_matches_the_eager_kernel(size, count, classes, mean):
    check(*problem(size, count, classes), mean)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize(("size", "count", "classes"), [(19, 3, 7), (33, 2, 8)])
def test_other_types(dtype, size, count, classes):
    check(*problem(size, count, classes, dtype), False)
    check(*problem(size, count, classes, dtype), True)


def test_bfloat16_is_taken():
    inputs = problem(9, 2, 5, torch.bfloat16)
    loss, residual, _ = kernels.forward(*inputs, False)
    assert loss.dtype == torch.bfloat16 and residual.dtype == torch.float32
    want = eager.forward(*(tensor.double() for tensor in inputs), False)
    torch.testing.assert_close(residual.double(), want[1], rtol=1e-5, atol=1e-5)


def test_the_bucket_of_large_batches(monkeypatch):
    shape = kernels._shape
    assert shape(4096, 8, torch.float32) != shape(4097, 8, torch.float32)
    monkeypatch.setattr(kernels, "_shape", lambda size, classes, dtype: shape(10**6, classes, dtype))
    check(*problem(70, 2, 8), False)
    check(*problem(65, 2, 8, torch.float64), True)


@pytest.mark.parametrize(("size", "count", "classes"), [(0, 3, 4), (3, 0, 4), (3, 2, 0), (2, 1, 5000)])
@pytest.mark.parametrize("mean", [False, True])
def test_empty_sizes_and_rows_beyond_a_block(size, count, classes, mean):
    assert classes < 5000 or classes > kernels._WIDEST
    check(*problem(size, count, classes), mean)


def test_absent_neighbours_and_nan():
    logits, neighbors, weight = problem(21, 3, 6)
    weight[::2, 1] = 0
    logits[4], weight[4] = torch.nan, 0
    clean = check(logits.nan_to_num(), neighbors, weight, False)
    neighbors[::2, 1] = torch.nan
    got = check(logits, neighbors, weight, False)
    for mine, theirs in zip(got, clean):
        assert torch.equal(mine, theirs)
    neighbors[1, 0, 2] = torch.nan
    loss = kernels.forward(logits, neighbors, weight, False)[0]
    assert loss.isnan().nonzero().tolist() == [[1]]


def test_extremes_and_close_distributions():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    check(logits, torch.tensor([[[1e4, -1e4, 1e4]], [[500.0, 0.0, 0.0]]]), torch.ones(2, 1), False)
    logits, neighbors, weight = problem(40, 2, 8)
    neighbors = logits[:, None] + 1e-3 * neighbors
    loss = kernels.forward(logits, neighbors, weight, False)[0]
    want = eager.forward(logits.double(), neighbors.double(), weight.double(), False)[0]
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-12)
    equal = logits[:, None].expand(40, 2, 8)
    assert torch.equal(kernels.forward(logits, equal, weight, False)[0], torch.zeros(40))


def test_layouts_repeats_and_inputs_untouched():
    inputs, grad = problem(19, 3, 6), upstream(19, False, torch.float32)
    want = run(kernels, *inputs, False, grad)
    for scatter in (lambda t: t.mT.contiguous().mT, lambda t: torch.stack([t, t + 1], -1)[..., 0]):
        views = [scatter(tensor) for tensor in inputs]
        before = [view.clone() for view in views]
        got = run(kernels, *views, False, torch.stack([grad, grad], 1)[:, 0])
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, want))
        assert all(torch.equal(view, copy) for view, copy in zip(views, before))
    one = run(kernels, *inputs, False, torch.tensor(0.5).expand(19))
    full = run(kernels, *inputs, False, torch.full((19,), 0.5))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, full))


def test_every_output_is_written(monkeypatch):
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(kernels.torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    monkeypatch.setattr(kernels.torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(torch.nan))
    for mean in (False, True):
        check(*problem(18, 3, 5), mean)


@pytest.mark.parametrize("mean", [False, True])
def test_through_the_operator(mean):
    inputs = problem(9, 2, 5, torch.float64)
    results = {}
    for backend in ("triton", "eager"):
        with _select.force(backend):
            name = _select.kernel("neighbor_divergence", "cpu", torch.float64, 9).__name__
            assert name == f"ferkit.kernels.{backend}.neighbor_divergence"
            leaves = [tensor.clone().requires_grad_() for tensor in inputs]
            loss = neighbor_divergence(*leaves, mean=mean)
            results[backend] = [loss.detach(), *torch.autograd.grad(loss.square().sum(), leaves)]
    for mine, theirs in zip(results["triton"], results["eager"]):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_specimens_name_every_argument():
    for specimen in kernels.specimens():
        assert [*specimen.signature, *specimen.constants] == specimen.kernel.arg_names
