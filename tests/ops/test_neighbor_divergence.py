"""neighbor_divergence against a loop in float64, and its promises."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from ferkit.ops import _select, neighbor_divergence

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def softmax(row):
    top = max(row)
    total = math.fsum(math.exp(value - top) for value in row)
    return [math.exp(value - top) / total for value in row], top + math.log(total)


def divergence(neighbor, center):
    (q, log_q), (_, log_p) = softmax(neighbor), softmax(center)
    return math.fsum(a * ((v - log_q) - (z - log_p)) for a, v, z in zip(q, neighbor, center) if a > 0)


def oracle(logits, neighbors, weight):
    rows = []
    for center, around, weights in zip(logits.tolist(), neighbors.tolist(), weight.tolist()):
        rows.append(math.fsum(w * divergence(v, center) for v, w in zip(around, weights) if w != 0))
    return torch.tensor(rows, dtype=torch.float64)


def problem(size, count, classes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    neighbors = 3 * torch.randn(size, count, classes, generator=generator, dtype=torch.float64)
    weight = 0.1 + torch.rand(size, count, generator=generator, dtype=torch.float64)
    return logits.to(dtype), neighbors.to(dtype), weight.to(dtype)


SHAPES = [(0, 3, 4), (1, 1, 1), (1, 2, 3), (5, 0, 3), (4, 2, 0), (17, 4, 8), (33, 3, 7), (16, 8, 2), (3, 2, 100)]


@pytest.mark.parametrize(("size", "count", "classes"), SHAPES)
def test_matches_the_loop(backend, size, count, classes):
    inputs = problem(size, count, classes)
    want = oracle(*inputs) if classes else torch.zeros(size, dtype=torch.float64)
    torch.testing.assert_close(neighbor_divergence(*inputs), want, atol=1e-13, rtol=1e-12)
    narrow = [tensor.float() for tensor in inputs]
    exact = oracle(*[tensor.double() for tensor in narrow]) if classes else want
    torch.testing.assert_close(neighbor_divergence(*narrow).double(), exact, atol=2e-6 * max(1, count), rtol=2e-6)
    torch.testing.assert_close(neighbor_divergence(*inputs, mean=True), want.sum() / max(1, size))


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("asked", ["logits", "all"])
def test_gradients(backend, mean, asked):
    inputs = problem(9, 3, 4, seed=1)
    leaves = inputs[:1] if asked == "logits" else inputs
    for leaf in leaves:
        leaf.requires_grad_()

    def loss(*leaves):
        return neighbor_divergence(*leaves, *inputs[len(leaves) :], mean=mean)

    assert gradcheck(loss, leaves) and gradgradcheck(loss, leaves)


def test_gradients_of_few_classes(backend):
    for shape in ((2, 3, 1), (3, 2, 2)):
        leaves = [tensor.requires_grad_() for tensor in problem(*shape, seed=2)]
        assert gradcheck(neighbor_divergence, leaves)


@pytest.mark.parametrize(("size", "count", "classes"), [(0, 3, 4), (2, 0, 3), (2, 3, 0)])
@pytest.mark.parametrize("mean", [False, True])
def test_empty_sizes_give_connected_zeros(backend, size, count, classes, mean):
    leaves = [tensor.requires_grad_() for tensor in problem(size, count, classes)]
    loss = neighbor_divergence(*leaves, mean=mean)
    assert torch.equal(loss, torch.zeros(() if mean else size, dtype=torch.float64))
    for leaf, grad in zip(leaves, torch.autograd.grad(loss.sum(), leaves)):
        assert torch.equal(grad, torch.zeros_like(leaf))


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("neighbors", [False, True])
def test_opcheck(backend, mean, neighbors):
    logits, around, weight = problem(7, 3, 5, dtype=torch.float32)
    forward = torch.ops.ferkit.neighbor_divergence.default
    opcheck(forward, (logits.clone().requires_grad_(), around.clone().requires_grad_(neighbors), weight, mean))
    loss, residual, divergence = forward(logits, around, weight, mean)
    arguments = (torch.ones_like(loss), logits.requires_grad_(), around, weight, residual, divergence, mean, neighbors)
    opcheck(torch.ops.ferkit.neighbor_divergence_backward.default, arguments)


@QUICK
@given(st.integers(0, 40), st.integers(0, 6), st.integers(1, 20), st.integers(0, 10**6))
def test_promises(backend, size, count, classes, seed):
    logits, around, weight = problem(size, count, classes, seed)
    loss = neighbor_divergence(logits, around, weight)
    assert (loss >= 0).all()
    torch.testing.assert_close(neighbor_divergence(logits + 5, around - 3, weight), loss)
    generator = torch.Generator().manual_seed(seed)
    order, other = torch.randperm(classes, generator=generator), torch.randperm(count, generator=generator)
    torch.testing.assert_close(neighbor_divergence(logits[:, order], around[:, :, order], weight), loss)
    torch.testing.assert_close(neighbor_divergence(logits, around[:, other], weight[:, other]), loss)
    equal = logits[:, None].expand(size, count, classes)
    assert torch.equal(neighbor_divergence(logits, equal, weight), torch.zeros_like(loss))
    assert torch.equal(neighbor_divergence(logits.float(), equal.float(), weight.float()), torch.zeros(size))


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3])
def test_close_distributions_keep_their_digits(backend, distance):
    logits, around, weight = problem(40, 3, 8, seed=3, dtype=torch.float32)
    around = logits[:, None] + distance * around
    exact = torch.tensor(
        [[half_square(v, z) for v in rows] for rows, z in zip(around.tolist(), logits.tolist())], dtype=torch.float64
    )
    want = (weight.double() * exact).sum(1)
    loss = neighbor_divergence(logits, around, weight)
    assert (loss >= 0).all()
    error = (loss.double() - want).abs()
    relative = 4e-6 if backend == "native" else 4e-7 / distance + 4e-6  # the eager one has r to eps only
    assert (error <= relative * want + 1e-12).all()


def half_square(neighbor, center):
    """KL as the sum of q (r + exp(-r) - 1), which holds its digits where the plain sum loses them."""
    (q, log_q), (_, log_p) = softmax(neighbor), softmax(center)
    total = []
    for a, v, z in zip(q, neighbor, center):
        r = (v - z) - (log_q - log_p)
        terms, power = [], r
        for i in range(2, 20):
            power *= -r / i
            terms.append(-power)
        total.append(a * (math.fsum(terms) if abs(r) < 1 else r + math.exp(-r) - 1))
    return math.fsum(total)


def test_extremes(backend):
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, 1e4], [-1e4, -1e4, -1e4]])
    around = torch.tensor([[[1e4, -1e4, 1e4]], [[0.0, 1e4, -1e4]], [[500.0, 0.0, 0.0]]])
    leaves = [tensor.requires_grad_() for tensor in (logits, around, torch.ones(3, 1))]
    loss = neighbor_divergence(*leaves)
    torch.testing.assert_close(loss.double(), oracle(*leaves), rtol=2e-6, atol=1e-6)
    for grad in torch.autograd.grad(loss.sum(), leaves):
        assert grad.isfinite().all()


def test_logits_of_minus_infinity_are_classes_left_out(backend):
    logits, around, weight = problem(5, 2, 4, seed=5)
    around[:, :, 3] = -math.inf
    leaves = [tensor.requires_grad_() for tensor in (logits, around, weight)]
    loss = neighbor_divergence(*leaves)
    shares = torch.cat([around[:, :, :3].softmax(2), torch.zeros(5, 2, 1, dtype=torch.float64)], 2)
    want = (weight * torch.special.xlogy(shares, shares / logits.softmax(1)[:, None]).sum(2)).sum(1)
    torch.testing.assert_close(loss, want)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss.sum(), leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_absent_neighbours_and_nan(backend, dtype):
    logits, around, weight = problem(35, 3, 6, seed=7, dtype=dtype)
    weight[::2, 1] = 0
    logits[4], weight[4] = math.nan, 0
    want = [tensor.clone().requires_grad_() for tensor in (logits.nan_to_num(), around, weight)]
    around[::2, 1] = math.nan
    leaves = [tensor.requires_grad_() for tensor in (logits, around, weight)]
    loss, clean = neighbor_divergence(*leaves), neighbor_divergence(*want)
    assert torch.equal(loss, clean) and loss[4] == 0
    grads = torch.autograd.grad(loss.sum(), leaves, create_graph=True)
    for grad, expected in zip(grads, torch.autograd.grad(clean.sum(), want)):
        torch.testing.assert_close(grad, expected)
    assert (grads[1][::2, 1] == 0).all() and (grads[2][::2, 1] == 0).all() and (grads[0][4] == 0).all()
    second = torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves)
    assert all(grad.isfinite().all() for grad in second)
    seen = around.detach().clone()
    seen[1, 0, 2] = math.nan
    shown = neighbor_divergence(logits.detach(), seen, weight.detach())
    assert shown.isnan().nonzero().tolist() == [[1]]
    assert neighbor_divergence(logits.detach(), seen, weight.detach(), mean=True).isnan()


def test_layouts_and_inputs_untouched(backend, poisoned):
    inputs = problem(21, 3, 6, seed=4, dtype=torch.float32)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    want = neighbor_divergence(*leaves)
    grads = torch.autograd.grad(want.sum(), leaves)
    for scatter in (lambda t: t.mT.contiguous().mT, lambda t: torch.stack([t, t + 1], -1)[..., 0]):
        views = [scatter(tensor).detach().requires_grad_() for tensor in inputs]
        got = neighbor_divergence(*views)
        assert torch.equal(got, want)
        for grad, expected, view, tensor in zip(torch.autograd.grad(got.sum(), views), grads, views, inputs):
            assert torch.equal(grad, expected) and torch.equal(view, tensor)
    one = torch.tensor(0.5).expand(21, 3)
    full = neighbor_divergence(*inputs[:2], torch.full((21, 3), 0.5))
    assert torch.equal(neighbor_divergence(*inputs[:2], one), full)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(backend, dtype):
    inputs = problem(50, 3, 8, seed=6, dtype=dtype)
    logits, around, weight = inputs
    exact = oracle(*inputs)
    q = around.softmax(2)
    plain = (weight * (q * (q.log() - logits.log_softmax(1)[:, None])).sum(2)).sum(1).double()
    loss = neighbor_divergence(*inputs)
    assert loss.dtype == dtype
    assert (loss.double() - exact).abs().max() <= 2 * (plain - exact).abs().max()
    leaves = [tensor.requires_grad_() for tensor in inputs]
    for mean in (False, True):
        for grad in torch.autograd.grad(neighbor_divergence(*leaves, mean=mean).sum(), leaves):
            assert grad.dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = neighbor_divergence(*inputs)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under.double(), exact, atol=1e-5, rtol=1e-5)


def test_threads_and_runs_agree_to_the_bit(backend):
    inputs = problem(1500, 4, 8, seed=8, dtype=torch.float32)
    before = torch.get_num_threads()
    first = neighbor_divergence(*inputs, mean=True)
    try:
        torch.set_num_threads(1)
        second = neighbor_divergence(*inputs, mean=True)
    finally:
        torch.set_num_threads(before)
    if backend == "native":
        assert torch.equal(first, second)
    assert torch.equal(second, neighbor_divergence(*inputs, mean=True)) or backend == "eager"


def test_backends_take_the_native_kernel_first():
    names = [name for name in _select.BACKENDS if _select.can_run("neighbor_divergence", name)]
    assert "eager" in names
    with _select.force("eager"):
        module = _select.kernel("neighbor_divergence", "cpu", torch.float32, 4)
    assert module.__name__ == "ferkit.kernels.eager.neighbor_divergence"


@pytest.mark.parametrize("neighbors", [False, True])
def test_compiles_once(neighbors):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda *inputs: neighbor_divergence(*inputs, mean=True), fullgraph=True, dynamic=True, backend=counter
    )
    for size in (7, 40, 100, 2):
        inputs = problem(size, 3, 5, seed=size, dtype=torch.float32)
        inputs[0].requires_grad_()
        inputs[1].requires_grad_(neighbors)
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        got = torch.autograd.grad(compiled(*inputs), leaves)
        want = torch.autograd.grad(neighbor_divergence(*inputs, mean=True), leaves)
        for one, other in zip(got, want):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4, 1e5])
def test_large_logits_keep_their_digits(size):
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(40, 7, generator=generator)).requires_grad_()
    near = (size * torch.randn(40, 3, 7, generator=generator)).requires_grad_()
    weight = torch.rand(40, 3, generator=generator)
    loss = neighbor_divergence(logits, near, weight)
    exact = neighbor_divergence(logits.detach().double(), near.detach().double(), weight.double())
    torch.testing.assert_close(loss.detach().double(), exact, rtol=5e-6, atol=1e-6)
