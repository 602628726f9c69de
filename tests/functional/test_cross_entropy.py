"""Both cross-entropies by loops, class weights, relabelling, branches without samples."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.functional import auxiliary_cross_entropy, weighted_logit_cross_entropy


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def entropy(row, label):
    top = max(row)
    return top + math.log(sum(math.exp(value - top) for value in row)) - row[label]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(1, 9), classes=st.integers(1, 6), scale=st.floats(0.01, 300))
def test_weighted_logits_equal_the_loops(seed, size, classes, scale):
    generator = generator_of(seed)
    logits = scale * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    confidence = torch.rand(size, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, classes, (size,), generator=generator)
    weight = torch.rand(size, generator=generator, dtype=torch.float64)
    by_class = torch.rand(classes, generator=generator, dtype=torch.float64)
    values, total = [], 0.0
    for n in range(size):
        if labels[n] < 0:
            values.append(0.0)
            continue
        row = [float(confidence[n]) * value for value in logits[n].tolist()]
        w = float(weight[n] * by_class[labels[n]])
        values.append(w * entropy(row, int(labels[n])))
        total += w
    expected = torch.tensor(values, dtype=torch.float64)
    actual = weighted_logit_cross_entropy(logits, confidence, labels, weight, by_class, "none")
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    mean = weighted_logit_cross_entropy(logits, confidence, labels, weight, by_class)
    torch.testing.assert_close(mean, expected.sum() / max(total, 1e-300), rtol=1e-9, atol=1e-12)


def test_class_weights_are_those_of_pytorch():
    generator = generator_of(0)
    logits = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, -1, 0, 1, -1, 3])
    by_class = torch.tensor([0.5, 1.0, 0.0, 3.0], dtype=torch.float64)
    expected = F.cross_entropy(logits, labels, by_class, ignore_index=-1)
    actual = weighted_logit_cross_entropy(logits, logits.new_ones(9), labels, class_weight=by_class)
    torch.testing.assert_close(actual, expected)


def test_huge_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = weighted_logit_cross_entropy(logits, torch.ones(1), torch.tensor([1]))
    assert value.item() == 2e4
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def full_form(logits, labels):
    """C-wide logits of every branch with its own column at -inf."""
    classes, size, _ = logits.shape
    wide = logits.new_full((classes, size, classes), -torch.inf)
    for branch in range(classes):
        wide[branch][:, [k for k in range(classes) if k != branch]] = logits[branch]
    return wide


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(1, 9), classes=st.integers(2, 5))
def test_auxiliary_equals_the_loops(seed, size, classes):
    generator = generator_of(seed)
    logits = torch.randn(classes, size, classes - 1, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, classes, (size,), generator=generator)
    weight = torch.rand(size, generator=generator, dtype=torch.float64) + 0.01
    by_class = torch.rand(classes, generator=generator, dtype=torch.float64) + 0.01
    values = torch.zeros(classes, size, dtype=torch.float64)
    shares = torch.zeros(classes, size, dtype=torch.float64)
    for branch in range(classes):
        for n in range(size):
            label = int(labels[n])
            if label in (branch, -1):
                continue
            row = logits[branch, n].tolist()
            row.insert(branch, -math.inf)
            shares[branch, n] = weight[n] * by_class[label]
            values[branch, n] = entropy(row, label)
    means = [(v * w).sum() / w.sum() if w.sum() > 0 else torch.tensor(0.0) for v, w in zip(values, shares)]
    actual = auxiliary_cross_entropy(logits, labels, weight, by_class)
    torch.testing.assert_close(actual, torch.stack([m.double() for m in means]).mean(), rtol=1e-9, atol=1e-12)
    per_sample = (values * shares).sum(0) / (classes - 1)
    actual = auxiliary_cross_entropy(logits, labels, weight, by_class, "none")
    torch.testing.assert_close(actual, per_sample, rtol=1e-9, atol=1e-12)
    actual = auxiliary_cross_entropy(logits, labels, weight, by_class, "sum")
    torch.testing.assert_close(actual, per_sample.sum(), rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_names_of_classes_do_not_matter(seed):
    generator = generator_of(seed)
    logits = torch.randn(4, 7, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 4, (7,), generator=generator)
    names = torch.randperm(4, generator=generator)
    moved = torch.empty(4, 7, 4, dtype=torch.float64)
    renamed = torch.where(labels < 0, labels, names[labels.clamp_min(0)])
    wide = full_form(logits, labels)
    for branch in range(4):
        moved[names[branch]][:, names] = wide[branch]
    narrow = torch.stack([moved[b][:, [k for k in range(4) if k != b]] for b in range(4)])
    expected = auxiliary_cross_entropy(logits, labels)
    torch.testing.assert_close(auxiliary_cross_entropy(narrow, renamed), expected)


def test_a_branch_without_samples_counts_as_zero():
    logits = torch.zeros(3, 4, 2, dtype=torch.float64, requires_grad=True)
    value = auxiliary_cross_entropy(logits, torch.full((4,), 1))
    assert value.item() == pytest.approx(2 / 3 * math.log(2))
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.equal(gradient[1], torch.zeros(4, 2, dtype=torch.float64))
    assert (gradient[[0, 2]] != 0).all()


def test_the_own_branch_of_a_sample_is_ignored():
    logits = torch.randn(3, 5, 2, generator=generator_of(1))
    labels = torch.tensor([0, 1, 2, 1, 0])
    poisoned = logits.clone()
    poisoned[labels, torch.arange(5)] = torch.nan
    poisoned.requires_grad_()
    value = auxiliary_cross_entropy(poisoned, labels)
    torch.testing.assert_close(value, auxiliary_cross_entropy(logits, labels))
    assert torch.autograd.grad(value, poisoned)[0].isfinite().all()


def test_negative_weights_are_refused():
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="sample_weight: expected values of 0 or more, got -1"):
        weighted_logit_cross_entropy(logits, torch.ones(2), labels, sample_weight=torch.tensor([-1.0, 1.0]))
