"""The CUDA kernels of similarity_preserving, run block by block on the CPU, against the eager kernel in float64."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from ferkit.kernels.eager import similarity_preserving as eager
from ferkit.ops import _native, _select, similarity_preserving

pytestmark = pytest.mark.skipif(not _select.can_run("similarity_preserving", "native"), reason="_C is not built")

SIZES = [  # (N, Dt, Da, M): below, at and above a quad, a warp of quads, one block a branch; many and no branches
    *[(size, 6, 6, 2) for size in (1, 2, 3, 4, 5, 31, 33)],
    (71, 9, 7, 8),
    (72, 16, 16, 8),
    (73, 5, 8, 9),
    (127, 8, 8, 1),
    (128, 8, 8, 1),
    (129, 8, 8, 2),
    (255, 12, 12, 1),
    (288, 10, 10, 2),
]


def blocks():
    operators = torch.ops.ferkit_native
    return operators.similarity_preserving_blocks, operators.similarity_preserving_blocks_backward


def problem(size, target_width, branch_width, branches, weights="bool", dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(size, target_width, generator=generator, dtype=torch.float64)
    auxiliary = torch.randn(branches, size, branch_width, generator=generator, dtype=torch.float64)
    mask = torch.rand(branches, size, generator=generator, dtype=torch.float64)
    mask = torch.where(mask > 0.3, mask, 0).float() if weights == "fractional" else mask > 0.3
    return target.to(dtype), auxiliary.to(dtype), mask


def room(target, auxiliary, gram=True):
    return _native.Kernels("similarity_preserving", "cuda").state_size(target, auxiliary, False, gram)


def both(target, auxiliary, mask, subset, gram=True, keep=True):
    """Loss and gradients, for a gradient that differs by branch."""
    forward, backward = blocks()
    loss, state = forward(target, auxiliary, mask, subset, gram, room(target, auxiliary, gram) if keep else 0)
    grad = 1 + torch.arange(len(auxiliary), dtype=target.dtype)
    return loss, *backward(grad, target, auxiliary, mask, state, subset, gram)


def exact(target, auxiliary, mask, subset):
    target, auxiliary = target.double(), auxiliary.double()
    loss, state = eager.forward(target, auxiliary, mask, subset, True, 0)
    grad = 1 + torch.arange(len(auxiliary), dtype=torch.float64)
    return loss, *eager.backward(grad, target, auxiliary, mask, state, subset, True)


@pytest.fixture(autouse=True)
def poisoned():
    """torch.empty gives NaN: the state, H, the copies and the padding of rows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


def assert_near(got, want, factor):
    """The largest error of each result, in units of its largest entry (a single row gives zeros, but for rounding)."""
    for one, other in zip(got, want):
        assert one.shape == other.shape
        if other.numel():
            assert torch.isfinite(one).all()
            assert (one.double() - other).abs().max() <= factor * other.abs().max() + 1e-14


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_eager(sizes, subset):
    for weights in ("bool", "fractional"):
        arguments = problem(*sizes, weights)
        want = exact(*arguments, subset)
        assert_near(both(*arguments, subset), want, 1e-11)
        narrow = [part.float() for part in arguments[:2]]
        want = exact(*narrow, arguments[2], subset)
        got = both(*narrow, arguments[2], subset)
        assert all(part.dtype == torch.float32 for part in got)
        assert_near(got, want, 2e-5)
        got = both(*narrow, arguments[2], subset, gram=False)  # float64 inside
        assert all(part.dtype == torch.float32 for part in got)
        assert_near(got, want, 1e-6)


@pytest.mark.parametrize("subset", [False, True])
def test_every_number_of_branches(subset):
    for branches in range(10):
        arguments = problem(13, 4, 4, branches, seed=branches)
        got = both(*arguments, subset)
        assert_near(got, exact(*arguments, subset), 1e-11)
    nothing = problem(0, 3, 4, 2)
    loss, d_target, d_auxiliary = both(*nothing, subset)
    assert torch.equal(loss, torch.zeros(2, dtype=torch.float64))
    assert d_target.shape == (0, 3) and d_auxiliary.shape == (2, 0, 4)


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("size", [21, 140])
def test_zero_rows_and_empty_branches(subset, size):
    target, auxiliary, mask = problem(size, 4, 4, 3, dtype=torch.float32)
    target[2], auxiliary[:, 2], mask[1] = 0, 0, False
    loss, d_target, d_auxiliary = got = both(target, auxiliary, mask, subset)
    assert loss[1] == 0 and (d_target[2] == 0).all() and (d_auxiliary[:, 2] == 0).all() and (d_auxiliary[1] == 0).all()
    assert_near(got, exact(target, auxiliary, mask, subset), 2e-5)


