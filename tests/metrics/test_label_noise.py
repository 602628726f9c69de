import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.metrics import flip_auc, suspicion


def pair_auc(score, flipped):
    """Share of (flipped, clean) pairs in the right order, ties counting half."""
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, fa in zip(score, flipped)
        if fa
        for b, fb in zip(score, flipped)
        if not fb
    ]
    return sum(wins) / len(wins) if wins else math.nan


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=25), st.sampled_from([1.0, 1e-9, 1e9]))
def test_auc_is_the_share_of_ordered_pairs_on_any_scale(rows, scale):
    score = [value * scale for value, _ in rows]
    flipped = [flag for _, flag in rows]
    value = float(flip_auc(torch.tensor(score, dtype=torch.float64), torch.tensor(flipped, dtype=torch.bool)))
    assert value == pytest.approx(pair_auc(score, flipped), abs=1e-6, nan_ok=True)


def test_auc_tells_neighbouring_float32_scores_apart():
    low = torch.tensor(-1.0)
    score = torch.stack([low, torch.nextafter(low, torch.tensor(0.0))])
    assert float(flip_auc(score, torch.tensor([False, True]))) == 1
    assert float(flip_auc(score, torch.tensor([True, False]))) == 0


def test_auc_without_one_of_the_groups_is_nan():
    score = torch.tensor([0.1, 0.2])
    for flags in ([True, True], [False, False]):
        assert math.isnan(flip_auc(score, torch.tensor(flags)))
    assert math.isnan(flip_auc(torch.zeros(0), torch.zeros(0, dtype=torch.bool)))


def test_suspicion_matches_the_loop():
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(30, 6, generator=generator).softmax(1)
    labels = torch.randint(0, 6, (30,), generator=generator)
    for value, row, y in zip(suspicion(p, labels).tolist(), p.double().tolist(), labels.tolist()):
        assert value == max(row[k] for k in range(6) if k != y) - row[y]


def test_suspicion_bounds_sign_and_unlabelled():
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    value = suspicion(p, torch.tensor([0, 1, 0, -1]))
    assert value[:3].tolist() == [-1, 1, 0] and math.isnan(value[3])
    assert suspicion(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_bad_input_is_named():
    p, labels = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    with pytest.raises(ValueError, match="probabilities: expected rows that sum to 1"):
        suspicion(3 * p, labels)
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.1"):
        suspicion(p, torch.tensor([2]))
    with pytest.raises(ValueError, match="probabilities: expected at least 2 classes"):
        suspicion(torch.ones(1, 1), labels)
    with pytest.raises(ValueError, match="score: expected finite values"):
        flip_auc(torch.tensor([math.nan, 0.0]), torch.tensor([True, False]))
    with pytest.raises(TypeError, match=r"is_flipped: expected dtype torch.bool, got torch.int64"):
        flip_auc(torch.zeros(1), labels)
    with pytest.raises(ValueError, match=r"is_flipped: expected shape \(1,\)"):
        flip_auc(torch.zeros(1), torch.tensor([True, False]))


def test_import_without_torchmetrics_names_the_extra():
    code = (
        "import sys; sys.modules['torchmetrics'] = None\n"
        "try:\n    import ferkit.metrics\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'ferkit.metrics needs torchmetrics: pip install "ferkit[train]"'
