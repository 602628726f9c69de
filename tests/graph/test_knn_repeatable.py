"""The same ids for any number of threads, any block size, every run; recall that is what it says."""

import contextlib
import warnings

import numpy as np
import pytest
import torch

from ferkit.functional import force_backend
from ferkit.graph import _blocks, _cells, _exact, _ivf, _rows, _scan, knn_graph
from ferkit.graph._threads import Crew, crew


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        assert torch.get_num_threads() == count, "knn_graph changed the number of threads"
        torch.set_num_threads(before)


def action_units(rows, seed=0):
    generator = np.random.default_rng(seed)
    points = generator.standard_normal((rows, 6)) @ generator.standard_normal((6, 17)) * 0.6
    points += 0.4 * generator.standard_normal((rows, 17))
    points = np.round(np.clip(points, 0, 5), 2).astype(np.float32)
    points[generator.integers(0, rows, rows // 25)] = points[generator.integers(0, rows, rows // 25)]
    return points


def landmarks(rows, seed=0):
    generator = np.random.default_rng(seed)
    modes = np.linalg.qr(generator.standard_normal((136, 20)))[0].T
    points = generator.standard_normal((rows, 20)) * (90 * 0.8 ** np.arange(20)) @ modes
    return np.round(300 + points + 0.8 * generator.standard_normal((rows, 136)), 1).astype(np.float32)


def ways(points, k, **options):
    """Tables for 1 and 2 threads, several limits of memory, and again."""
    for count, memory in ((1, None), (2, None), (2, None), (2, 1 << 20), (1, 1 << 16)):
        with threads(count):
            graph = knn_graph(points, k, max_memory=memory, **options)
        yield graph.indices, graph.distances, graph.meta


def assert_one_answer(points, k, **options):
    first, *others = ways(points, k, **options)
    for other in others:
        assert torch.equal(first[0], other[0])
        assert torch.equal(first[1], other[1])
        assert first[2] == other[2]
    return first


@pytest.mark.parametrize("make", [action_units, landmarks])
def test_ivf_without_the_native_library(make):
    points = make(6_000)
    graph = knn_graph(points, 8, method="ivf", target_recall=0.98)
    with force_backend("eager"):
        other = knn_graph(points, 8, method="ivf", target_recall=0.98)
    assert other.meta["recall"] >= 0.98
    assert (graph.indices == other.indices).float().mean() > 0.999


@pytest.mark.parametrize("make", [action_units, landmarks])
def test_ivf(make):
    points = make(12_000)
    _, distances, meta = assert_one_answer(points, 8, method="ivf", target_recall=0.98)
    assert meta["method"] == "ivf"
    assert meta["parameters"]["dimensions"] == (24 if make is landmarks else 17)
    assert (meta["parameters"]["variance_kept"] is not None) == (make is landmarks)
    exact = knn_graph(points, 8, method="exact")
    right = (distances <= exact.distances[:, -1:] * (1 + 1e-6)).float().mean()
    assert right >= 0.98
    assert abs(right - meta["recall"]) < 0.005
    assert meta["recall_rows"] == 2000


def test_as_many_axes_as_tell_neighbours_apart():
    generator = np.random.default_rng(0)
    modes = np.linalg.qr(generator.standard_normal((136, 136)))[0]
    spread = np.concatenate([10 * 0.75 ** np.arange(12), np.full(28, 0.8), np.full(96, 0.25)])  # 24 axes keep 96 %
    points = (generator.standard_normal((12_000, 136)) * spread @ modes).astype(np.float32)
    _, distances, meta = assert_one_answer(points, 8, method="ivf", target_recall=0.99)
    assert meta["method"] == "ivf"
    assert 24 < meta["parameters"]["dimensions"] <= 68
    exact = knn_graph(points, 8, method="exact")
    assert (distances <= exact.distances[:, -1:] * (1 + 1e-6)).float().mean() >= 0.99


def test_the_widest_axes_come_first_where_they_tell_rows_apart():
    generator = torch.Generator().manual_seed(0)
    some = torch.randn(4000, 60, generator=generator) * torch.cat([torch.ones(10), 0.05 * torch.ones(50)])
    rows = _rows.Rows(some.numpy(), np.arange(4000), "l2")
    projected = _cells.project(rows, Crew(1, None), 0, 4.0 / rows.unit**2)
    variances = projected.points.var(0)
    assert projected.points.shape[1] == 24 and projected.lead == 16
    assert (variances.diff() < 1e-6).all()
    assert _cells.project(rows, Crew(1, None), 0, None).lead == 60


def test_no_projection_where_candidates_get_lost_by_it(monkeypatch):
    monkeypatch.setattr(_cells, "KEPT", 0.0)  # 24 axes, whatever they keep
    generator = np.random.default_rng(0)
    points = np.repeat(30 * generator.standard_normal((40, 96)), 300, axis=0)
    points += generator.standard_normal(points.shape)  # the neighbours within a cluster differ along all 96
    graph = knn_graph(points, 8, method="ivf", target_recall=0.99)
    assert graph.meta["method"] == "ivf"
    assert graph.meta["parameters"]["dimensions"] == 96
    exact = knn_graph(points, 8, method="exact")
    assert (graph.distances <= exact.distances[:, -1:] * (1 + 1e-6)).float().mean() >= 0.99


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
def test_exact(metric, monkeypatch):
    points = action_units(3000)
    points = points[points.any(1)]
    first = assert_one_answer(points, 5, method="exact", metric=metric)
    monkeypatch.setattr(_exact, "BASE", 700)
    monkeypatch.setattr(_exact, "SPARES", 1)  # nearly every certificate fails
    other = knn_graph(points, 5, method="exact", metric=metric)
    assert torch.equal(first[0], other.indices)
    if metric != "l1":
        monkeypatch.setattr(_blocks, "need_faiss", _missing)
        without = knn_graph(points, 5, method="exact", metric=metric)
        assert without.meta["engine"] == "torch"
        assert torch.equal(first[0], without.indices)


def _missing():
    raise ImportError(_blocks.MISSING)


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
def test_kdtree(metric):
    generator = np.random.default_rng(0)
    points = np.round(generator.normal(0, 0.3, (4000, 2)), 2).astype(np.float32)
    points = points[points.any(1)]
    first = assert_one_answer(points, 8, method="kdtree", metric=metric)
    assert torch.equal(first[0], knn_graph(points, 8, method="exact", metric=metric).indices)


def test_recall_of_an_unreachable_target_gives_the_exact_graph():
    points = np.random.default_rng(0).normal(size=(3000, 40)).astype(np.float32)
    with pytest.warns(UserWarning, match="quarter of the .* cells.*built exactly"):
        graph = knn_graph(points, 4, method="ivf", target_recall=1.0)
    assert graph.meta["method"] == "exact"
    assert graph.meta["recall"] == 1.0
    assert graph.meta["parameters"]["instead_of"] == "ivf"
    assert torch.equal(graph.indices, knn_graph(points, 4, method="exact").indices)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 40, 130])
