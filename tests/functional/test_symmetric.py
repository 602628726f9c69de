"""Symmetric cross-entropy: recorded values, and what its second term is."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import ferkit.functional as ff


def test_recorded_values(golden, close):
    data = golden("base_sce")
    logits = data["logits"].clone().requires_grad_()
    alpha, beta = float(data["alpha"]), float(data["beta"])
    options = {"form": "released", "reduction": "none"}
    close(ff.symmetric_cross_entropy(logits, data["labels"], 1.0, 0.0, **options).mean(), data["ce"])
    close(ff.symmetric_cross_entropy(logits, data["labels"], 0.0, 1.0, **options).mean(), data["rce"])
    value = ff.symmetric_cross_entropy(logits, data["labels"], alpha, beta, form="released")
    close(value, data["loss"])
    value.backward()
    close(logits.grad, data["grad_logits"])
    close(math.log(1e-4), data["log_zero_label"])


@pytest.mark.parametrize("form, low", [("paper", -4.0), ("released", math.log(1e-4))])
def test_the_second_term_is_cross_entropy_with_label_and_prediction_exchanged(close, form, low):
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 4])
    p, onehot = logits.softmax(1), F.one_hot(labels, 5)
    expected = -(low * p * (onehot == 0)).sum(1)
    close(ff.symmetric_cross_entropy(logits, labels, 0.0, 1.0, form, reduction="none"), expected)
    own = (2.5 * p * (onehot == 0)).sum(1)
    close(ff.symmetric_cross_entropy(logits, labels, 0.0, 1.0, form, -2.5, reduction="none"), own)


def test_alone_the_first_term_is_cross_entropy(close):
    logits, labels = 30 * torch.randn(40, 5, dtype=torch.float64), torch.arange(40) % 5
    plain = F.cross_entropy(logits, labels, reduction="none")
    close(ff.symmetric_cross_entropy(logits, labels, 1.0, 0.0, reduction="none"), plain)
    clipped = ff.symmetric_cross_entropy(logits, labels, 1.0, 0.0, "released", reduction="none")
    close(clipped, plain.clamp_max(-math.log(1e-7)))
    assert (plain > clipped).any()


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_the_reverse_term_is_bounded_and_its_sum_over_the_labels_constant(values, low):
    """What makes it robust to symmetric noise (Ghosh et al., AAAI 2017)."""
    logits = torch.tensor([values] * len(values), dtype=torch.float64)
    labels = torch.arange(len(values))
    terms = ff.symmetric_cross_entropy(logits, labels, 0.0, 1.0, log_zero=-low, reduction="none")
    assert (terms >= 0).all() and (terms <= low * (1 + 1e-12)).all()
    assert float(terms.sum()) == pytest.approx(low * (len(values) - 1), rel=1e-9)


def test_a_term_of_weight_0_is_not_there_though_it_is_infinite():
    never = torch.tensor([[-torch.inf, 0.0]])
    assert ff.symmetric_cross_entropy(never, torch.tensor([0]), 0.0, 1.0) == 4.0
    assert ff.symmetric_cross_entropy(never, torch.tensor([0]), 0.1, 1.0).isinf()


def test_a_sure_prediction_keeps_its_digits():
    logits = torch.tensor([[40.0, 0.0]], dtype=torch.float64)
    value = ff.symmetric_cross_entropy(logits, torch.tensor([0]), 0.0, 1.0)
    assert float(value) == pytest.approx(4 * math.exp(-40), rel=1e-9)
