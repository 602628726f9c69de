"""The sampler's promises over random label histograms, ranks and batch sizes."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.samplers import ClassCoverageBatchSampler


@st.composite
def requests(draw):
    """(labels, keyword arguments) of a request that can be met."""
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    unlabelled = draw(st.integers(0, 8))
    labels = np.repeat(np.append(np.arange(len(counts)), -1), [*counts, unlabelled])
    np.random.default_rng(draw(st.integers(0, 99))).shuffle(labels)
    least = draw(st.integers(1, 3))
    size = len(counts) * least + (unlabelled > 0) + draw(st.integers(0, 12))
    options = {
        "batch_size": size,
        "min_per_class": least,
        "seed": draw(st.integers(0, 3)),
        "world_size": draw(st.integers(1, 3)),
        "drop_last": draw(st.booleans()),
    }
    return labels, options


def build(labels, options):
    """Samplers of every rank, or None where drop_last leaves no batch (which must say so)."""
    try:
        return [ClassCoverageBatchSampler(labels, rank=r, **options) for r in range(options["world_size"])]
    except ValueError as error:
        assert options["drop_last"] and "drop_last" in str(error)
        return None


@settings(max_examples=150, deadline=None)
@given(requests(), st.integers(0, 5))
def test_promises(request, epoch):
    labels, options = request
    ranks = build(labels, options)
    if ranks is None:
        return
    classes, least = labels.max() + 1, options["min_per_class"]
    drawn = Counter()
    owners: dict[int, set[int]] = {}
    for rank, sampler in enumerate(ranks):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == len(ranks[0])
        for batch in batches:
            assert len(batch) == options["batch_size"]
            assert all(type(index) is int for index in batch)
            present = labels[batch]
            assert (np.bincount(present[present >= 0], minlength=classes) >= least).all()
            drawn.update(batch)
            for index in batch:
                owners.setdefault(index, set()).add(rank)
    times = np.array([drawn[i] for i in range(len(labels))])
    assert (times[labels == -1] <= 1).all()
    counts = ranks[0].class_counts()
    floor = np.maximum(np.bincount(labels[labels >= 0]), least * len(ranks[0]) * len(ranks))
    for c in range(classes):
        mine = times[labels == c]
        assert mine.sum() == counts[c]
        assert mine.max() - mine.min() <= 1
        if options["drop_last"]:
            assert least * len(ranks[0]) * len(ranks) <= counts[c] <= floor[c]
        else:
            assert mine.min() >= 1
            assert counts[c] >= floor[c]
        if counts[c] <= len(mine):  # not repeated: ranks share it out
            assert all(len(owners.get(i, ())) <= 1 for i in np.flatnonzero(labels == c))
    if not options["drop_last"]:
        assert (times[labels == -1] == 1).all()


@settings(max_examples=60, deadline=None)
@given(requests())
def test_number_of_batches_is_the_least_possible(request):
    """Counted by trying one step after the other."""
    labels, options = request
    counts = np.bincount(labels[labels >= 0])

    def spare(steps):
        batches = steps * options["world_size"]
        return (
            batches * options["batch_size"]
            - (labels == -1).sum()
            - sum(max(int(n), options["min_per_class"] * batches) for n in counts)
        )

    steps = 1
    while spare(steps) < 0:
        steps += 1
    if options["drop_last"] and spare(steps) > 0:
        steps -= 1
    ranks = build(labels, options)
    assert (0 if ranks is None else len(ranks[0])) == steps


@settings(max_examples=60, deadline=None)
@given(requests())
def test_batch_repeats_a_sample_only_where_its_class_is_too_small(request):
    labels, options = request
    ranks = build(labels, options)
    for sampler in ranks or ():
        for batch in sampler:
            for c in range(labels.max() + 1):
                mine = [i for i in batch if labels[i] == c]
                assert len(set(mine)) == min(len(mine), (labels == c).sum())


@settings(max_examples=40, deadline=None)
@given(requests(), st.data())
def test_resume_gives_the_rest_of_the_epoch(request, data):
    labels, options = request
    ranks = build(labels, options)
    if ranks is None:
        return
    sampler = ranks[-1]
    sampler.set_epoch(2)
    whole = list(sampler)
    stop = data.draw(st.integers(0, len(whole)))
    running = iter(sampler)
    for _ in range(stop):
        next(running)
    state = sampler.state_dict()
    assert (state["epoch"], state["position"]) == (2, stop)
    assert state == sampler.state_dict(position=stop)
    fresh = ClassCoverageBatchSampler(labels, rank=options["world_size"] - 1, **options)
    fresh.load_state_dict(state)
    fresh.set_epoch(2)  # what a trainer does on resume; must not start over
    assert len(fresh) == len(whole)
    assert list(fresh) == whole[stop:]
    assert list(fresh) == whole  # only the first pass is cut
    fresh.set_epoch(3)
    sampler.set_epoch(3)
    assert list(fresh) == list(sampler)


LABELS = torch.tensor([0] * 30 + [1] * 12 + [2] * 3 + [-1] * 4)


def test_order_is_a_pure_function_of_seed_and_epoch():
    def order(seed=0, epoch=0, noise=0):
        np.random.seed(noise)
        random.seed(noise)
        torch.manual_seed(noise)
        sampler = ClassCoverageBatchSampler(LABELS, 8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(noise=1) == order(noise=2)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_order_is_the_same_on_every_machine():
    """Recorded: a new numpy or Python must not change the order of a run that is resumed."""
    sampler = ClassCoverageBatchSampler([0, 0, 0, 1, 1, 2, -1], batch_size=5, min_per_class=1, seed=3)
    sampler.set_epoch(1)
    assert list(sampler) == [[0, 4, 2, 3, 5], [2, 5, 6, 3, 1]]


def test_global_generators_are_left_alone():
    np.random.seed(0)
    torch.manual_seed(0)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())
    list(ClassCoverageBatchSampler(LABELS, 8))
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(workers):
    sampler = ClassCoverageBatchSampler(LABELS, 8)
    data = torch.utils.data.TensorDataset(torch.arange(len(LABELS)))
    loader = torch.utils.data.DataLoader(data, batch_sampler=sampler, num_workers=workers)
    assert len(loader) == len(sampler)
    assert [batch[0].tolist() for batch in loader] == list(sampler)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_under_a_data_loader(workers):
    """With workers a loader asks for two iterators and uses the second."""
    sampler = ClassCoverageBatchSampler(LABELS, 8)
    whole = list(sampler)
    data = torch.utils.data.TensorDataset(torch.arange(len(LABELS)))
    sampler.load_state_dict(sampler.state_dict(position=2))
    loader = torch.utils.data.DataLoader(data, batch_sampler=sampler, num_workers=workers)
    assert [batch[0].tolist() for batch in loader] == whole[2:]
    assert [batch[0].tolist() for batch in loader] == whole


def test_set_epoch_is_found_where_lightning_looks():
    sampler = ClassCoverageBatchSampler(LABELS, 8)
    loader = torch.utils.data.DataLoader(LABELS, batch_sampler=sampler)
    loader.batch_sampler.sampler.set_epoch(4)
    assert sampler.epoch == 4


def test_an_old_pass_does_not_move_the_position():
    sampler = ClassCoverageBatchSampler(LABELS, 8)
    old = iter(sampler)
    next(old)
    sampler.set_epoch(1)
    next(old)
    assert sampler.state_dict()["position"] == 0


def test_state_of_other_labels_or_settings_is_refused():
    sampler = ClassCoverageBatchSampler(LABELS, 8)
    state = sampler.state_dict()
    for other, name in (
        (ClassCoverageBatchSampler(LABELS, 9), "batch_size"),
        (ClassCoverageBatchSampler(LABELS, 8, seed=1), "seed"),
        (ClassCoverageBatchSampler(LABELS.flip(0), 8), "labels_crc32"),
    ):
        with pytest.raises(ValueError, match=name):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="'seed'"):
        sampler.load_state_dict({"epoch": 0, "position": 0, "batch_size": 8, "min_per_class": 2})
    with pytest.raises(ValueError, match="position"):
        sampler.load_state_dict({**state, "position": len(sampler) + 1})
    with pytest.raises(ValueError, match="position"):
        sampler.state_dict(position=-1)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1, 2], {"batch_size": 5}, r"batch_size: expected at least 6 \(3 classes \* 2 min_per_class\), got 5"),
        ([0, 1, -1], {"batch_size": 4}, r"at least 5 \(2 classes \* 2 min_per_class \+ 1 for the unlabelled"),
        ([0, 2], {"batch_size": 8}, "each of the 3 classes, got none of class 1"),
        ([0, 1], {"batch_size": 8, "num_classes": 4}, "none of class 2, 3"),
        ([0, 5], {"batch_size": 8, "num_classes": 4}, r"0..3 or -1 \(unlabelled\), got 0..5"),
        ([0, -2], {"batch_size": 8}, "got -2..0"),
        ([-1, -1], {"batch_size": 8}, "at least one labelled sample, got 2"),
        ([], {"batch_size": 8}, "N of 1 or more"),
        ([[0, 1]], {"batch_size": 8}, r"shape \(N,\)"),
        ([0, 1], {"batch_size": 8, "drop_last": True}, "2 samples do not fill one batch of 8"),
        ([0, 1], {"batch_size": 8, "rank": 1}, "rank: expected a value in"),
        ([0, 1], {"batch_size": 8, "seed": -1}, "seed"),
        ([0, 1], {"batch_size": 8, "min_per_class": 0}, "min_per_class"),
    ],
)
def test_impossible_requests_fail_with_the_numbers(labels, options, message):
    with pytest.raises(ValueError, match=message):
        ClassCoverageBatchSampler(labels, **options)


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match="labels"):
        ClassCoverageBatchSampler([0.0, 1.0], 4)
    with pytest.raises(TypeError, match=r"torch.int64"):
        ClassCoverageBatchSampler(torch.zeros(4), 4)


def test_labels_are_read_only():
    labels = LABELS.clone()
    list(ClassCoverageBatchSampler(labels, 8))
    assert torch.equal(labels, LABELS)


def test_repr_names_the_settings():
    text = repr(ClassCoverageBatchSampler(LABELS, 8, seed=5, drop_last=True))
    assert "batch_size=8" in text and "seed=5" in text and "drop_last=True" in text
