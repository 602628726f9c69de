import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit import metrics

FUNCTIONS = {
    "tv": (metrics.total_variation, metrics.TotalVariation),
    "kl": (metrics.distribution_kl, metrics.DistributionKL),
    "jeffreys": (metrics.jeffreys_divergence, metrics.JeffreysDivergence),
}


def loop(name, prediction, votes, eps=1e-6):
    """The definitions of docs/metrics.md, in plain Python."""
    rows = []
    for p, v in zip(prediction.tolist(), votes.tolist()):
        if sum(v) == 0:
            continue
        t = [x / sum(v) for x in v]
        if name == "tv":
            rows.append(sum(abs(a - b) for a, b in zip(t, p)) / 2)
            continue
        p = [max(x, eps) for x in p]
        p = [x / sum(p) for x in p]
        if name == "jeffreys":
            t = [max(x, eps) for x in t]
            t = [x / sum(t) for x in t]
            rows.append(sum((a - b) * math.log(a / b) for a, b in zip(t, p)))
        else:
            rows.append(sum(a * math.log(a / b) for a, b in zip(t, p) if a > 0))
    return sum(rows) / len(rows) if rows else math.nan


def sample(n, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prediction = (4 * torch.randn(n, classes, generator=generator, dtype=torch.float64)).softmax(1)
    votes = torch.randint(0, 4, (n, classes), generator=generator)
    return prediction, votes


@pytest.mark.parametrize("name", FUNCTIONS)
def test_matches_the_loop(name):
    prediction, votes = sample(40, 7)
    prediction[0] = torch.eye(7)[2]
    votes[1] = torch.eye(7)[3] * 10
    votes[2] = 0
    assert float(FUNCTIONS[name][0](prediction, votes)) == pytest.approx(loop(name, prediction, votes), abs=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_batches_add_up_to_one(name):
    prediction, votes = sample(30, 8, seed=1)
    votes[4] = 0
    metric = FUNCTIONS[name][1]()
    for rows in (slice(0, 7), slice(7, 7), slice(7, 30)):
        metric.update(prediction[rows], votes[rows])
    assert float(metric.compute()) == pytest.approx(loop(name, prediction, votes), abs=1e-12)
    metric.reset()
    metric.update(prediction[:1], votes[:1])
    assert float(metric.compute()) == pytest.approx(loop(name, prediction[:1], votes[:1]), abs=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_sample_gives_nan(name):
    function, metric_class = FUNCTIONS[name]
    empty = torch.zeros(0, 5)
    assert math.isnan(function(empty, empty))
    assert float(function(empty, empty, reduction="sum")) == 0
    assert function(empty, empty, reduction="none").shape == (0,)
    metric = metric_class()
    metric.update(empty, empty)
    assert math.isnan(metric.compute())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_row_without_votes_takes_no_part(name):
    prediction, votes = sample(6, 4)
    votes[:, 0] += 1
    kept = FUNCTIONS[name][0](prediction, votes, reduction="none")
    votes[3] = 0
    rows = FUNCTIONS[name][0](prediction, votes, reduction="none")
    assert rows.isnan().tolist() == [False, False, False, True, False, False]
    mask = ~rows.isnan()
    torch.testing.assert_close(rows[mask], kept[mask], rtol=0, atol=0)
    assert float(FUNCTIONS[name][0](prediction, votes, reduction="sum")) == pytest.approx(float(kept[mask].sum()))


shares = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any)


def distribution(counts):
    value = torch.tensor([counts], dtype=torch.float64)
    return value / value.sum()


@settings(max_examples=60, deadline=None)
@given(shares, shares)
def test_bounds_symmetry_and_order(first, second):
    a, b = distribution(first), distribution(second)
    tv, kl, jeffreys = (float(function(a, b)) for function, _ in FUNCTIONS.values())
    assert 0 <= tv <= 1 + 1e-12
    assert kl >= -1e-12
    assert kl >= 2 * tv**2 - 1e-4  # Pinsker, up to the clip
    assert kl <= math.log(1e6) + 1e-4
    assert jeffreys >= -1e-12
    assert float(metrics.total_variation(b, a)) == pytest.approx(tv, abs=1e-12)
    assert float(metrics.jeffreys_divergence(b, a)) == pytest.approx(jeffreys, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(shares, st.integers(1, 7))
def test_equal_distributions_have_distance_zero(counts, factor):
    p = distribution(counts)
    votes = torch.tensor([counts]) * factor
    assert float(metrics.total_variation(p, votes)) == pytest.approx(0, abs=1e-12)
    assert float(metrics.jeffreys_divergence(p, votes)) == pytest.approx(0, abs=1e-12)
    assert float(metrics.distribution_kl(p, votes)) == pytest.approx(0, abs=4e-6)  # the clip moves at most C * eps


def test_eps_bounds_the_certain_and_wrong_prediction():
    wrong, right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for eps in (1e-3, 1e-6):
        expected = math.log((1 + eps) / eps)
        assert float(metrics.distribution_kl(wrong, right, eps)) == pytest.approx(expected)
        assert float(metrics.DistributionKL(eps)(wrong, right)) == pytest.approx(expected)
        low, high = eps / (1 + eps), 1 / (1 + eps)
        assert float(metrics.JeffreysDivergence(eps)(wrong, right)) == pytest.approx(
            2 * (high - low) * math.log(1 / eps)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_softmax_of_any_dtype_passes_the_sum_check(dtype):
    prediction, votes = sample(50, 8)
    votes[:, 0] += 1
    value = metrics.total_variation(prediction.float().softmax(1).to(dtype), votes)
    assert value.dtype == torch.float64 and 0 < value < 1


def test_inputs_are_left_alone():
    prediction, votes = sample(5, 3)
    votes = votes.double()
    before = prediction.clone(), votes.clone()
    for function, _ in FUNCTIONS.values():
        function(prediction, votes)
    assert torch.equal(prediction, before[0]) and torch.equal(votes, before[1])


@pytest.mark.parametrize(
    ("prediction", "target", "error", "message"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3), ValueError, "prediction: expected rows that sum to 1"),
        (torch.tensor([[1.5, -0.5]]), torch.ones(1, 2), ValueError, "prediction: expected finite values >= 0"),
        (torch.tensor([[math.nan, 1.0]]), torch.ones(1, 2), ValueError, "prediction: expected finite values >= 0"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([[1, -1]]), ValueError, "target: expected finite values >= 0"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, math.inf]]), ValueError, "target: expected finite"),
        (torch.tensor([[0.5, 0.5]]), torch.ones(1, 3), ValueError, r"target: expected shape \(1, 2\), got \(1, 3\)"),
        (torch.tensor([0.5, 0.5]), torch.ones(2), ValueError, r"prediction: expected shape \(N, C\)"),
        (torch.tensor([[1, 0]]), torch.ones(1, 2), TypeError, "prediction: expected a floating-point tensor"),
        (torch.tensor([[1.0, 0]]), torch.ones(1, 2).bool(), TypeError, "target: expected a floating-point or integer"),
        ([[1.0, 0]], torch.ones(1, 2), TypeError, "prediction: expected a torch.Tensor, got list"),
    ],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_input_is_named(name, prediction, target, error, message):
    with pytest.raises(error, match=message):
        FUNCTIONS[name][0](prediction, target)
    with pytest.raises(error, match=message):
        FUNCTIONS[name][1]().update(prediction, target)


def test_bad_options_are_named():
    p = torch.tensor([[0.5, 0.5]])
    with pytest.raises(ValueError, match="eps: expected a value in"):
        metrics.distribution_kl(p, p, eps=0)
    with pytest.raises(ValueError, match="eps: expected a value in"):
        metrics.JeffreysDivergence(eps=2)
    with pytest.raises(ValueError, match="reduction: expected one of"):
        metrics.total_variation(p, p, reduction="max")