def test_nan_stays_where_it_belongs():
    target, auxiliary, mask = problem(23, 4, 4, 2, dtype=torch.float32)
    mask[:, 3], mask[:, 4], mask[0, 5], mask[1, 5] = False, True, False, True
    clean = exact(target, auxiliary, mask, True)
    target[3], auxiliary[:, 3], auxiliary[0, 5] = math.nan, math.inf, math.nan  # masked wherever they are
    assert_near(both(target, auxiliary, mask, True), clean, 2e-5)
    assert torch.isnan(both(target, auxiliary, mask, False)[0]).all()
    auxiliary[0, 4] = math.nan
    loss = both(target, auxiliary, mask, True)[0]
    assert torch.isnan(loss[0]) and torch.isfinite(loss[1])


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("size", [19, 131])
def test_kept_or_formed_again(subset, gram, size):
    arguments = problem(size, 5, 3, 3, dtype=torch.float32)
    before = [part.clone() for part in arguments]
    runs = [both(*arguments, subset, gram, keep) for keep in (True, False, True)]
    assert all(torch.equal(one, first) for run in runs for one, first in zip(run, runs[0]))
    assert all(torch.equal(part, old) for part, old in zip(arguments, before))


def test_layouts():
    target, auxiliary, mask = problem(17, 6, 5, 3, dtype=torch.float32)
    want = both(target, auxiliary, mask, True)
    views = (
        target.t().contiguous().t(),
        torch.stack([auxiliary, torch.full_like(auxiliary, math.nan)], 3)[..., 0],
        mask.t().contiguous().t(),
    )
    forward, backward = blocks()
    loss, state = forward(*views, True, True, room(target, auxiliary))
    odd = torch.cat([state.new_full((1,), math.nan), state])[1:]  # 8 bytes off a vector
    grad = (1 + torch.arange(3.0)).repeat_interleave(2)[::2]
    for got, expected in zip((loss, *backward(grad, *views, odd, True, True)), want):
        torch.testing.assert_close(got, expected)


def test_argument_checks():
    target, auxiliary, mask = problem(5, 3, 3, 2)
    forward, backward = blocks()
    for arguments, message in [
        ((target.half(), auxiliary, mask), "target: expected bool, float32 or float64"),
        ((target.bool(), auxiliary, mask), "target: expected float32 or float64"),
        ((target[0], auxiliary, mask), "target: expected shape"),
        ((target, auxiliary.float(), mask), "auxiliary: expected the dtype of target"),
        ((target, auxiliary[:, :4], mask), "auxiliary: expected as many rows"),
        ((target, auxiliary, mask[:, :4]), "mask: expected shape"),
        ((target, auxiliary, mask.long()), "mask: expected bool"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            forward(*arguments, False, True, 0)
    with pytest.raises(RuntimeError, match="kept: expected 0 or"):
        forward(target, auxiliary, mask, False, True, 7)
    with pytest.raises(RuntimeError, match="target: expected at most 512 rows, got 513"):
        forward(*problem(513, 2, 2, 1), False, True, 0)
    state = forward(target, auxiliary, mask, False, True, 0)[1]
    with pytest.raises(RuntimeError, match="grad: expected shape"):
        backward(torch.ones(3).double(), target, auxiliary, mask, state, False, True)
    with pytest.raises(RuntimeError, match="kept: expected float64"):
        backward(torch.ones(2).double(), target, auxiliary, mask, state.float(), False, True)


@pytest.fixture
def emulated(monkeypatch):
    """The public op on the emulated blocks, as it would take the CUDA kernels."""
    kernels = _native.Kernels("similarity_preserving", "cuda")
    kernels.forward, kernels.backward = (op.default for op in blocks())
    monkeypatch.setattr(_select, "kernel", lambda *_: kernels)


@pytest.mark.parametrize("form", ["gram", "factored", "auto"])
@pytest.mark.parametrize("normalize", ["batch", "subset"])
def test_through_the_public_op(emulated, form, normalize):
    target, auxiliary, mask = problem(7, 3, 2, 2, "fractional", seed=1)
    leaves = target.requires_grad_(), auxiliary.requires_grad_()

    def loss(target, auxiliary):
        return similarity_preserving(target, auxiliary, mask, normalize, form)

    assert gradcheck(loss, leaves) and gradgradcheck(loss, leaves)
    want = exact(target, auxiliary, mask, normalize == "subset")
    value = loss(*leaves)
    grads = torch.autograd.grad(value, leaves, 1 + torch.arange(2.0).double())
    assert_near((value.detach(), *grads), want, 1e-11)
    narrow = [leaf.detach().float().requires_grad_() for leaf in leaves]
    code = {"auto": 0, "gram": 1, "factored": 2}[form]
    kept = room(*narrow, gram=form != "factored")
    opcheck(torch.ops.ferkit.similarity_preserving.default, (*narrow, mask, normalize == "subset", code, kept))


def test_the_emulation_sees_races():
    assert torch.ops.ferkit_native.block_neighbours(64, True) == sum(range(64))
    with pytest.raises(RuntimeError, match="a read races a write"):
        torch.ops.ferkit_native.block_neighbours(64, False)
