"""The group sampler's promises over random tables, ranks and sizes."""

from __future__ import annotations

import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.samplers import NeighborGroupBatchSampler


def table(size, columns, rng, missing=0.2):
    """Random (indices, weights) with missing neighbours anywhere in a row; size 1 has no neighbours at all."""
    indices = (np.arange(size)[:, None] + rng.integers(1, max(size, 2), (size, columns))) % size
    indices[(rng.random((size, columns)) < missing) | (indices == np.arange(size)[:, None])] = -1
    return indices, rng.random((size, columns)).astype(np.float32)


@st.composite
def requests(draw):
    """(tables, keyword arguments) of a request that can be met, but for drop_last."""
    size = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    neighbors = draw(st.integers(1, 4))
    names = "abc"[: draw(st.integers(1, 3))]
    tables = {
        name: table(size, neighbors + draw(st.integers(0, 2)), rng, draw(st.sampled_from([0, 0.3, 1])))
        for name in names
    }
    options = {
        "groups": draw(st.integers(1, min(size, 9))),
        "neighbors": neighbors,
        "seed": draw(st.integers(0, 3)),
        "world_size": draw(st.integers(1, 4)),
        "drop_last": draw(st.booleans()),
    }
    return tables, options


def build(tables, options):
    """Samplers of every rank, or None where drop_last leaves no batch (which must say so)."""
    try:
        return [NeighborGroupBatchSampler(tables, rank=r, **options) for r in range(options["world_size"])]
    except ValueError as error:
        assert options["drop_last"] and "drop_last" in str(error)
        size = len(next(iter(tables.values()))[0])
        assert size < options["groups"] * options["world_size"]
        return None


def samples(batch):
    """What a dataset of the contract gives; an image says whose it is."""
    return [
        {"image": torch.full((3, 2, 2), index, dtype=torch.uint8), "label": index % 5 - 1, "index": index}
        for index in batch
    ]


@settings(max_examples=150, deadline=None)
@given(requests(), st.integers(0, 5))
def test_centres(request, epoch):
    tables, options = request
    ranks = build(tables, options)
    if ranks is None:
        return
    size, groups = len(tables["a"][0]), options["groups"]
    times = Counter()
    for sampler in ranks:
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == len(ranks[0])
        for batch in batches:
            assert len(set(batch)) == len(batch) and all(type(index) is int for index in batch)
            times.update(batch[:groups])
            near = {i for name in tables for i in tables[name][0][batch[:groups], : options["neighbors"]].flat}
            assert set(batch[groups:]) == near - {-1} - set(batch[:groups])
    counts = [times[i] for i in range(size)]
    share = groups * options["world_size"]
    assert max(counts) - min(counts) <= 1
    if options["drop_last"]:
        assert sum(counts) == size // share * share and max(counts) == 1
    else:
        assert min(counts) >= 1
        assert sum(counts) == -(-size // share) * share  # never a batch more than needed


@settings(max_examples=100, deadline=None)
@given(requests())
def test_collate_against_loops(request):
    tables, options = request
    ranks = build(tables, options)
    if ranks is None:
        return
    for sampler in ranks:
        for batch in sampler:
            got = sampler.collate(samples(batch))
            centres, expected, weight = batch[: options["groups"]], [], []
            for centre in centres:
                for indices, weights in tables.values():
                    for column in range(options["neighbors"]):
                        j = int(indices[centre, column])
                        expected.append(centre if j < 0 else j)
                        weight.append(0.0 if j < 0 else float(weights[centre, column]))
            order = [*centres, *expected]
            assert got["index"].tolist() == order and got["index"].dtype == torch.int64
            assert got["label"].tolist() == [index % 5 - 1 for index in order] and got["label"].dtype == torch.int64
            assert got["image"].shape == (len(order), 3, 2, 2) and got["image"].dtype == torch.uint8
            assert got["image"][:, 0, 0, 0].tolist() == order
            assert got["weight"].shape == (len(centres), len(tables) * options["neighbors"])
            assert got["weight"].dtype == torch.float32 and got["weight"].reshape(-1).tolist() == weight


@settings(max_examples=60, deadline=None)
@given(requests(), st.data())
def test_resume_gives_the_rest_of_the_epoch(request, data):
    tables, options = request
    ranks = build(tables, options)
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
    assert state == sampler.state_dict(position=stop) == {**ranks[0].state_dict(), "epoch": 2, "position": stop}
    assert all(type(value) is int for value in state.values())
    fresh = NeighborGroupBatchSampler(tables, rank=options["world_size"] - 1, **options)
    fresh.load_state_dict(state)
    fresh.set_epoch(2)  # what a trainer does on resume; must not start over
    assert len(fresh) == len(whole)
    assert list(fresh) == whole[stop:]
    assert list(fresh) == whole  # only the first pass is cut
    fresh.set_epoch(3)
    sampler.set_epoch(3)
    assert list(fresh) == list(sampler)


PAIR = tuple(map(torch.from_numpy, table(50, 4, np.random.default_rng(0))))


def test_order_is_a_pure_function_of_seed_and_epoch():
    def order(seed=0, epoch=0, noise=0):
        np.random.seed(noise)
        random.seed(noise)
        torch.manual_seed(noise)
        sampler = NeighborGroupBatchSampler(PAIR, 8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(noise=1) == order(noise=2)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_order_is_the_same_on_every_machine():
    """Recorded: a new numpy or Python must not change the order of a run that is resumed."""
    indices = torch.tensor([[1, 2], [0, -1], [4, 3], [-1, -1], [2, 0]])
    sampler = NeighborGroupBatchSampler((indices, torch.ones(5, 2)), groups=2, neighbors=2, seed=3)
    sampler.set_epoch(1)
    assert list(sampler) == [[0, 2, 1, 4, 3], [1, 3, 0], [4, 0, 2, 1]]
    assert sampler.state_dict()["tables_crc32"] == 3777074639


def test_global_generators_are_left_alone():
    np.random.seed(0)
    torch.manual_seed(0)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())
    list(NeighborGroupBatchSampler(PAIR, 8))
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate())


