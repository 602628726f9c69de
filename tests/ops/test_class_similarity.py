"""class_similarity against a loop in float64, and its promises."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from ferkit.ops import class_similarity

GOLDENS = Path(__file__).parent.parent / "goldens"
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def oracle(features, labels, num_classes, include_self=True):
    """Mean and variance of the cosines, one pair at a time."""
    rows, labels = features.double().tolist(), labels.tolist()
    size = len(rows)
    mean, variance = torch.zeros(size, num_classes).double(), torch.zeros(size, num_classes).double()
    for a in range(size):
        for j in range(num_classes):
            cosines = []
            for i in range(size):
                if labels[i] != j or labels[a] < 0 or (i == a and not include_self):
                    continue
                norms = math.hypot(*rows[a]) * math.hypot(*rows[i])
                cosines.append(sum(x * y for x, y in zip(rows[a], rows[i])) / norms if norms > 0 else 0.0)
            if cosines:
                mean[a, j] = sum(cosines) / len(cosines)
                variance[a, j] = sum((c - float(mean[a, j])) ** 2 for c in cosines) / len(cosines)
    return mean, variance


def problem(size, width, num_classes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, width, generator=generator, dtype=torch.float64).to(dtype)
    return features, torch.randint(-1, num_classes, (size,), generator=generator)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize(
    ("size", "width", "classes"), [(0, 4, 3), (1, 4, 3), (2, 1, 1), (13, 5, 4), (9, 70, 11), (40, 3, 2)]
)
def test_matches_the_loop(backend, size, width, classes, include_self):
    features, labels = problem(size, width, classes)
    mean, counts, variance = class_similarity(features, labels, classes, include_self, variance=True)
    want_mean, want_variance = oracle(features, labels, classes, include_self)
    torch.testing.assert_close(mean, want_mean, atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(variance, want_variance, atol=1e-13, rtol=1e-12)
    assert counts.tolist() == [(labels == j).sum() for j in range(classes)]
    narrow, *_ = class_similarity(features.float(), labels, classes, include_self)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), want_mean, atol=8 * 1.2e-7 * (1 + math.log2(width * size + 2)), rtol=0)


@pytest.mark.parametrize("include_self", [True, False])
def test_goldens(backend, include_self):
    data = np.load(GOLDENS / "dmue_class_cosine.npz")
    name = "include_self" if include_self else "exclude_self"
    features = torch.from_numpy(data["features"]).requires_grad_()
    mean, *_ = class_similarity(features, torch.from_numpy(data["labels"]), int(data["num_classes"]), include_self)
    mean.backward(torch.from_numpy(data["upstream"]))
    np.testing.assert_allclose(mean.detach(), data[f"S_raw_{name}"], atol=1e-9, rtol=1e-9)
    np.testing.assert_allclose(features.grad, data[f"grad_raw_{name}"], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("size", [1, 7, 14])
def test_gradients(backend, size, include_self):
    features, labels = problem(size, 3, 4, seed=size)
    features.requires_grad_()

    def mean(features):
        return class_similarity(features, labels, 4, include_self)[0]

    def spread(features):
        return class_similarity(features, labels, 4, include_self, variance=True)[2]

    assert gradcheck(mean, features) and gradgradcheck(mean, features)
    assert gradcheck(spread, features) and gradgradcheck(spread, features)


def test_opcheck(backend):
    features, labels = problem(7, 5, 4, dtype=torch.float32)
    opcheck(torch.ops.ferkit.class_similarity.default, (features.requires_grad_(), labels, 4, True))
    _, _, sums, inverse = torch.ops.ferkit.class_similarity(features.detach(), labels, 4, True)
    arguments = (torch.randn(7, 4), features, labels, sums, inverse, 4, True)
    opcheck(torch.ops.ferkit.class_similarity_backward.default, arguments)


def test_saved_outputs_claim_no_gradient(backend):
    features, labels = problem(7, 5, 4)
    outputs = torch.ops.ferkit.class_similarity(features.requires_grad_(), labels, 4, True)
    assert [output.requires_grad for output in outputs] == [True, False, False, False]
    assert not class_similarity(features, labels, 4)[1].requires_grad


@QUICK
@given(st.integers(0, 30), st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(0, 10**6))
def test_promises(backend, size, width, classes, include_self, seed):
    features, labels = problem(size, width, classes, seed)
    mean, counts, variance = class_similarity(features, labels, classes, include_self, True)
    assert (mean.abs() <= 1 + 1e-12).all() and (variance >= 0).all() and (variance <= 1 + 1e-12).all()
    assert (mean[labels < 0] == 0).all() and (mean[:, counts == 0] == 0).all()
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    permuted, *_ = class_similarity(features[order], labels[order], classes, include_self)
    torch.testing.assert_close(permuted, mean[order])
    scaled, *_ = class_similarity(features * torch.rand(size, 1).double().add(0.1) * 50, labels, classes, include_self)
    torch.testing.assert_close(scaled, mean)
    relabel = torch.randperm(classes, generator=torch.Generator().manual_seed(seed + 1))
    renamed = torch.where(labels < 0, labels, relabel[labels.clamp_min(0)]) if classes else labels
    other, *_ = class_similarity(features, renamed, classes, include_self)
    torch.testing.assert_close(other[:, relabel], mean)
    keep = labels >= 0
    alone, *_ = class_similarity(features[keep], labels[keep], classes, include_self)
    torch.testing.assert_close(alone, mean[keep])


def test_zero_rows_and_nan(backend):
    features, labels = problem(9, 6, 3, seed=3, dtype=torch.float32)
    labels[:] = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 1])
    features[1] = 0
    features[6] = math.nan  # unlabelled: takes part in nothing
    features.requires_grad_()
    mean, *_ = class_similarity(features, labels, 3)
    mean.sum().backward()
    assert torch.isfinite(mean).all() and torch.isfinite(features.grad).all()
    assert (mean[1] == 0).all() and (features.grad[[1, 6]] == 0).all()
    poisoned = features.detach().clone()
    poisoned[2] = math.nan
    mean, *_ = class_similarity(poisoned, labels, 3)
    assert torch.isnan(mean[2]).all() and torch.isnan(mean[labels >= 0, 2]).all()
    if backend == "native":  # a matrix product (eager, as in the textbook) spreads NaN over all classes
        assert torch.isfinite(mean[0, :2]).all()


def test_extreme_lengths(backend):
    features, labels = problem(8, 6, 3, seed=5, dtype=torch.float32)
    want, *_ = class_similarity(features, labels, 3)
    huge, *_ = class_similarity(features * 1e25, labels, 3)
    torch.testing.assert_close(huge, want)


def test_layouts_and_inputs_untouched(backend, poisoned):
    base, labels = problem(12, 20, 4, seed=2, dtype=torch.float32)
    want, *_ = class_similarity(base.clone(), labels, 4)
    wide = torch.full((12, 41), math.nan)
    wide[:, 1::2] = base
    spaced = torch.stack([labels, labels + 7], 1)[:, 0]
    for view in (wide[:, 1::2], base.t().contiguous().t(), torch.cat([torch.zeros(1, 20), base])[1:]):
        leaf = view.detach().requires_grad_()
        before = view.clone()
        got, *_ = class_similarity(leaf, spaced, 4)
        got.sum().backward()
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)  # BLAS rounds by layout
        assert torch.equal(view, before) and leaf.grad.shape == base.shape and torch.isfinite(leaf.grad).all()
    row = base[:1].expand(12, 20)
    torch.testing.assert_close(class_similarity(row, labels, 4)[0], class_similarity(row.contiguous(), labels, 4)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(backend, dtype):
    features, labels = problem(40, 32, 5, seed=7, dtype=dtype)
    exact, _ = oracle(features, labels, 5)
    unit = torch.nn.functional.normalize(features)
    member = (labels[:, None] == torch.arange(5)).to(dtype)
    plain = (unit @ unit.T @ member / member.sum(0)).double()
    known = labels >= 0
    mean, *_ = class_similarity(features, labels, 5)
    assert mean.dtype == dtype
    own, theirs = ((value.double() - exact)[known].abs().max() for value in (mean, plain))
    assert own <= 2 * theirs
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under, *_ = class_similarity(features, labels, 5)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under.double(), exact, atol=1e-5, rtol=0)


def test_deterministic(backend):
    features, labels = problem(1500, 30, 6, seed=9, dtype=torch.float32)
    runs = []
    for _ in range(20):
        leaf = features.clone().requires_grad_()
        mean, *_ = class_similarity(leaf, labels, 6)
        mean.square().sum().backward()
        runs.append((mean.detach(), leaf.grad))
    assert all(torch.equal(mean, runs[0][0]) and torch.equal(grad, runs[0][1]) for mean, grad in runs)


@pytest.mark.parametrize("bad", [4, -2])
def test_label_range(backend, bad):
    features, labels = problem(5, 3, 4)
    labels[2] = bad
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.3 or -1 \(unlabelled\), got"):
        class_similarity(features, labels, 4)


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15, 1e18])
def test_gradient_is_at_right_angles_to_rows_of_any_length(scale):
    generator = torch.Generator().manual_seed(0)
    features = (torch.randn(12, 20, generator=generator) * scale).requires_grad_()
    upstream = torch.randn(12, 3, generator=generator)
    class_similarity(features, torch.arange(12) % 3, 3)[0].backward(upstream)
    wide = features.detach().double().requires_grad_()
    class_similarity(wide, torch.arange(12) % 3, 3)[0].backward(upstream.double())
    torch.testing.assert_close(features.grad.double() * scale, wide.grad * scale, rtol=1e-4, atol=1e-6)
