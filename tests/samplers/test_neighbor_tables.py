"""Tables of ``NeighborGroupBatchSampler``: what is read of them, what is refused, and what it says of that."""

import pytest
import torch

from ferkit.samplers import NeighborGroupBatchSampler

GENERATOR = torch.Generator().manual_seed(0)
INDICES = (torch.arange(50)[:, None] + torch.randint(1, 50, (50, 4), generator=GENERATOR)) % 50
PAIR = INDICES, torch.rand(50, 4, generator=GENERATOR)  # no row names itself


def changed(values, place, value):
    values = values.clone()
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("indices", "weights", "message"),
    [
        (PAIR[0][0], PAIR[1], r"tables indices: expected shape \(N, K\), got \(4,\)"),
        (PAIR[0], PAIR[1][:, :3], r"tables weights: expected shape \(50, 4\) .* got \(50, 3\)"),
        (PAIR[0][:, :3], PAIR[1][:, :3], r"expected at least 4 columns \(neighbors\), got 3"),
        (changed(PAIR[0], (7, 1), 50), PAIR[1], r"row 7: expected positions in 0..49 or -1 \(none\), got 50"),
        (changed(PAIR[0], (7, 1), -2), PAIR[1], "row 7: .* got -2"),
        (changed(PAIR[0], (9, 3), 9), PAIR[1], "row 9: expected neighbours other than the row itself, got 9"),
        (PAIR[0], changed(PAIR[1], (3, 0), float("nan")), "row 3: expected finite weights of 0 or more, got nan"),
        (PAIR[0], changed(PAIR[1], (3, 0), float("inf")), "weights: row 3: .* got inf"),
        (PAIR[0], changed(PAIR[1], (3, 0), -0.5), "weights: row 3: .* got -0.5"),
    ],
)
def test_bad_tables_are_refused(indices, weights, message):
    with pytest.raises(ValueError, match=message):
        NeighborGroupBatchSampler((indices, weights), 8)


def test_rows_are_named_beyond_the_first_block(monkeypatch):
    monkeypatch.setattr("ferkit.samplers._neighbor_tables.ROWS", 16)
    monkeypatch.setattr("ferkit.samplers.neighbor_group.ROWS", 7)
    with pytest.raises(ValueError, match="row 41: expected neighbours other than the row itself, got 41"):
        NeighborGroupBatchSampler((changed(PAIR[0], (41, 3), 41), PAIR[1]), 8)
    blocks = NeighborGroupBatchSampler(PAIR, 8).state_dict()
    monkeypatch.undo()
    assert blocks == NeighborGroupBatchSampler(PAIR, 8).state_dict()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ((PAIR[0].int(), PAIR[1]), "indices: expected dtype int64, got int32"),
        ((PAIR[0], PAIR[0]), "weights: expected a floating-point dtype, got int64"),
        ((PAIR[0].tolist(), PAIR[1]), "indices: expected a tensor or an array, got list"),
        ({"au": PAIR[0]}, r"tables\['au'\]: expected a pair \(indices, weights\), got Tensor"),
        ((PAIR[0], PAIR[1], PAIR[1]), r"expected a pair \(indices, weights\), got 3 values"),
    ],
)
def test_wrong_types_are_refused(tables, message):
    with pytest.raises(TypeError, match=message):
        NeighborGroupBatchSampler(tables, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 51}, "groups: expected at most the 50 rows of the tables, got 51"),
        ({"groups": 0}, "groups"),
        ({"neighbors": 0}, "neighbors"),
        ({"rank": 1}, "rank: expected a value in"),
        ({"seed": -1}, "seed"),
        ({"world_size": 7, "drop_last": True}, "drop_last: 50 images do not give 8 centres to each of 7 rank"),
    ],
)
def test_impossible_requests_fail_with_the_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        NeighborGroupBatchSampler(PAIR, **{"groups": 8, **options})


def test_tables_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        NeighborGroupBatchSampler({}, 8)
    other = PAIR[0][:40].clamp(max=39), PAIR[1][:40]
    other[0][other[0] == torch.arange(40)[:, None]] = -1
    with pytest.raises(ValueError, match=r"equally many rows in each, got \{'au': 50, 'va': 40\}"):
        NeighborGroupBatchSampler({"au": PAIR, "va": other}, 8)


def test_columns_that_are_not_used_do_not_count():
    indices, weights = PAIR
    more = torch.cat([indices, indices], 1), torch.cat([weights, weights], 1)
    sampler = NeighborGroupBatchSampler(more, 8)
    sampler.load_state_dict(NeighborGroupBatchSampler(PAIR, 8).state_dict())
    assert list(sampler) == list(NeighborGroupBatchSampler(PAIR, 8))


def test_repr_names_the_settings():
    text = repr(NeighborGroupBatchSampler(PAIR, 8, seed=5, drop_last=True))
    assert text == (
        "NeighborGroupBatchSampler(groups=8, neighbors=4, seed=5, world_size=1, drop_last=True, num_samples=50, "
        "num_tables=1, rank=0, batches=6)"
    )