class Faces(torch.utils.data.Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return samples([index])[0]


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (1, "spawn")])
def test_data_loader(workers, context):
    sampler = NeighborGroupBatchSampler({"au": PAIR, "landmark": PAIR}, 8)
    loader = torch.utils.data.DataLoader(
        Faces(), batch_sampler=sampler, collate_fn=sampler.collate, num_workers=workers, multiprocessing_context=context
    )
    assert len(loader) == len(sampler)
    for got, batch in zip(loader, sampler, strict=True):
        wanted = sampler.collate(samples(batch))
        assert all(torch.equal(got[name], wanted[name]) for name in wanted) and got.keys() == wanted.keys()


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_under_a_data_loader(workers):
    sampler = NeighborGroupBatchSampler(PAIR, 8)
    whole = [batch[:8] for batch in sampler]
    sampler.load_state_dict(sampler.state_dict(position=3))
    loader = torch.utils.data.DataLoader(
        Faces(), batch_sampler=sampler, collate_fn=sampler.collate, num_workers=workers
    )
    assert [batch["index"][:8].tolist() for batch in loader] == whole[3:]
    assert [batch["index"][:8].tolist() for batch in loader] == whole


def test_pickled_sampler_goes_on():
    sampler = NeighborGroupBatchSampler(PAIR, 8)
    running = iter(sampler)
    next(running)
    copy = pickle.loads(pickle.dumps(sampler))
    assert list(copy) == list(sampler) and copy.state_dict() == sampler.state_dict()


def test_set_epoch_is_found_where_lightning_looks():
    sampler = NeighborGroupBatchSampler(PAIR, 8)
    loader = torch.utils.data.DataLoader(Faces(), batch_sampler=sampler, collate_fn=sampler.collate)
    loader.batch_sampler.sampler.set_epoch(4)
    assert sampler.epoch == 4


