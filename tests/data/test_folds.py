"""Folds of equal class shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.data import stratified_folds


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-1, 5), min_size=2, max_size=120), st.integers(2, 10), st.integers(0, 5))
def test_class_shares(labels, folds, seed):
    labels = torch.tensor(labels)
    if len(labels) < folds:
        with pytest.raises(ValueError, match=f"folds: expected at most the {len(labels)} images, got {folds}"):
            stratified_folds(labels, folds, seed)
        return
    result = stratified_folds(labels, folds, seed)
    assert result.shape == labels.shape and result.dtype == torch.int64
    whole = torch.bincount(result, minlength=folds)
    assert len(whole) == folds and whole.max() - whole.min() <= 1
    for label in labels.unique():
        counts = torch.bincount(result[labels == label], minlength=folds)
        assert counts.max() - counts.min() <= 1


def test_a_pure_function_of_labels_folds_and_seed():
    labels = torch.arange(60) % 4

    def draw(seed, noise):
        np.random.seed(noise)
        torch.manual_seed(noise)
        return stratified_folds(labels, 5, seed)

    assert torch.equal(draw(0, 1), draw(0, 2)) and torch.equal(draw(0, 1), stratified_folds(labels.numpy(), 5))
    assert len({str(draw(seed, 0).tolist()) for seed in range(5)}) == 5


def test_folds_are_the_same_on_every_machine():
    """Recorded: results of two machines are of the same faces."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, -1, 2])
    assert stratified_folds(labels, 3, seed=1).tolist() == [
        1,
        2,
        0,
        1,
        0,
        1,
        2,
        0,
        2,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4), 2), r"labels: expected integers of shape \(N,\), got float32"),
        ((torch.zeros(2, 2, dtype=torch.long), 2), r"of shape \(2, 2\)"),
        ((torch.zeros(4, dtype=torch.long), 1), "folds: expected a value in"),
        ((torch.zeros(4, dtype=torch.long), 2, -1), "seed: expected a value in"),
    ],
)
def test_bad_requests(arguments, message):
    with pytest.raises(ValueError, match=message):
        stratified_folds(*arguments)
