"""class_similarity: by loops, gradients, classes absent and alone, scaling, relabelling, min-max."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from ferkit.functional import class_similarity


def batch(size, classes, seed=0, width=5, unlabelled=True):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1 if unlabelled else 0, classes, (size,), generator=generator)
    return features, labels


def by_loops(features, labels, classes, include_self, scale):
    """Equation 7 pair by pair."""
    rows, labels = features.tolist(), labels.tolist()
    norms = [math.sqrt(sum(x * x for x in row)) for row in rows]
    mean = torch.zeros(len(rows), classes, dtype=torch.float64)
    variance = torch.zeros_like(mean)
    for a, row in enumerate(rows):
        if labels[a] < 0:
            continue
        filled = []
        for j in range(classes):
            cosines = []
            for i, other in enumerate(rows):
                if labels[i] == j and (include_self or i != a):
                    both = norms[a] * norms[i]
                    cosines.append(sum(x * y for x, y in zip(row, other)) / both if both > 0 else 0.0)
            if cosines:
                filled.append(j)
                mean[a, j] = sum(cosines) / len(cosines)
                variance[a, j] = sum((c - mean[a, j]) ** 2 for c in cosines) / len(cosines)
        if scale == "minmax" and filled:
            own = [float(mean[a, j]) for j in filled]
            low, high = min(own), max(own)
            for j in filled:
                mean[a, j] = (mean[a, j] - low) / (high - low) if high > low else 0.0
    return mean, variance


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(0, 10),
    classes=st.integers(1, 6),
    include_self=st.booleans(),
    scale=st.sampled_from(["none", "minmax"]),
)
def test_equals_the_loops(seed, size, classes, include_self, scale):
    features, labels = batch(size, classes, seed)
    if size > 2:
        features[2] = 0
    value, counts, variance = class_similarity(features, labels, classes, include_self, True, True, scale)
    expected, expected_variance = by_loops(features, labels, classes, include_self, scale)
    torch.testing.assert_close(counts, torch.stack([(labels == j).sum() for j in range(classes)]).double())
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(variance, expected_variance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("scale", ["none", "minmax"])
def test_gradients(include_self, scale):
    features, _ = batch(8, 4)
    labels = torch.tensor([0, 0, 1, 1, 2, 0, -1, 1])  # class 2 alone, class 3 absent
    features.requires_grad_()

    def function(values):
        mean, variance = class_similarity(values, labels, 4, include_self, return_variance=True, scale=scale)
        return mean, variance

    assert gradcheck(function, features)
    assert gradgradcheck(function, features)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.sampled_from(["none", "minmax"]), include_self=st.booleans())
def test_length_order_and_names_of_classes_do_not_matter(seed, scale, include_self):
    features, labels = batch(9, 4, seed)
    generator = torch.Generator().manual_seed(seed)
    expected = class_similarity(features, labels, 4, include_self, scale=scale)
    lengths = torch.rand(9, 1, generator=generator, dtype=torch.float64) * 100 + 1e-3
    order = torch.randperm(9, generator=generator)
    names = torch.randperm(4, generator=generator)
    renamed = torch.where(labels < 0, labels, names[labels.clamp_min(0)])
    value = class_similarity((features * lengths)[order], renamed[order], 4, include_self, scale=scale)
    torch.testing.assert_close(value[:, names], expected[order], rtol=1e-7, atol=1e-9)


def test_unlabelled_equals_removal():
    features, labels = batch(7, 3, unlabelled=False)
    kept = torch.tensor([0, 2, 3, 6])
    gone = torch.tensor([1, 4, 5])
    expected = class_similarity(features[kept], labels[kept], 3)
    poisoned = features.index_fill(0, gone, torch.nan).requires_grad_()
    value = class_similarity(poisoned, labels.index_fill(0, gone, -1), 3)
    torch.testing.assert_close(value[kept], expected)
    assert torch.equal(value[gone], torch.zeros(3, 3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.square().sum(), poisoned)
    assert torch.equal(gradient[gone], torch.zeros(3, 5, dtype=torch.float64))
    assert (gradient[kept].isfinite()).all() and (gradient[kept] != 0).any()


@pytest.mark.parametrize("scale", ["none", "minmax"])
def test_zero_feature_has_similarity_and_gradient_zero(scale):
    features, labels = batch(6, 3, unlabelled=False)
    features[3] = 0
    features.requires_grad_()
    value = class_similarity(features, labels, 3, scale=scale)
    assert torch.equal(value[3], torch.zeros(3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value.sum(), features)
    assert torch.equal(gradient[3], torch.zeros(5, dtype=torch.float64))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("scale", ["none", "minmax"])
def test_nan_is_not_hidden(scale):
    features, labels = batch(6, 3, unlabelled=False)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    features[3, 1] = torch.nan
    value = class_similarity(features, labels, 3, scale=scale)
    assert value[3].isnan().all()
    assert value[:, 1].isnan().all()


def test_constant_rows_scale_to_zero():
    same = torch.ones(4, 3, requires_grad=True)
    value = class_similarity(same, torch.tensor([0, 0, 1, 1]), 3, scale="minmax")
    assert torch.equal(value, torch.zeros(4, 3))
    (gradient,) = torch.autograd.grad(value.sum(), same)
    assert torch.equal(gradient, torch.zeros(4, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collapsed_features_are_not_stretched_into_noise(dtype):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.rand(70, 1, generator=generator, dtype=dtype) + 0.1
    features = (lengths * torch.randn(64, generator=generator, dtype=dtype)).requires_grad_()
    labels = torch.randint(7, (70,), generator=generator)
    value = class_similarity(features, labels, 7, scale="minmax")
    assert torch.equal(value, torch.zeros(70, 7, dtype=dtype))
    assert torch.equal(torch.autograd.grad(value.sum(), features)[0], torch.zeros_like(features))


def test_minmax_spans_present_classes_only():
    features, _ = batch(6, 5)
    value = class_similarity(features, torch.tensor([0, 0, 1, 1, 2, 2]), 5, scale="minmax")
    assert torch.equal(value[:, 3:], torch.zeros(6, 2, dtype=torch.float64))
    assert torch.equal(value[:, :3].amin(1), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(value[:, :3].amax(1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_float32_results_and_returns_asked_for(dtype):
    features, labels = batch(6, 3)
    features = features.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value = class_similarity(features, labels, 3)
        pair = class_similarity(features, labels, 3, return_counts=True)
    assert isinstance(value, torch.Tensor)
    assert value.dtype == torch.float32
    assert len(pair) == 2
    torch.testing.assert_close(pair[0], value)
    exact = class_similarity(features.double(), labels, 3)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)


def test_compiles_whole_once_for_all_batch_sizes():
    torch._dynamo.reset()

    def function(features, labels):
        return class_similarity(features, labels, 3, return_variance=True, scale="minmax")

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (11, 17, 23):
        features, labels = batch(size, 3, seed=size, width=8)
        features.requires_grad_()
        with torch._dynamo.config.patch(error_on_recompile=size > 11):
            value, variance = compiled(features, labels)
            (gradient,) = torch.autograd.grad(value.square().sum() + variance.sum(), features)
        expected, expected_variance = function(features, labels)
        (wanted,) = torch.autograd.grad(expected.square().sum() + expected_variance.sum(), features)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(variance, expected_variance)
        torch.testing.assert_close(gradient, wanted)