def test_an_old_pass_does_not_move_the_position():
    sampler = NeighborGroupBatchSampler(PAIR, 8)
    old = iter(sampler)
    next(old)
    sampler.set_epoch(1)
    next(old)
    assert sampler.state_dict()["position"] == 0


def test_state_of_other_tables_or_settings_is_refused():
    indices, weights = PAIR
    sampler = NeighborGroupBatchSampler({"au": PAIR}, 8)
    state = sampler.state_dict()
    swapped = indices.clone()
    swapped[[0, 1]] = torch.tensor([[2, 3, 4, 5], [6, 7, 8, 9]])
    for other, name in (
        (NeighborGroupBatchSampler({"au": PAIR}, 9), "groups"),
        (NeighborGroupBatchSampler({"au": PAIR}, 8, 3), "neighbors"),
        (NeighborGroupBatchSampler({"au": PAIR}, 8, seed=1), "seed"),
        (NeighborGroupBatchSampler({"au": PAIR}, 8, world_size=2), "world_size"),
        (NeighborGroupBatchSampler({"au": PAIR}, 8, drop_last=True), "drop_last"),
        (NeighborGroupBatchSampler({"au": PAIR, "va": PAIR}, 8), "num_tables"),
        (NeighborGroupBatchSampler({"va": PAIR}, 8), "tables_crc32"),
        (NeighborGroupBatchSampler({"au": (swapped, weights)}, 8), "tables_crc32"),
        (NeighborGroupBatchSampler({"au": (indices, weights * 2)}, 8), "tables_crc32"),
    ):
        with pytest.raises(ValueError, match=name):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="'seed'"):
        sampler.load_state_dict({"epoch": 0, "position": 0, "groups": 8, "neighbors": 4})
    with pytest.raises(ValueError, match="position"):
        sampler.load_state_dict({**state, "position": len(sampler) + 1})
    with pytest.raises(ValueError, match="position"):
        sampler.state_dict(position=-1)


def test_collate_refuses_other_samples():
    sampler = NeighborGroupBatchSampler(PAIR, 8)
    batch = next(iter(sampler))
    with pytest.raises(ValueError, match=f"missing are .*{batch[-1]}"):
        sampler.collate(samples(batch[:-1]))
    with pytest.raises(ValueError, match="expected 8 centres first"):
        sampler.collate(samples(batch[:5]))
    with pytest.raises(ValueError, match=r"index 0\.\.49"):
        sampler.collate(samples([50, *batch[1:]]))
    with pytest.raises(ValueError, match="expected the key 'index' in each"):
        sampler.collate([{"image": torch.zeros(3, 2, 2)}] * 8)


def test_tables_are_shared_not_copied_and_not_written():
    indices, weights = PAIR[0].clone(), PAIR[1].clone()
    sampler = NeighborGroupBatchSampler((indices, weights), 8, neighbors=2)
    for batch in sampler:
        sampler.collate(samples(batch))
    assert torch.equal(indices, PAIR[0]) and torch.equal(weights, PAIR[1])
    held, values = sampler.collate.tables[0]
    assert np.shares_memory(held, indices.numpy()) and np.shares_memory(values, weights.numpy())


def test_kinds_of_arrays():
    """Read-only arrays (memory-mapped tables), float64 and bfloat16 weights, weights with a gradient."""
    indices, weights = (value.numpy().copy() for value in PAIR)
    indices.flags.writeable = weights.flags.writeable = False
    expected = NeighborGroupBatchSampler(PAIR, 8)
    batch = next(iter(expected))
    wanted = expected.collate(samples(batch))["weight"]
    for kind in (weights, weights.astype(np.float64), PAIR[1].clone().requires_grad_()):
        got = NeighborGroupBatchSampler((indices, kind), 8).collate(samples(batch))["weight"]
        assert torch.equal(got, wanted)
    half = NeighborGroupBatchSampler((indices, PAIR[1].bfloat16()), 8).collate(samples(batch))["weight"]
    assert torch.equal(half, torch.where(wanted > 0, PAIR[1].bfloat16().float()[batch[:8]], 0))
