"""similarity_preserving against a loop in float64, both forms, and its promises."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from ferkit.ops import _select, similarity_preserving

GOLDENS = Path(__file__).parent.parent / "goldens"
QUICK = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FORMS = ["gram", "factored"]
NORMS = ["batch", "subset"]


def normalised(rows, inner):
    result = []
    for q in rows:
        products = [sum(x * y for x, y in zip(q, p)) for p in rows]
        norm = math.sqrt(sum(v * g * g for v, g in zip(inner, products)))
        result.append([g / norm if norm > 0 else 0.0 for g in products])
    return result


def oracle(target, auxiliary, mask, normalize):
    """One entry of the two normalised Gram matrices at a time."""
    losses, size = [], len(target)
    for branch, weight in zip(auxiliary.double().tolist(), mask.double().tolist()):
        inner = weight if normalize == "subset" else [1.0] * size
        a_t, a_i = normalised(target.double().tolist(), inner), normalised(branch, inner)
        total = sum(
            weight[q] * weight[p] * (a_t[q][p] - a_i[q][p]) ** 2 for q in range(size) for p in range(size) if weight[q]
        )
        losses.append(total / sum(weight) ** 2 if sum(weight) > 0 else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


def problem(size, target_width, branch_width, branches, seed=0, dtype=torch.float64, fractional=False):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(size, target_width, generator=generator, dtype=torch.float64).to(dtype)
    auxiliary = torch.randn(branches, size, branch_width, generator=generator, dtype=torch.float64).to(dtype)
    draw = torch.rand(branches, size, generator=generator, dtype=torch.float64)
    mask = torch.where(draw > 0.3, draw, 0).to(dtype) if fractional else draw > 0.3
    return target, auxiliary, mask


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize(
    "sizes", [(0, 3, 3, 2), (1, 3, 3, 2), (7, 3, 5, 1), (13, 9, 2, 3), (21, 4, 4, 2), (70, 17, 17, 2)]
)
def test_matches_the_loop(backend, form, normalize, sizes):
    for fractional in (False, True):
        target, auxiliary, mask = problem(*sizes, fractional=fractional)
        want = oracle(target, auxiliary, mask, normalize)
        got = similarity_preserving(target, auxiliary, mask, normalize, form)
        torch.testing.assert_close(got, want, atol=1e-14, rtol=1e-10)
        narrow = similarity_preserving(target.float(), auxiliary.float(), mask, normalize, form)
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), want, atol=1e-7, rtol=2e-5)


@pytest.mark.parametrize("form", [*FORMS, "auto"])
@pytest.mark.parametrize(("normalize", "name"), [("batch", "paper"), ("subset", "released")])
def test_goldens(backend, form, normalize, name):
    data = np.load(GOLDENS / "dmue_sp_b.npz")
    target = torch.from_numpy(data["f_tar"]).requires_grad_()
    auxiliary = torch.from_numpy(data["f_aux"]).requires_grad_()
    mask = torch.from_numpy(data["labels"])[None] != torch.arange(8)[:, None]
    loss = similarity_preserving(target, auxiliary, mask, normalize, form)
    loss.mean().backward()
    np.testing.assert_allclose(loss.mean().item(), data[f"loss_{name}"], atol=1e-9, rtol=1e-9)
    np.testing.assert_allclose(target.grad, data[f"grad_f_tar_{name}"], atol=1e-12, rtol=1e-7)
    np.testing.assert_allclose(auxiliary.grad, data[f"grad_f_aux_{name}"], atol=1e-12, rtol=1e-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize("fractional", [False, True])
def test_gradients(backend, form, normalize, fractional):
    target, auxiliary, mask = problem(6, 3, 2, 2, seed=1, fractional=fractional)
    inputs = (target.requires_grad_(), auxiliary.requires_grad_())

    def loss(target, auxiliary):
        return similarity_preserving(target, auxiliary, mask, normalize, form)

    assert gradcheck(loss, inputs) and gradgradcheck(loss, inputs)


@pytest.mark.parametrize("form", [1, 2, 0])
def test_opcheck(backend, form):
    target, auxiliary, mask = problem(7, 5, 4, 3, dtype=torch.float32)
    kernel = _select.kernel("similarity_preserving", "cpu", torch.float32)
    kept = kernel.state_size(target, auxiliary, False, form != 2)
    leaves = (target.requires_grad_(), auxiliary.requires_grad_())
    forward = torch.ops.ferkit.similarity_preserving.default
    utils = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    for room in {0, kept}:
        # A traced graph never keeps the state, and tracing the second order is what takes seconds.
        checks = utils if room == 0 else utils[:3]
        opcheck(forward, (*leaves, mask, False, form, room), test_utils=checks)
        state = forward(*leaves, mask, False, form, room)[1]
        assert not state.requires_grad
        arguments = (torch.randn(3), *leaves, mask, state, False, form)
        opcheck(torch.ops.ferkit.similarity_preserving_backward.default, arguments, test_utils=checks)


def test_backward_without_the_state(backend):
    target, auxiliary, mask = problem(11, 5, 4, 3, dtype=torch.float32)
    kernel = _select.kernel("similarity_preserving", "cpu", torch.float32)
    for form in (1, 2):
        for subset in (False, True):
            kept = kernel.state_size(target, auxiliary, subset, form == 1)
            runs = []
            for room in (0, kept):
                state = torch.ops.ferkit.similarity_preserving(target, auxiliary, mask, subset, form, room)[1]
                backward = torch.ops.ferkit.similarity_preserving_backward
                runs.append(backward(torch.ones(3), target, auxiliary, mask, state, subset, form))
            for first, second in zip(*runs):
                assert torch.equal(first, second)


@pytest.mark.parametrize("length", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("normalize", NORMS)
def test_branches_of_any_length(backend, normalize, length):
    target, auxiliary, mask = problem(9, 5, 3, 2, seed=4)
    runs = []
    for form in FORMS:
        inputs = target.clone().requires_grad_(), (length * auxiliary).requires_grad_()
        value = similarity_preserving(*inputs, mask, normalize, form)
        value.sum().backward()
        runs.append((value.detach(), inputs[0].grad, length * inputs[1].grad))
    torch.testing.assert_close(*runs, atol=1e-13, rtol=1e-9)


@QUICK
@given(st.integers(1, 25), st.integers(1, 6), st.integers(1, 6), st.sampled_from(NORMS), st.integers(0, 10**6))
@example(1, 3, 1, "batch", 3)  # two rows of one number each, one 17 times the other
def test_promises(backend, size, target_width, branch_width, normalize, seed):
    target, auxiliary, mask = problem(size, target_width, branch_width, 2, seed)
    gram, factored = (similarity_preserving(target, auxiliary, mask, normalize, form) for form in FORMS)
    torch.testing.assert_close(gram, factored, atol=1e-13, rtol=1e-9)
    assert (gram >= 0).all() and (factored >= 0).all()
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    permuted = similarity_preserving(target[order], auxiliary[:, order], mask[:, order], normalize)
    torch.testing.assert_close(permuted, gram, atol=1e-13, rtol=1e-9)
    scaled = similarity_preserving(7 * target, 0.2 * auxiliary, mask, normalize)
    torch.testing.assert_close(scaled, gram, atol=1e-13, rtol=1e-9)
    if normalize == "subset":  # a masked row might as well not be there
        keep = mask[0]
        alone = similarity_preserving(target[keep], auxiliary[:1, keep], mask[:1, keep], normalize)
        torch.testing.assert_close(alone[0], gram[0], atol=1e-13, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", NORMS)
def test_zero_rows_and_empty_branches(backend, form, normalize):
    target, auxiliary, mask = problem(9, 4, 4, 3, dtype=torch.float32)
    target[2], auxiliary[:, 2], mask[1] = 0, 0, False
    leaves = (target.requires_grad_(), auxiliary.requires_grad_())
    loss = similarity_preserving(*leaves, mask, normalize, form)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and loss[1] == 0
    assert torch.isfinite(target.grad).all() and torch.isfinite(auxiliary.grad).all()
    assert (target.grad[2] == 0).all() and (auxiliary.grad[:, 2] == 0).all() and (auxiliary.grad[1] == 0).all()
    nothing = similarity_preserving(target, auxiliary[:0], mask[:0], normalize, form)
    assert nothing.shape == (0,)


@pytest.mark.parametrize("form", FORMS)
def test_nan(backend, form):
    target, auxiliary, mask = problem(9, 4, 4, 2, dtype=torch.float32)
    mask[:, 3], mask[:, 4] = False, True
    target[3], auxiliary[:, 3] = math.nan, math.nan
    leaves = (target.requires_grad_(), auxiliary.requires_grad_())
    loss = similarity_preserving(*leaves, mask, "subset", form)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(target.grad).all() and torch.isfinite(auxiliary.grad).all()
    assert torch.isnan(similarity_preserving(target, auxiliary, mask, "batch", form)).all()
    with torch.no_grad():
        auxiliary[0, 4] = math.nan
    loss = similarity_preserving(target, auxiliary, mask, "subset", form)
    assert torch.isnan(loss[0]) and torch.isfinite(loss[1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", NORMS)
def test_layouts_and_inputs_untouched(backend, poisoned, form, normalize):
    target, auxiliary, mask = problem(13, 6, 5, 3, seed=3, dtype=torch.float32)
    want = similarity_preserving(target.clone(), auxiliary.clone(), mask.clone(), normalize, form)
    views = (
        target.t().contiguous().t(),
        torch.stack([auxiliary, torch.full_like(auxiliary, math.nan)], 3)[..., 0],
        mask.t().contiguous().t(),
    )
    before = [view.clone() for view in views]
    leaves = [view.detach().requires_grad_() for view in views[:2]]
    got = similarity_preserving(*leaves, views[2], normalize, form)
    got.sum().backward()
    torch.testing.assert_close(got, want)
    assert all(torch.equal(view.nan_to_num(7.0), old.nan_to_num(7.0)) for view, old in zip(views, before))
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(backend, form, dtype):
    target, auxiliary, mask = problem(30, 12, 12, 2, seed=5, dtype=dtype)
    exact = oracle(target, auxiliary, mask, "batch")
    gram_t, gram = target @ target.T, auxiliary @ auxiliary.mT
    a_t, a = gram_t / gram_t.norm(dim=1, keepdim=True), gram / gram.norm(dim=2, keepdim=True)
    keep = mask.to(dtype)
    plain = (((keep[:, :, None] * keep[:, None] * (a_t - a)) ** 2).sum((1, 2)) / keep.sum(1) ** 2).double()
    loss = similarity_preserving(target, auxiliary, mask, form=form)
    assert loss.dtype == dtype
    assert (loss.double() - exact).abs().max() <= 2 * (plain - exact).abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = similarity_preserving(target, auxiliary, mask, form=form)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under.double(), exact, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_deterministic(backend, form):
    target, auxiliary, mask = problem(1030 if form == "factored" else 40, 4, 4, 1, dtype=torch.float32)
    runs = []
    for _ in range(20):
        leaves = target.clone().requires_grad_(), auxiliary.clone().requires_grad_()
        loss = similarity_preserving(*leaves, mask, form=form)
        loss.sum().backward()
        runs.append((loss.detach(), leaves[0].grad, leaves[1].grad))
    assert all(torch.equal(one, first) for run in runs for one, first in zip(run, runs[0]))


def test_arguments(backend):
    arguments = problem(5, 3, 3, 2)
    with pytest.raises(ValueError, match="normalize: expected one of 'batch', 'subset', got 'rows'"):
        similarity_preserving(*arguments, normalize="rows")
    with pytest.raises(ValueError, match="form: expected one of"):
        similarity_preserving(*arguments, form="fast")
