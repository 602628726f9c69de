"""The Triton kernels of similarity_preserving under the interpreter, against the eager ones in float64."""

import math

import pytest
import torch

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the interpreter is for machines without a GPU", allow_module_level=True)

from ferkit.kernels.eager import similarity_preserving as eager
from ferkit.kernels.triton import similarity_preserving as kernels
from ferkit.kernels.triton import similarity_preserving_blocks as blocks
from ferkit.ops import _select, similarity_preserving

FORMS = ["gram", "factored"]
NORMS = ["batch", "subset"]


def problem(size, target_width, branch_width, branches, dtype=torch.float32, fractional=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(size, target_width, generator=generator, dtype=torch.float64).to(dtype)
    auxiliary = torch.randn(branches, size, branch_width, generator=generator, dtype=torch.float64).to(dtype)
    draw = torch.rand(branches, size, generator=generator, dtype=torch.float64)
    mask = torch.where(draw > 0.3, draw, 0).float() if fractional else draw > 0.3
    return target, auxiliary, mask


def run(module, target, auxiliary, mask, subset, gram, keep=True, seed=1):
    kept = module.state_size(target, auxiliary, subset, gram) if keep else 0
    loss, state = module.forward(target, auxiliary, mask, subset, gram, kept)
    assert state.shape == (kept,)
    grad = torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(loss.dtype)
    grad = grad.expand(loss.shape)
    return loss, *module.backward(grad, target, auxiliary, mask, state, subset, gram)


def check(target, auxiliary, mask, subset, gram, keep=True):
    got = run(kernels, target, auxiliary, mask, subset, gram, keep)
    want = run(eager, target.double(), auxiliary.double(), mask, subset, gram)
    tolerance = {torch.float64: 1e-11, torch.float32: 5e-6, torch.float16: 2e-3}[target.dtype]
    for mine, theirs in zip(got, want):
        assert mine.dtype == target.dtype
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=tolerance * (float(theirs.abs().max()) + 1e-3))
    return got


@pytest.fixture(params=["whole", "chunks"])
def memory(request, monkeypatch):
    """All rows at once, or in chunks of 16."""
    if request.param == "chunks":
        monkeypatch.setattr(kernels, "WHOLE", 0)
        monkeypatch.setattr(kernels, "BUDGET", 1)
        monkeypatch.setattr(blocks._Layout, "_rows", lambda layout, item: min(layout.size, 16))
    return request.param


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("sizes", [(1, 3, 3, 2), (35, 17, 6, 2)])
@pytest.mark.parametrize("fractional", [False, True])
def test_matches_eager(memory, gram, subset, sizes, fractional):
    dtype = torch.float64 if fractional else torch.float32
    check(*problem(*sizes, dtype=dtype, fractional=fractional), subset, gram)


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("size", [32, 128, 129])  # on a block's edge, at the last small size, beyond
def test_edges_of_blocks(gram, size):
    check(*problem(size, 4, 4, 1), True, gram)


@pytest.mark.parametrize("gram", [True, False])
def test_half_and_no_state(memory, gram):
    target, auxiliary, mask = problem(20, 6, 6, 2, dtype=torch.float16)
    check(target, auxiliary, mask, False, gram, keep=False)


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("sizes", [(0, 3, 3, 2), (4, 3, 3, 0), (0, 3, 3, 0)])
def test_nothing(gram, sizes):
    got = run(kernels, *problem(*sizes), False, gram)
    want = run(eager, *problem(*sizes), False, gram)
    for mine, theirs in zip(got, want):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", NORMS)
def test_through_the_operator(memory, form, normalize):
    target, auxiliary, mask = problem(21, 7, 7, 3, dtype=torch.float64)
    mask[1] = False  # a branch without a row
    target[2], auxiliary[:, 2] = 0, 0
    results = []
    for backend in ("triton", "eager"):
        with _select.force(backend):
            assert _select.kernel("similarity_preserving", "cpu", torch.float64).__name__.split(".")[2] == backend
            leaves = target.clone().requires_grad_(), auxiliary.clone().requires_grad_()
            loss = similarity_preserving(*leaves, mask, normalize, form)
            results.append((loss, *torch.autograd.grad(loss.square().sum() + loss[0], leaves)))
    for mine, theirs in zip(*results):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-14)
    assert results[0][0][1] == 0 and (results[0][2][1] == 0).all()
    assert (results[0][1][2] == 0).all() and (results[0][2][:, 2] == 0).all()


@pytest.mark.parametrize("gram", [True, False])
def test_masked_rows_may_be_nan(memory, gram):
    target, auxiliary, mask = problem(19, 4, 4, 2)
    mask[:, 3], mask[:, 4] = False, True
    target[3], auxiliary[:, 3] = math.nan, math.nan
    for result in run(kernels, target, auxiliary, mask, True, gram):
        assert torch.isfinite(result).all()
    assert torch.isnan(run(kernels, target, auxiliary, mask, False, gram)[0]).all()
    auxiliary[0, 4] = math.nan
    loss = run(kernels, target, auxiliary, mask, True, gram)[0]
    assert torch.isnan(loss[0]) and torch.isfinite(loss[1])


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("subset", [False, True])
def test_layouts_poison_and_determinism(memory, gram, subset, monkeypatch):
    target, auxiliary, mask = problem(21, 6, 5, 2)
    want = check(target, auxiliary, mask, subset, gram)
    views = (
        target.t().contiguous().t(),
        torch.stack([auxiliary, torch.full_like(auxiliary, math.nan)], 3)[..., 0],
        mask.t().contiguous().t(),
    )
    before = [view.clone() for view in views]
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # with the setting below torch.empty gives NaN
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    try:
        got = run(kernels, *views, subset, gram)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, want))
    assert all(torch.equal(view, old) for view, old in zip(views, before))


@pytest.mark.parametrize("form", FORMS)
def test_second_order(form):
    target, auxiliary, mask = problem(4, 2, 2, 1, dtype=torch.float64)
    with _select.force("triton"):
        leaves = target.requires_grad_(), auxiliary.requires_grad_()

        def loss(target, auxiliary):
            return similarity_preserving(target, auxiliary, mask, "batch", form)

        assert torch.autograd.gradgradcheck(loss, leaves)


def test_states_are_never_mistaken():
    for size, width, branches in [(5, 3, 2), (16, 4, 3), (72, 64, 8)]:
        target, auxiliary, _ = problem(size, width, width, branches)
        for subset in (False, True):
            gram, factored = (kernels.state_size(target, auxiliary, subset, form) for form in (True, False))
            assert gram % 2 == 0 and (factored == 0 or factored % 2 == 1)


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("scale", [1e-12, 1e10, 1e15])
def test_squares_of_gram_entries_neither_overflow_nor_vanish(scale, subset):
    target, auxiliary, mask = problem(20, 6, 6, 2)
    target, auxiliary = scale * target, scale * auxiliary
    got = run(kernels, target, auxiliary, mask, subset, True)
    want = run(eager, target.double(), auxiliary.double(), mask, subset, True)
    for mine, theirs in zip(got, want):
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=5e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("subset", [False, True])
def test_equal_features_are_exactly_equal(subset):
    target, _, mask = problem(35, 7, 7, 3)
    results = run(kernels, target, target.expand(3, -1, -1), mask, subset, True)
    assert all((part == 0).all() for part in results)


def test_equal_products_cancel_when_compiled():
    """A fused multiply-add would leave the rounding of one product; the interpreter has none, so the option is read."""
    compiled = {item.name: item.options["enable_fp_fusion"] for item in kernels.specimens() if "gram" in item.name}
    assert compiled and not any(compiled.values())
