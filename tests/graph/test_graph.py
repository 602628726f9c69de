"""KNNGraph: what it accepts, its affinities, its edges, and its verification against exact distances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.graph import KNNGraph
from ferkit.graph.fingerprint import fingerprints, ids_sha256, points_sha256

GOLDENS = __file__.replace("graph/test_graph.py", "goldens/alsg_graph.npz")


def brute(points, k, metric="l2", members=None, ids=None):
    """A graph by loops in float64, ties to the lower index."""
    rows = torch.as_tensor(points).double()
    n = len(rows)
    members = range(n) if members is None else members
    indices = torch.full((n, k), -1)
    distances = torch.full((n, k), torch.inf, dtype=torch.float64)
    for i in members:
        found = []
        for j in members:
            if i == j:
                continue
            gap = rows[i] - rows[j]
            if metric == "l2":
                value = float(gap.square().sum())
            elif metric == "l1":
                value = float(gap.abs().sum())
            else:
                value = 1 - float(rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm()))
            found.append((value, j))
        for column, (value, j) in enumerate(sorted(found)[:k]):
            indices[i, column], distances[i, column] = j, value
    meta = {"format": "ferkit.knn/1", "n": n, "dim": rows.shape[1], "k": k, "metric": metric, "method": "exact"}
    return KNNGraph(indices, distances, {**meta, "zero_distance": 0.0, **fingerprints(torch.as_tensor(points), ids)})


@pytest.fixture
def points():
    return torch.randn(23, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def table(indices, distances, **changes):
    indices, distances = torch.tensor(indices), torch.tensor(distances)
    meta = {"format": "ferkit.knn/1", "n": len(indices), "dim": 1, "k": indices.shape[1], "metric": "l2"}
    return KNNGraph(indices, distances, {**meta, "method": "exact", **changes})


def test_goldens_affinity_and_table():
    golden = np.load(GOLDENS)
    for name, rows, sigma in (("au", "au", 1.0), ("lm", "landmarks", 68.0)):
        graph = brute(golden[rows], int(golden["k"]))
        assert torch.equal(graph.indices, torch.from_numpy(golden[f"{name}_idx"]).long())
        torch.testing.assert_close(graph.distances, torch.from_numpy(golden[f"{name}_sqdist"]), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            graph.affinity(sigma), torch.from_numpy(golden[f"{name}_sim"]), rtol=1e-9, atol=1e-12
        )


def test_laplacian_is_ldlvas(points):
    graph = brute(points, 4, "l1")
    expected = torch.exp(-(points[:, None] - points[graph.indices]).abs().sum(2) / 0.5)
    torch.testing.assert_close(graph.affinity(0.5, "laplacian"), expected)


@pytest.mark.parametrize(("metric", "kind"), [("l1", "gaussian"), ("l2", "laplacian"), ("cosine", "gaussian")])
def test_affinity_of_another_metric_is_refused(points, metric, kind):
    with pytest.raises(
        ValueError, match=r"kind: .* needs l\d distances, and this graph holds .*: build it with metric"
    ):
        brute(points, 2, metric).affinity(1.0, kind)


def test_affinity_is_zero_where_there_is_none():
    graph = table([[1, -1], [0, -1], [-1, -1]], [[0.0, np.inf], [0.0, np.inf], [np.inf, np.inf]])
    assert graph.affinity(1e-3).tolist() == [[1, 0], [1, 0], [0, 0]]
    for sigma in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sigma"):
            graph.affinity(sigma)


BAD = {
    "itself": (([[0], [0]], [[1.0], [1.0]]), "no row as its own"),
    "range": (([[2], [0]], [[1.0], [1.0]]), r"0\.\.1 or -1"),
    "below": (([[-2], [0]], [[1.0], [1.0]]), r"0\.\.1 or -1"),
    "negative": (([[1], [0]], [[-1.0], [1.0]]), "0 or more"),
    "nan": (([[1], [0]], [[np.nan], [1.0]]), "0 or more"),
    "padding": (([[-1], [0]], [[1.0], [1.0]]), "infinity"),
    "infinite": (([[1], [0]], [[np.inf], [1.0]]), "infinity"),
    "order": (([[1, 2], [0, 2], [0, 1]], [[2.0, 1.0]] * 3), "nearest first"),
    "gap": (([[-1, 2], [0, 2], [0, 1]], [[np.inf, 1.0]] + [[1.0, 2.0]] * 2), "nearest first"),
}


@pytest.mark.parametrize("name", BAD)
def test_tables_that_are_no_graph(name):
    (indices, distances), message = BAD[name]
    with pytest.raises(ValueError, match=message):
        table(indices, distances)


def test_types_and_meta():
    with pytest.raises(TypeError, match=r"indices: expected dtype torch\.int64"):
        KNNGraph(torch.zeros(2, 1, dtype=torch.int32), torch.zeros(2, 1), {})
    with pytest.raises(TypeError, match="distances: expected dtype"):
        KNNGraph(torch.zeros(2, 1).long(), torch.zeros(2, 1).half(), {})
    with pytest.raises(ValueError, match=r"distances: expected shape \(2, 1\)"):
        KNNGraph(torch.zeros(2, 1).long(), torch.zeros(2, 2), {})
    with pytest.raises(ValueError, match="got none of format"):
        KNNGraph(torch.zeros(2, 1).long(), torch.zeros(2, 1), {})
    for change, message in (({"k": 7}, "k=7"), ({"metric": "l3"}, "metric"), ({"format": "other"}, "format")):
        with pytest.raises(ValueError, match=message):
            table([[1], [0]], [[1.0], [1.0]], **change)


def test_frozen_and_short_repr(points):
    graph = brute(points, 2)
    with pytest.raises(AttributeError):
        graph.indices = graph.indices
    assert repr(graph) == "KNNGraph(n=23, k=2, dim=3, metric=l2, method=exact, edges=46)"
    assert "recall=0.9991, isolated=2" in repr(table([[1], [0]], [[1.0], [1.0]], recall=0.99912, isolated=2))


def test_take(points):
    graph = brute(points, 5)
    fewer = graph.take(2)
    assert torch.equal(fewer.indices, graph.indices[:, :2]) and torch.equal(fewer.distances, graph.distances[:, :2])
    assert fewer.meta["k"] == 2 and graph.meta["k"] == 5 and fewer.take(1).meta["recall_k"] == 5
    assert graph.take(0).indices.shape == (23, 0) and graph.take(0).edge_index().shape == (2, 0)
    with pytest.raises(ValueError, match="k: expected"):
        graph.take(6)
    zeros = table([[1, 2], [0, 2], [0, 1]], [[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]], zero_distance=2 / 6)
    assert zeros.take(1).meta["zero_distance"] == pytest.approx(2 / 3)


def test_edges_by_hand():
    graph = table([[2, 1], [0, -1], [0, 1]], [[1.0, 3.0], [3.0, np.inf], [1.0, 4.0]])
    assert graph.edge_index().tolist() == [[2, 1, 0, 0, 1], [0, 0, 1, 2, 2]]
    assert graph.edge_index("target_to_source").tolist() == [[0, 0, 1, 2, 2], [2, 1, 0, 0, 1]]
    index, weight = graph.edge_index(weight=graph.affinity(1.0))
    assert index.shape == (2, 5) and weight.tolist() == graph.affinity(1.0)[graph.valid].tolist()
    indptr, indices, data = graph.csr()
    assert (indptr.tolist(), indices.tolist(), data.tolist()) == ([0, 2, 3, 5], [2, 1, 0, 0, 1], [1, 3, 3, 1, 4])
    with pytest.raises(ValueError, match="flow"):
        graph.edge_index("both")
    with pytest.raises(ValueError, match=r"weight: expected shape \(3, 2\)"):
        graph.csr(torch.zeros(3, 1))


def test_to_scipy_keeps_zeros_and_order():
    sparse = pytest.importorskip("scipy.sparse")
    graph = table([[2, 1], [0, -1], [0, 1]], [[0.0, 3.0], [3.0, np.inf], [0.0, 4.0]])
    matrix = graph.to_scipy()
    assert sparse.issparse(matrix) and matrix.shape == (3, 3) and matrix.nnz == 5
    assert matrix.toarray().tolist() == [[0, 3, 0], [3, 0, 0], [0, 4, 0]]
    assert sparse.csgraph.connected_components(graph.to_scipy(graph.affinity(1.0)))[0] == 1


def test_to_scipy_gives_scikit_learn_its_precomputed_graph(points):
    neighbors = pytest.importorskip("sklearn.neighbors")
    graph = brute(points, 6, "l1")
    search = neighbors.NearestNeighbors(n_neighbors=4, metric="precomputed").fit(graph.to_scipy())
    assert np.array_equal(search.kneighbors(graph.to_scipy(), return_distance=False), graph.take(4).indices.numpy())


@pytest.mark.parametrize("mode", ["union", "mutual"])
@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 10_000))
def test_symmetrize_against_sets(mode, n, k, seed):
    rows = torch.randint(0, 4, (n, 2), generator=torch.Generator().manual_seed(seed)).double()
    graph = brute(rows, k)
    listed = {(i, int(j)): float(d) for i in range(n) for j, d in zip(graph.indices[i], graph.distances[i]) if j >= 0}
    keep = any if mode == "union" else all
    expected = {
        pair: listed.get(pair, listed.get(pair[::-1]))
        for pair in ((i, j) for i in range(n) for j in range(n))
        if keep(p in listed for p in (pair, pair[::-1]))
    }
    edges = graph.symmetrize(mode)
    found = list(zip(edges.centre.tolist(), edges.neighbor.tolist()))
    assert found == sorted(expected) and edges.distances.tolist() == [expected[pair] for pair in found]
    indptr, indices, _ = edges.csr()
    assert indptr.tolist() == [sum(pair[0] < row for pair in found) for row in range(n + 1)]
    assert indices.tolist() == [pair[1] for pair in found]
    assert edges.edge_index("target_to_source").tolist() == [list(side) for side in zip(*found)] or not found


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
def test_verify_exact(points, metric):
    found = brute(points + 1e4 * (metric != "cosine"), 5, metric)
    figures = found.verify(points + 1e4 * (metric != "cosine"))
    assert figures["recall"] == 1 and figures["rows"] == 23 and figures["distance_error"] < 1e-9


def test_verify_sees_what_is_wrong(points):
    graph = brute(points, 4)
    far = brute(points, 22)
    wrong = graph.indices.clone()
    distances = graph.distances.clone()
    wrong[:, 3], distances[:, 3] = far.indices[:, 10], far.distances[:, 10]
    assert KNNGraph(wrong, distances, graph.meta).verify(points)["recall"] == pytest.approx(0.75)
    twice = graph.indices.clone()
    twice[:, 1] = twice[:, 0]  # one neighbour listed twice is found once
    assert KNNGraph(twice, graph.distances, graph.meta).verify(points)["recall"] == pytest.approx(0.75)
    moved = KNNGraph(graph.indices, graph.distances + 0.5, graph.meta)
    assert moved.verify(points)["distance_error"] > 0.1


def test_verify_counts_a_tie_as_right():
    rows = torch.tensor([[0.0], [1.0], [-1.0], [5.0]])
    graph = brute(rows, 1)
    other = graph.indices.clone()
    other[0, 0] = 2  # as near as row 1
    assert KNNGraph(other, graph.distances, graph.meta).verify(rows)["recall"] == 1


def test_verify_leaves_out_rows_without_neighbours_and_excluded_pairs(points):
    rows = points.clone()
    rows[3] = torch.nan
    members = [i for i in range(23) if i != 3]
    graph = brute(rows, 4, members=members)
    assert graph.verify(rows)["recall"] == 1 and graph.verify(rows)["rows"] == 22
    pair = torch.tensor([[0], [int(graph.indices[0, 0])]])
    indices, distances = graph.indices.clone(), graph.distances.clone()
    for a, b in (pair[:, 0].tolist(), pair[:, 0].flip(0).tolist()):
        full = brute(rows, 5, members=members)
        keep = full.indices[a] != b
        indices[a], distances[a] = full.indices[a][keep][:4], full.distances[a][keep][:4]
    without = KNNGraph(indices, distances, graph.meta)
    assert without.verify(rows)["recall"] < 1
    assert without.verify(rows, exclude=pair)["recall"] == 1


def test_verify_samples_and_refuses_other_points(points):
    graph = brute(points, 3)
    assert graph.verify(points, rows=7)["rows"] == 7
    with pytest.raises(ValueError, match="as many rows, with other values"):
        graph.verify(points + 1)
    with pytest.raises(ValueError, match="it has 23 rows, the data 5"):
        graph.verify(points[:5])
    empty = table([[-1], [-1]], [[np.inf], [np.inf]])
    assert empty.verify(torch.zeros(2, 1)) == {"recall": 1.0, "rows": 0, "distance_error": 0.0}


def test_fingerprints_of_layouts_and_kinds():
    rows = torch.randn(6, 4)
    assert points_sha256(rows) == points_sha256(rows.T.contiguous().T) == points_sha256(rows.numpy())
    assert points_sha256(rows.numpy().astype(">f4")) == points_sha256(rows)
    assert points_sha256(rows[::2]) == points_sha256(rows[::2].clone())
    assert points_sha256(rows) != points_sha256(rows.double()) and points_sha256(rows) != points_sha256(rows.flip(0))
    assert points_sha256(torch.zeros(0, 4)) != points_sha256(torch.zeros(0, 3))
    assert ids_sha256(["a1", "b"]) != ids_sha256(["a", "1b"]) and ids_sha256(range(3)) == ids_sha256(["0", "1", "2"])


def test_fingerprints_are_fixed():
    assert points_sha256(torch.arange(6.0).view(2, 3))[:16] == POINTS
    assert ids_sha256(["a.png", "b.png"])[:16] == IDS


POINTS, IDS = "187658118d7ef48f", "a00a727e0a419bdc"


def test_lists_are_rows_too():
    from ferkit.graph import knn_graph

    rows = [[0.0, 1.0], [2.0, 3.0], [5.0, 1.0]]
    graph = knn_graph(rows, 1)
    assert graph.verify(rows)["recall"] == 1
    with pytest.raises(ValueError, match="with other values"):
        graph.check([[0.0, 1.0], [2.0, 3.0], [5.0, 2.0]])


def test_ids_in_a_tensor_are_its_numbers():
    assert ids_sha256(torch.arange(3)) == ids_sha256([0, 1, 2]) == ids_sha256(np.arange(3))
