"""float32 error near convergence: no worse than the textbook's, whichever way the branches agree."""

import pytest

accuracy = pytest.importorskip("benchmarks.accuracy")

SEEDS = 8
HALF_ULP = 2.0**-24  # no float32 result can promise less; below it luck decides, for both


@pytest.mark.parametrize("size", [72, 400])  # auto takes the Gram form, then the factored one (but for the wide branch)
@pytest.mark.parametrize("kind", accuracy.KINDS)
@pytest.mark.parametrize("distance", accuracy.DISTANCES)
def test_auto_is_no_worse_than_the_textbook(backend, size, kind, distance):
    runs = [accuracy.errors(kind, distance, size, 64, seed, ("textbook", "auto")) for seed in range(SEEDS)]
    for part, floor in ((0, HALF_ULP), (1, 0.0)):
        auto, plain = ((sum(run[form][part] ** 2 for run in runs) / SEEDS) ** 0.5 for form in ("auto", "textbook"))
        assert auto <= max(plain, floor)


@pytest.mark.parametrize("form", ["gram", "factored"])
@pytest.mark.parametrize("kind", accuracy.KINDS)
def test_both_forms_stay_accurate(backend, kind, form):
    value, gradient = accuracy.errors(kind, 1e-4, 200, 32, forms=(form,))[form]
    assert value < 5e-7 and gradient < 5e-7
