from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.data import flip_labels


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-1, 4), max_size=60),
    st.floats(0, 1),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([5, 8]),
)
def test_exact_count_and_untouched_rest(labels, rate, seed, exclude, classes):
    given_labels = torch.tensor(labels, dtype=torch.int64)
    before = given_labels.clone()
    noisy = flip_labels(given_labels, rate, classes, exclude, seed)
    assert torch.equal(given_labels, before)
    assert noisy.dtype == torch.int64 and noisy.shape == given_labels.shape
    assert torch.equal(noisy == -1, before == -1)
    assert ((noisy >= -1) & (noisy < classes)).all()
    changed = int((noisy != before).sum())
    wanted = round(rate * int((before >= 0).sum()))
    assert changed == wanted if exclude else changed <= wanted
    assert torch.equal(noisy, flip_labels(np.array(labels, dtype=np.int32), rate, classes, exclude, seed))


def test_rates():
    labels = torch.arange(10).repeat(2000)
    drawn = flip_labels(labels, 0.4, 10, exclude_true=False)
    assert abs(float((drawn != labels).double().mean()) - 0.36) < 0.01
    independent = flip_labels(labels, 0.4, 10, exact=False)
    changed = int((independent != labels).sum())
    assert changed != 8000 and abs(changed - 8000) < 300
    new = flip_labels(labels, 1.0, 10)
    pairs = torch.bincount(labels * 10 + new, minlength=100).reshape(10, 10)
    assert (pairs.diagonal() == 0).all()
    off = pairs[~torch.eye(10, dtype=torch.bool)]
    assert off.min() > 150 and off.max() < 300  # about 222 each


def test_smaller_rate_is_part_of_the_larger():
    labels = torch.arange(7).repeat(50)
    few, many = (flip_labels(labels, rate, 7, seed=1) for rate in (0.1, 0.4))
    assert torch.equal(few[few != labels], many[few != labels])
    assert not torch.equal(few, flip_labels(labels, 0.1, 7, seed=2))


def test_global_generator_is_left_alone():
    state = torch.get_rng_state()
    flip_labels([0, 1, 2], 0.5, 3)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0, 1], 1.5, 2), ValueError, "rate"),
        (([0, 1], float("nan"), 2), ValueError, "rate"),
        (([0, 2], 0.5, 2), ValueError, "labels: expected values in 0..1"),
        (([0, -2], 0.5, 2), ValueError, "labels"),
        (([0, 0], 0.5, 1), ValueError, "num_classes"),
        (([0.5, 1.0], 0.5, 2), TypeError, "labels"),
        ((torch.zeros(3), 0.5, 2), TypeError, "labels"),
        (([[0, 1]], 0.5, 2), ValueError, r"labels: expected shape \(N,\)"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        flip_labels(*arguments)
