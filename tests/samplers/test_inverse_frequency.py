"""Inverse-frequency batches: weights, shares, the rule that skips, ranks, resuming, and what is refused."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.samplers import InverseFrequencyBatchSampler

LABELS = torch.tensor([0] * 90 + [1] * 30 + [2] * 6 + [-1] * 5)


def test_weights_are_the_recorded_ones(golden, close):
    data = golden("dmue_sampler_weights")
    sampler = InverseFrequencyBatchSampler(data["labels"], batch_size=72)
    close(sampler.weights, data["weights"])
    mass = torch.zeros(7, dtype=torch.float64).index_add(0, data["labels"], sampler.weights)
    close(mass / mass.sum(), data["class_mass"])
    unlabelled = InverseFrequencyBatchSampler(LABELS, batch_size=12).weights
    assert unlabelled[-5:].tolist() == [0.0] * 5 and float(unlabelled.sum()) == pytest.approx(3)


def test_samples_are_drawn_by_weight():
    """Without the rule each draw is independent: a bound of five deviations on the share of every sample."""
    sampler = InverseFrequencyBatchSampler(LABELS.repeat(400), batch_size=60, min_per_class=0)
    drawn = np.array(list(sampler))
    assert drawn.size == len(sampler) * 60 == 50_400
    times = np.bincount(drawn.reshape(-1) % len(LABELS), minlength=len(LABELS))  # alike samples taken together
    shares = InverseFrequencyBatchSampler(LABELS, batch_size=12).weights.numpy() / 3
    spread = np.sqrt(drawn.size * shares * (1 - shares))
    assert (np.abs(times - drawn.size * shares) <= 5 * spread).all()
    assert (times[-5:] == 0).all()


@pytest.mark.parametrize(("classes", "size", "least"), [(2, 4, 1), (3, 7, 2), (3, 6, 2), (4, 6, 1), (2, 5, 0)])
def test_kept_share_is_exact(classes, size, least):
    """By counting all the ways in which a batch can be drawn."""
    kept = sum(all(drawn.count(c) >= least for c in range(classes)) for drawn in product(range(classes), repeat=size))
    sampler = InverseFrequencyBatchSampler(list(range(classes)) * 5, size, least)
    assert sampler.kept_share == pytest.approx(kept / classes**size, rel=1e-12)


def test_kept_share_is_what_is_seen():
    """The skipped batches are those of the plain stream: the rest come in its order."""
    plain = InverseFrequencyBatchSampler(LABELS[:-5], batch_size=8, min_per_class=0)
    kept = InverseFrequencyBatchSampler(LABELS[:-5], batch_size=8, min_per_class=2)
    seen, expected = 0, 0
    for epoch in range(200):
        plain.set_epoch(epoch), kept.set_epoch(epoch)
        good = [batch for batch in plain if all((LABELS[batch] == c).sum() >= 2 for c in range(3))]
        assert list(kept)[: len(good)] == good
        seen, expected = seen + len(good), expected + len(plain)
    share = kept.kept_share
    assert abs(seen - expected * share) <= 5 * (expected * share * (1 - share)) ** 0.5


@st.composite
def requests(draw):
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    labels = np.repeat(np.append(np.arange(len(counts)), -1), [*counts, draw(st.integers(0, 5))])
    np.random.default_rng(draw(st.integers(0, 99))).shuffle(labels)
    least = draw(st.integers(0, 2))
    options = {
        "batch_size": len(counts) * (least + 2),
        "min_per_class": least,
        "seed": draw(st.integers(0, 3)),
        "world_size": draw(st.integers(1, 3)),
    }
    return labels, options


@settings(max_examples=60, deadline=None)
@given(requests(), st.integers(0, 4))
def test_promises(request, epoch):
    labels, options = request
    ranks = [InverseFrequencyBatchSampler(labels, rank=r, **options) for r in range(options["world_size"])]
    alone = InverseFrequencyBatchSampler(labels, **{**options, "world_size": 1})
    alone.set_epoch(epoch)
    per_rank = []
    for sampler in ranks:
        sampler.set_epoch(epoch)
        batches = list(sampler)
        per_rank.append(batches)
        assert len(batches) == len(sampler) == len(ranks[0])
        for batch in batches:
            assert len(batch) == options["batch_size"] and all(type(index) is int for index in batch)
            present = labels[batch]
            assert (present >= 0).all()
            assert (np.bincount(present, minlength=labels.max() + 1) >= options["min_per_class"]).all()
    labelled = int((labels >= 0).sum())
    assert len(ranks[0]) == max(labelled // (options["batch_size"] * len(ranks)), 1)
    # all ranks plan one epoch and share out its batches
    together = [batch for step in zip(*per_rank) for batch in step]
    assert together[: len(alone)] == list(alone)[: len(together)]


@settings(max_examples=30, deadline=None)
@given(requests(), st.data())
def test_resume_gives_the_rest_of_the_epoch(request, data):
    labels, options = request
    rank = options["world_size"] - 1
    sampler = InverseFrequencyBatchSampler(labels, rank=rank, **options)
    sampler.set_epoch(2)
    whole = list(sampler)
    stop = data.draw(st.integers(0, len(whole)))
    running = iter(sampler)
    for _ in range(stop):
        next(running)
    state = sampler.state_dict()
    assert (state["epoch"], state["position"]) == (2, stop)
    fresh = InverseFrequencyBatchSampler(labels, rank=rank, **options)
    fresh.load_state_dict(state)
    fresh.set_epoch(2)
    assert len(fresh) == len(whole) and list(fresh) == whole[stop:]
    assert list(fresh) == whole


def test_order_is_a_pure_function_of_seed_and_epoch():
    def order(seed=0, epoch=0, noise=0):
        np.random.seed(noise)
        random.seed(noise)
        torch.manual_seed(noise)
        before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())
        sampler = InverseFrequencyBatchSampler(LABELS, 12, seed=seed)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())
        return batches

    assert order(noise=1) == order(noise=2)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_state_of_other_labels_or_settings_is_refused():
    sampler = InverseFrequencyBatchSampler(LABELS, 12)
    state = sampler.state_dict()
    for other, name in (
        (InverseFrequencyBatchSampler(LABELS, 13), "batch_size"),
        (InverseFrequencyBatchSampler(LABELS, 12, seed=1), "seed"),
        (InverseFrequencyBatchSampler(LABELS, 12, min_per_class=1), "min_per_class"),
        (InverseFrequencyBatchSampler(LABELS.flip(0), 12), "labels_crc32"),
    ):
        with pytest.raises(ValueError, match=name):
            other.load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_under_a_data_loader(workers):
    sampler = InverseFrequencyBatchSampler(LABELS, 12)
    whole = list(sampler)
    data = torch.utils.data.TensorDataset(torch.arange(len(LABELS)))
    sampler.load_state_dict(sampler.state_dict(position=3))
    loader = torch.utils.data.DataLoader(data, batch_sampler=sampler, num_workers=workers)
    assert [batch[0].tolist() for batch in loader] == whole[3:]
    assert [batch[0].tolist() for batch in loader] == whole


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1, 2], {"batch_size": 5}, r"batch_size: expected at least 6 \(3 classes \* 2 min_per_class\), got 5"),
        # all of 14 draws exactly twice each: 14! / (2^7 7^14), once in 996
        (list(range(7)), {"batch_size": 14}, r"keeps 1 in 100 drawn batches or more, got 14, which keeps 1 in 996 "),
        ([0, 2], {"batch_size": 8}, "each of the 3 classes, got none of class 1"),
        ([0, 1], {"batch_size": 8, "num_classes": 4}, "none of class 2, 3"),
        ([-1, -1], {"batch_size": 8}, "at least one labelled sample, got 2"),
        ([0, 5], {"batch_size": 8, "num_classes": 4}, r"0..3 or -1 \(unlabelled\), got 0..5"),
        ([], {"batch_size": 8}, "N of 1 or more"),
        ([0, 1], {"batch_size": 8, "rank": 1}, "rank: expected a value in"),
        ([0, 1], {"batch_size": 0}, "batch_size"),
        ([0, 1], {"batch_size": 8, "min_per_class": -1}, "min_per_class"),
    ],
)
def test_impossible_requests_fail_with_the_numbers(labels, options, message):
    with pytest.raises(ValueError, match=message):
        InverseFrequencyBatchSampler(labels, **options)


def test_repr_names_the_settings():
    text = repr(InverseFrequencyBatchSampler(LABELS, 12, seed=5))
    assert "batch_size=12" in text and "min_per_class=2" in text and "seed=5" in text and "crc32" not in text