def test_ivf_of_few_rows(rows):
    points = np.random.default_rng(0).normal(size=(rows, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = knn_graph(points, 2, method="ivf")
        assert torch.equal(graph.indices, knn_graph(points, 2, method="exact").indices)


def test_ivf_of_skewed_cells():
    """Most rows in one spot: cells that are empty, and cells far larger than a block."""
    generator = np.random.default_rng(0)
    points = np.concatenate([generator.normal(0, 1e-3, (9000, 3)), generator.normal(0, 10, (1000, 3))])
    graph = knn_graph(points, 5, method="ivf", target_recall=0.95)
    exact = knn_graph(points, 5, method="exact")
    assert (graph.distances <= exact.distances[:, -1:] * (1 + 1e-6)).float().mean() >= 0.95


def test_projection_only_where_it_keeps_the_variance():
    flat = np.random.default_rng(0).normal(size=(9000, 60)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = knn_graph(flat, 2, method="ivf", target_recall=0.2).meta
    assert meta["parameters"]["dimensions"] == 60
    assert meta["parameters"]["variance_kept"] is None


def test_cells_do_not_depend_on_threads_and_seeds_change_them():
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32))
    found = []
    for count, seed in ((1, 0), (2, 0), (1, 1)):
        with threads(count), crew() as some:
            found.append(_cells.centroids(points, 32, some, seed))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("backend", [None, "eager"])
def test_rows_among_small_cells_have_their_nearest(backend):
    """Where the cells around hold too few rows for a bound, the rows of all visited cells are candidates."""
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)) / 4
    scan = _scan.CellScan(_cells.Projected(points, points.square().sum(1), None, 5), 40, Crew(1, None), 0)
    cells = scan.cells[scan.order]
    with force_backend(backend) if backend else contextlib.nullcontext():
        found = scan.candidates(scan.points, cells, 40, 40)
    far = torch.cdist(scan.points.double(), points.double())
    assert np.array_equal(found, far.argsort(dim=1, stable=True)[:, :40].numpy())


@pytest.mark.parametrize("queries, hits", [(1, 1), (7, 5000), (8192, 20_000)])
def test_hits_in_order_of_query_then_value_then_coming(queries, hits):
    generator = np.random.default_rng(0)
    query = generator.integers(0, queries, hits)
    value = generator.integers(-40, 40, hits).astype(np.float32) / 8  # many ties, both signs
    assert (_scan._by_query(query, value, queries) == np.lexsort((np.arange(hits), value, query))).all()


def test_cells_are_raised_by_what_the_lost_neighbours_ask_for():
    ranks = np.array([[0, 1, 2, 40]] * 90 + [[0, 1, 2, 3]] * 10)
    assert _ivf._fewest(ranks, 0.77, 256, True, 4) == 4  # (90 * 3 + 10 * 4) / 400 = 0.775
    assert _ivf._fewest(ranks, 0.78, 256, True, 4) == 44
    gone = ~_ivf._among(np.array([[5, 6, 7, 8]]), np.array([[9, 7, 5, 6]])) & (ranks < 4)
    assert gone.sum(0).tolist() == [0, 0, 0, 10]
    assert _ivf._fewest(np.where(gone, 256, ranks), 0.77, 256, True, 8) == 44  # 0.75 at 4, as found
    assert _ivf._fewest(np.where(gone, 256, ranks), 0.98, 256, True, 8) == 256
