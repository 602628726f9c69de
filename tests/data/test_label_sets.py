"""Label sets: the vote, the published noise, and the data set that holds them."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ferkit.data import LabelSetDataset, SyntheticFaces, label_sets_from_noise, majority_vote


def vote_by_loop(row: list[int]) -> int:
    counts = Counter(label for label in row if label >= 0)
    most = max(counts.values(), default=0)
    return next((label for label in row if label >= 0 and counts[label] == most), -1)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 6).flatmap(lambda s: st.lists(st.lists(st.integers(-1, 4), min_size=s, max_size=s), max_size=9)))
def test_vote_is_the_most_common_label_and_of_equals_the_first(rows: list[list[int]]) -> None:
    sources = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), len(rows[0]) if rows else 3)
    assert majority_vote(sources, 5).tolist() == [vote_by_loop(row) for row in rows]


def test_vote_refuses_what_is_no_table_of_labels() -> None:
    with pytest.raises(ValueError, match=r"sources: expected shape \(N, S\), got \(3,\)"):
        majority_vote(torch.zeros(3, dtype=torch.int64), 2)
    with pytest.raises(TypeError, match="int64"):
        majority_vote(torch.zeros(3, 2), 2)
    with pytest.raises(ValueError, match=r"0\.\.1 or -1"):
        majority_vote(torch.full((3, 2), 2), 2)


def released(labels: list[int], rates: tuple[float, ...], classes: int) -> list[list[int]]:
    """noisyFER's loop as described: one generator, for each ratio and each sample a draw, then perhaps a class."""
    draw = random.Random(100)
    sets = []
    for rate in rates:
        noisy = []
        for label in labels:
            noisy.append(draw.randint(0, classes - 1) if draw.random() < rate else label)
        sets.append(noisy)
    return sets


def test_released_noise_is_that_of_the_released_code() -> None:
    labels = torch.arange(5000) % 10
    sets = label_sets_from_noise(labels, (0.2, 0.3, 0.4), 10, exclude_true=False)
    assert sets.T.tolist() == released(labels.tolist(), (0.2, 0.3, 0.4), 10)
    wrong = (sets != labels[:, None]).double().mean(0)
    torch.testing.assert_close(wrong, torch.tensor([0.178, 0.274, 0.360]).double(), atol=5e-4, rtol=0)
    assert abs(float((majority_vote(sets, 10) != labels).double().mean()) - 0.105) < 5e-4


def test_flips_to_other_classes_are_wrong_as_often_as_they_are_made() -> None:
    labels = torch.arange(5000) % 10
    sets = label_sets_from_noise(labels, (0.0, 0.3, 1.0), 10)
    wrong = sets != labels[:, None]
    assert not wrong[:, 0].any() and wrong[:, 2].all()
    assert abs(float(wrong[:, 1].double().mean()) - 0.3) < 0.02  # three standard deviations
    shift = torch.bincount((sets[:, 2] - labels) % 10, minlength=10)
    assert shift[0] == 0 and shift[1:].min() > 450  # the other nine equally often


def test_noise_leaves_the_unlabelled_the_input_and_the_global_generator_alone() -> None:
    labels = torch.tensor([0, -1, 2] * 50)
    before, state = labels.clone(), random.getstate()
    sets = label_sets_from_noise(labels, (0.9, 0.9), 3, seed=1)
    assert random.getstate() == state and torch.equal(labels, before)
    assert (sets[1::3] == -1).all() and (sets[0::3] >= 0).all()
    assert not torch.equal(sets[:, 0], sets[:, 1])  # one generator goes on
    assert torch.equal(label_sets_from_noise(labels, (0.9, 0.9), 3, seed=1), sets)
    assert label_sets_from_noise(labels, (), 3).shape == (150, 0)


def test_noise_refuses_bad_rates() -> None:
    with pytest.raises(ValueError, match="rates"):
        label_sets_from_noise(torch.zeros(3, dtype=torch.int64), (1.2,), 2)
    with pytest.raises(ValueError, match="num_classes"):
        label_sets_from_noise(torch.zeros(3, dtype=torch.int64), (0.2,), 1)


@pytest.fixture(scope="module")
def faces() -> SyntheticFaces:
    return SyntheticFaces(4, size=32)


def test_items_hold_every_set(faces: SyntheticFaces) -> None:
    sources = {"a": torch.tensor([0, 1, -1, -1]), "b": torch.tensor([2, 1, 3, -1])}
    values = {"valence": torch.tensor([0.5, float("nan"), 0.0, -1.0], dtype=torch.float64)}
    data = LabelSetDataset(faces, sources, values, torch.zeros(4, 1))
    assert data.source_names == ("a", "b") and data.value_names == ("valence",)
    assert data.labels.tolist() == [0, 1, 3, -1]
    assert data.sources.dtype == torch.int64 and data.values.dtype == torch.float32
    batch = next(iter(DataLoader(data, 4)))
    assert batch["sources"].tolist() == [[0, 2], [1, 1], [-1, 3], [-1, -1]]
    assert batch["label"].tolist() == [0, 1, 3, -1] and batch["index"].tolist() == [0, 1, 2, 3]
    assert torch.equal(batch["values"].isnan()[:, 0], torch.tensor([False, True, False, False]))
    assert torch.equal(batch["image"], faces.images)
    assert data[-1]["index"] == 3 and data.classes == faces.classes
    assert torch.equal(data.true_labels, faces.true_labels) and data.true_values.shape == (4, 1)
    with pytest.raises(IndexError):
        data[4]


def test_labels_are_the_vote_those_given_or_the_base_s(faces: SyntheticFaces) -> None:
    bare = LabelSetDataset(faces, {})
    assert torch.equal(bare.labels, faces.labels) and bare[0]["sources"].shape == (0,)
    mine = torch.tensor([1, 1, 1, -1])
    given_labels = LabelSetDataset(faces, {"a": torch.zeros(4, dtype=torch.int64)}, labels=mine)
    assert torch.equal(given_labels.labels, mine)
    other = given_labels.with_labels(torch.tensor([2, 2, 2, 2]))
    assert other[0]["label"] == 2 and torch.equal(given_labels.labels, mine) and other[0]["sources"].tolist() == [0]
    item = given_labels[0]
    item["sources"][0] = 5
    assert given_labels.sources[0, 0] == 0


@pytest.mark.parametrize(
    ("sources", "values", "true", "message"),
    [
        ({"a": torch.zeros(3, dtype=torch.int64)}, {}, None, r"sources\['a'\]: expected shape \(4,\)"),
        ({"a": torch.full((4,), 7)}, {}, None, r"sources\['a'\]: expected values in 0..6"),
        ({"a": torch.zeros(4)}, {}, None, r"sources\['a'\]: expected dtype"),
        ({}, {"valence": torch.zeros(4, dtype=torch.int64)}, None, r"values\['valence'\]: expected a floating"),
        ({}, {"valence": torch.full((4,), float("inf"))}, None, r"values\['valence'\]: expected finite"),
        ({}, {"valence": torch.zeros(4)}, torch.zeros(4, 2), r"true_values: expected shape \(4, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(faces, sources, values, true, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        LabelSetDataset(faces, sources, values, true)
