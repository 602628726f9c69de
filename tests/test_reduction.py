"""None, mean and sum, with weights and without, and what takes no part."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ferkit.reduction import combine_weights, reduce, safe_divide

FLOATS = st.floats(-1e3, 1e3)


@given(rows=st.lists(st.tuples(FLOATS, st.sampled_from([0.0, 0.5, 1.0, 3.0])), max_size=8))
def test_equals_the_loops(rows):
    values = torch.tensor([value for value, _ in rows], dtype=torch.float64)
    weight = torch.tensor([part for _, part in rows], dtype=torch.float64)
    total, parts = sum(value * part for value, part in rows), sum(part for _, part in rows)
    assert reduce(values, "none", weight).tolist() == [value * part for value, part in rows]
    assert reduce(values, "sum", weight).item() == pytest.approx(total)
    assert reduce(values, "mean", weight).item() == pytest.approx(total / parts if parts else 0.0)
    assert reduce(values, "mean").item() == pytest.approx(sum(v for v, _ in rows) / max(len(rows), 1))
    assert reduce(values, "none") is values


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_weight_zero_hides_nan_from_value_and_gradient(reduction):
    values = torch.tensor([1.0, torch.nan, 3.0], requires_grad=True)
    result = reduce(values, reduction, torch.tensor([1.0, 0.0, 1.0])).sum()
    assert result.item() == (2.0 if reduction == "mean" else 4.0)
    (gradient,) = torch.autograd.grad(result, values)
    assert gradient.tolist() == ([0.5, 0.0, 0.5] if reduction == "mean" else [1.0, 0.0, 1.0])


def test_nan_of_a_sample_that_counts_is_shown():
    assert reduce(torch.tensor([1.0, torch.nan]), "mean", torch.ones(2)).isnan()


@pytest.mark.parametrize("weight", [None, torch.zeros(0)])
def test_empty_set_is_a_connected_zero(weight):
    values = torch.zeros(0, requires_grad=True)
    for reduction in ("mean", "sum"):
        result = reduce(values, reduction, weight)
        assert result.item() == 0
        assert torch.autograd.grad(result, values)[0].shape == (0,)


def test_no_weight_left_is_a_connected_zero():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    result = reduce(values, "mean", torch.zeros(2))
    assert result.item() == 0
    assert torch.autograd.grad(result, values)[0].tolist() == [0.0, 0.0]


def test_unknown_reduction():
    with pytest.raises(ValueError, match="reduction: expected one of 'none', 'mean', 'sum', got 'avg'"):
        reduce(torch.zeros(1), "avg")


def test_safe_divide():
    top = torch.tensor([1.0, 2.0], requires_grad=True)
    bottom = torch.tensor([0.0, 4.0], requires_grad=True)
    result = safe_divide(top, bottom)
    assert result.tolist() == [0.0, 0.5]
    gradients = torch.autograd.grad(result.sum(), (top, bottom))
    assert gradients[0].tolist() == [0.0, 0.25]
    assert gradients[1].tolist() == [0.0, -0.125]


def test_weights_combine():
    labels, like = torch.tensor([0, 1, -1]), torch.zeros(1, dtype=torch.float64)
    sample, by_class = torch.tensor([1.0, 2.0, torch.nan]), torch.tensor([3.0, 0.5])
    assert combine_weights(labels, 3, like).tolist() == [1.0, 1.0, 0.0]
    assert combine_weights(labels, 3, like, sample).tolist() == [1.0, 2.0, 0.0]
    assert combine_weights(labels, 3, like, sample.unsqueeze(1), by_class).tolist() == [3.0, 1.0, 0.0]
    assert combine_weights(labels, 3, like, None, by_class, 2).dtype == torch.float64
    assert combine_weights(labels.clamp_min(0), 3, like, complete=True) is None
    assert combine_weights(None, 3, like) is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"sample_weight": torch.ones(2)}, r"sample_weight: expected shape \(3,\), got \(2,\)"),
        ({"class_weight": torch.ones(5), "num_classes": 2}, r"class_weight: expected shape \(2,\), got \(5,\)"),
        ({"class_weight": torch.ones(2, 2)}, r"class_weight: expected shape \(C,\), got \(2, 2\)"),
        ({"class_weight": torch.ones(2), "labels": None}, "class_weight: expected labels beside it, got None"),
        ({"sample_weight": torch.ones(3, device="meta")}, "sample_weight: expected device cpu, got meta"),
    ],
)
def test_weights_refused(arguments, message):
    arguments = {"labels": torch.tensor([0, 1, -1]), "size": 3, "like": torch.zeros(1), **arguments}
    with pytest.raises(ValueError, match=message):
        combine_weights(**arguments)
