"""knn_graph against the golden graph and a brute-force oracle in float64."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.graph import knn_graph

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "alsg_graph.npz")


def oracle(points, k, metric="l2", excluded=()):
    """Loops in float64: (ids, distances), ties to the lower index."""
    points = points.astype(np.float64)
    if metric == "cosine":
        points = points / np.sqrt((points**2).sum(1, keepdims=True))
    n = len(points)
    ids, near = np.full((n, k), -1), np.full((n, k), np.inf)
    for row in range(n):
        difference = points - points[row]
        far = np.abs(difference).sum(1) if metric == "l1" else (difference**2).sum(1)
        far = far / 2 if metric == "cosine" else far
        found = [other for other in range(n) if other != row and (row, other) not in excluded]
        found = sorted(found, key=lambda other: (far[other], other))[:k]
        ids[row, : len(found)], near[row, : len(found)] = found, far[found]
    return ids, near


def built(points, k, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return knn_graph(points, k, **options)


@pytest.mark.parametrize("space, width", [("au", 17), ("lm", 136)])
@pytest.mark.parametrize("method", ["auto", "exact", "kdtree", "ivf"])
def test_golden(space, width, method):
    points = GOLDEN["au" if space == "au" else "landmarks"]
    if method == "kdtree" and width > 24:
        pytest.skip("refused, see test_knn_inputs")
    graph = built(points, int(GOLDEN["k"]), method=method)
    assert graph.indices.tolist() == GOLDEN[f"{space}_idx"].tolist()
    np.testing.assert_allclose(graph.distances.numpy(), GOLDEN[f"{space}_sqdist"], rtol=1e-9)
    assert graph.distances.dtype == torch.float64


@st.composite
def tables(draw):
    """Values on a coarse grid: sums are exact, ties and copies abound; offsets keep them exact."""
    rows, columns = draw(st.integers(2, 40)), draw(st.sampled_from([1, 2, 3, 5, 17]))
    levels = draw(st.sampled_from([1, 2, 4, 12]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    points = generator.integers(0, levels + 1, (rows, columns)) / 4
    points[generator.random(rows) < draw(st.sampled_from([0.0, 0.3, 0.9]))] = 0
    points += draw(st.sampled_from([0.0, 0.0, 1000.0, 1e5]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return points.astype(dtype), draw(st.integers(1, rows - 1))


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(["exact", "kdtree", "ivf"]), st.sampled_from(["l2", "l1"]))
def test_against_the_oracle(table, method, metric):
    points, k = table
    if (method, metric) == ("ivf", "l1"):
        method = "exact"
    graph = built(points, k, method=method, metric=metric)
    ids, near = oracle(points, k, metric)
    assert graph.indices.tolist() == ids.tolist()
    np.testing.assert_allclose(graph.distances.numpy(), near, rtol=1e-9 if points.dtype == np.float64 else 1e-6)


@settings(max_examples=30, deadline=None)
@given(tables(), st.sampled_from(["exact", "kdtree"]))
def test_cosine_against_the_oracle(table, method):
    """Scaled rows round, so ties are not exact: distances are compared, and that ids have them."""
    points, k = table
    points = points + 0.25
    graph = built(points, k, method=method, metric="cosine")
    near = oracle(points, k, "cosine")[1]
    np.testing.assert_allclose(graph.distances.numpy(), near, rtol=1e-6, atol=1e-14)
    unit = points.astype(np.float64) / np.linalg.norm(points.astype(np.float64), axis=1, keepdims=True)
    mine = 1 - (unit[:, None] * unit[graph.indices.numpy()]).sum(2)
    np.testing.assert_allclose(graph.distances.numpy(), mine, rtol=1e-5, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(tables(), st.integers(0, 2**32), st.sampled_from(["exact", "kdtree"]))
def test_excluded_pairs(table, seed, method):
    points, k = table
    pairs = np.random.default_rng(seed).integers(0, len(points), (2, 3 * len(points)))
    graph = built(points, k, method=method, exclude=torch.from_numpy(pairs))
    excluded = {*zip(*pairs.tolist()), *zip(*pairs[::-1].tolist())}
    assert graph.indices.tolist() == oracle(points, k, excluded=excluded)[0].tolist()


def test_many_excluded_pairs_of_one_row():
    points = np.random.default_rng(0).integers(0, 9, (300, 3)) / 2
    pairs = np.stack([np.zeros(150, int), np.arange(1, 151)])
    excluded = {*zip(*pairs.tolist()), *zip(*pairs[::-1].tolist())}
    for method in ("exact", "kdtree"):
        graph = built(points, 6, method=method, exclude=pairs)
        assert graph.indices.tolist() == oracle(points, 6, excluded=excluded)[0].tolist()


@pytest.mark.parametrize("method", ["exact", "kdtree", "ivf"])
def test_groups_of_copies_larger_than_k(method):
    points = np.repeat(np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]]), [500, 2, 300], axis=0)
    points = points[np.random.default_rng(0).permutation(len(points))]
    points[::7] *= -1  # -0.0 equals 0.0
    ids, near = oracle(points, 8)
    graph = built(points, 8, method=method)
    assert graph.indices.tolist() == ids.tolist()
    assert (graph.distances.numpy() == near).all()
    assert graph.meta["copies"] == len(points) - len(np.unique(points + 0.0, axis=0))


@pytest.mark.parametrize("metric", ["l2", "l1"])
def test_a_grid_with_masses_of_equal_distances(metric):
    """Every certificate fails: rows 0..k-1 of each shell are what counts."""
    axes = np.stack(np.meshgrid(*[np.arange(6.0)] * 4, indexing="ij"), -1).reshape(-1, 4)
    ids = oracle(axes, 11, metric)[0]
    for method in ("exact", "kdtree"):
        assert built(axes, 11, method=method, metric=metric).indices.tolist() == ids.tolist()


def test_equidistant_rows():
    points = np.eye(200)
    graph = built(points, 5, method="exact")
    assert graph.indices[0].tolist() == [1, 2, 3, 4, 5]
    assert graph.indices[150].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("offset", [0.0, 16_000.0, 1e5, 1e9])
def test_offsets_change_nothing(offset):
    points = np.random.default_rng(0).integers(0, 1000, (800, 30)) / 8
    assert built(points + offset, 8).indices.tolist() == oracle(points, 8)[0].tolist()


def test_far_clusters_of_tight_rows():
    """float32 cannot tell the rows of a cluster apart once centred: every row is searched again in float64."""
    generator = np.random.default_rng(0)
    points = generator.choice([-1e6, 1e6], (300, 6)) + generator.integers(0, 64, (300, 6)) / 2**12
    assert built(points, 4, method="exact").indices.tolist() == oracle(points, 4)[0].tolist()


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e140])
def test_scales(scale):
    points = np.random.default_rng(0).normal(size=(200, 5))
    expected = oracle(points, 5)[0].tolist()
    for method in ("exact", "kdtree"):
        assert built(points * scale, 5, method=method).indices.tolist() == expected


def test_distances_that_float32_cannot_hold_stay_finite():
    points = np.array([[0.0], [3e38], [1e38]], np.float32)
    graph = built(points, 2)
    assert graph.indices.tolist() == [[2, 1], [2, 0], [0, 1]]
    assert torch.isfinite(graph.distances).all()
