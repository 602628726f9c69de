"""Rank regularisation against a loop, and the batches for which the released code has no number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ferkit.functional as ff


def by_loops(confidence, share, margin):
    ordered = sorted(confidence, reverse=True)
    upper = min(max(int(share * len(ordered) + 1e-9), 1), len(ordered) - 1)
    high, low = ordered[:upper], ordered[upper:]
    return max(0.0, margin - (sum(high) / len(high) - sum(low) / len(low)))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.sampled_from([0.1, 0.5, 0.7, 0.9]), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_values(confidence, share, margin):
    value = ff.rank_regularization(torch.tensor(confidence, dtype=torch.float64), share, margin)
    assert float(value) == pytest.approx(by_loops(confidence, share, margin), abs=1e-12)


def test_gradient_pushes_the_parts_apart():
    confidence = torch.tensor([[0.5], [0.6], [0.55], [0.52]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda c: ff.rank_regularization(c, 0.5), (confidence,))
    ff.rank_regularization(confidence, 0.5).backward()
    assert confidence.grad[:, 0].tolist() == [0.5, -0.5, -0.5, 0.5]


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_to_rank_is_a_connected_zero(size):
    confidence = torch.rand(size, requires_grad=True)
    value = ff.rank_regularization(confidence)
    value.backward()
    assert value == 0
    assert torch.equal(confidence.grad, torch.zeros(size))


def test_a_weight_of_0_equals_removal(close):
    confidence = torch.rand(9, dtype=torch.float64)
    weight = torch.ones(9, dtype=torch.float64)
    weight[[0, 5]] = 0
    kept = confidence[weight != 0]
    poisoned = torch.where(weight == 0, torch.nan, confidence).requires_grad_()
    value = ff.rank_regularization(poisoned, margin=1.0, sample_weight=weight)
    close(value, ff.rank_regularization(kept, margin=1.0))
    value.backward()
    assert poisoned.grad[[0, 5]].tolist() == [0, 0]
    only = torch.where(torch.arange(9) == 3, 1.0, 0.0)
    assert ff.rank_regularization(confidence, sample_weight=only) == 0


def test_weights_weigh_within_the_parts(close):
    confidence, weight = torch.tensor([[0.9, 0.5, 0.2, 0.1], [1.0, 3.0, 1.0, 3.0]], dtype=torch.float64)
    expected = 1.0 - ((0.9 + 1.5) / 4 - (0.2 + 0.3) / 4)
    close(ff.rank_regularization(confidence, 0.5, 1.0, weight), expected)


def test_precision_compile_and_nan(close):
    assert ff.rank_regularization(torch.rand(8).half()).dtype == torch.float32
    assert ff.rank_regularization(torch.tensor([0.5, torch.nan, 0.1])).isnan()
    torch._dynamo.reset()
    compiled = torch.compile(ff.rank_regularization, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (11, 17):
        confidence = torch.rand(size, dtype=torch.float64)
        with torch._dynamo.config.patch(error_on_recompile=size > 11):
            close(compiled(confidence, margin=1.0), ff.rank_regularization(confidence, margin=1.0))


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"share": 0.0}, ValueError, "share: expected a value in"),
        ({"share": 1.0}, ValueError, r"share: expected a value in \(0, 1\), got 1.0"),
        ({"margin": -0.1}, ValueError, "margin: expected a value in"),
        ({"confidence": torch.rand(3, 2)}, ValueError, r"confidence: expected shape \(N,\), got \(3, 2\)"),
        ({"confidence": torch.arange(3)}, TypeError, "confidence: expected a floating-point tensor"),
    ],
)
def test_refused(options, error, message):
    with pytest.raises(error, match=message):
        ff.rank_regularization(**{"confidence": torch.rand(4), **options})
