"""What knn_graph takes, refuses and warns of."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from ferkit.graph import knn_graph
from ferkit.graph.build import choose_method

POINTS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "n, d, device, method",
    [
        (0, 3, "cpu", "exact"),
        (1, 300, "cpu", "exact"),
        (2, 4, "cpu", "kdtree"),
        (10**7, 1, "cpu", "kdtree"),
        (50_000, 5, "cpu", "exact"),
        (50_001, 5, "cpu", "ivf"),
        (300_000, 2, "cuda", "exact"),
        (2_000_001, 2, "cuda", "ivf"),
    ],
)
def test_choose_method(n, d, device, method):
    assert choose_method(n, d, device) == method


@pytest.mark.parametrize("method", ["auto", "exact", "kdtree", "ivf"])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows(n, method):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        graph = knn_graph(POINTS[:n], 3, method=method)
    assert sum("neighbours asked of" in str(one.message) for one in said) == (n > 0)
    assert graph.indices.shape == graph.distances.shape == (n, 3)
    expected = [[1, -1, -1], [0, -1, -1]] if n == 2 else [[-1, -1, -1]] * n
    assert graph.indices.tolist() == expected
    assert torch.isinf(graph.distances[graph.indices < 0]).all()


def test_padding_warns_once():
    with pytest.warns(UserWarning, match="50 neighbours asked of 50 rows") as said:
        graph = knn_graph(POINTS, 50)
    assert len(said) == 1
    assert (graph.indices[:, :49] >= 0).all()
    assert (graph.indices[:, 49] == -1).all()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8]
)
def test_dtypes(dtype):
    points = torch.arange(12).reshape(6, 2).to(dtype)
    graph = knn_graph(points, 1)
    assert graph.indices[:, 0].tolist() == [1, 0, 1, 2, 3, 4]
    half = dtype in (torch.float16, torch.bfloat16, torch.float32)
    assert graph.distances.dtype == (torch.float32 if half else torch.float64)
    assert (graph.distances == 8).all()


def test_layouts_give_one_graph(tmp_path):
    expected = knn_graph(POINTS, 4)
    table = np.memmap(tmp_path / "points", np.float32, "w+", shape=POINTS.shape)
    table[:] = POINTS
    wide = torch.zeros(100, 6)
    wide[::2, ::2] = torch.from_numpy(POINTS)
    frozen = POINTS.copy()
    frozen.setflags(write=False)
    for points in (table, wide[::2, ::2], torch.from_numpy(POINTS).requires_grad_(), np.asfortranarray(POINTS), frozen,
                   POINTS.astype(">f4"), POINTS.tolist()):  # fmt: skip
        found = knn_graph(points, 4)
        assert torch.equal(found.indices, expected.indices)
    assert (frozen == POINTS).all()


def test_meta():
    graph = knn_graph(POINTS, 4, ids=[f"{i}.png" for i in range(50)], seed=3)
    meta = graph.meta
    assert (meta["n"], meta["dim"], meta["k"], meta["metric"], meta["method"]) == (50, 3, 4, "l2", "kdtree")
    assert (meta["engine"], meta["recall"], meta["seed"], meta["isolated"], meta["copies"]) == ("scipy", 1.0, 3, 0, 0)
    assert meta["ids_sha256"] and meta["points_sha256"] and "scipy" in meta["versions"]
    graph.check(POINTS, ids=[f"{i}.png" for i in range(50)])
    assert graph.verify(POINTS)["recall"] == 1.0


def test_zero_distance_and_copies():
    points = np.array([[0.0], [0.0], [0.0], [4.0]])
    with pytest.warns(UserWarning):
        meta = knn_graph(points, 4).meta
    assert meta["copies"] == 2
    assert meta["zero_distance"] == 6 / 12


@pytest.mark.parametrize("method", ["exact", "kdtree", "ivf"])
def test_subset_and_isolated_rows(method):
    points = POINTS.copy()
    points[[3, 17], [0, 1]] = np.nan, np.inf
    mask = np.ones(50, bool)
    mask[20:30] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = knn_graph(points, 4, method=method, subset=mask, nonfinite="isolate")
        positions = knn_graph(points, 4, method=method, subset=np.nonzero(mask)[0][::-1], nonfinite="isolate")
    alone = [3, 17, *range(20, 30)]
    kept = np.setdiff1d(np.arange(50), alone)
    assert (graph.indices[alone] == -1).all()
    assert not np.isin(graph.indices.numpy(), alone).any()
    assert graph.meta["isolated"] == 12
    assert torch.equal(graph.indices, positions.indices)
    inner = knn_graph(points[kept], 4, method="exact")
    assert (graph.indices[kept].numpy() == kept[inner.indices.numpy()]).all()


def test_nothing_takes_part():
    for subset in (np.zeros(50, bool), []):
        with pytest.warns(UserWarning, match="0 rows"):
            graph = knn_graph(POINTS, 2, subset=subset)
        assert (graph.indices == -1).all()


def test_bad_rows_are_named():
    points = POINTS.copy()
    points[[4, 7, 9], 1] = np.nan
    with pytest.raises(ValueError, match=r"points: .* NaN or infinity in 3 of 50 rows: 4, 7, 9 .*isolate"):
        knn_graph(points, 2)
    points = np.abs(POINTS)
    points[5] = 0
    with pytest.raises(ValueError, match=r"direction.* zeros alone in 1 of 50 rows: 5"):
        knn_graph(points, 2, metric="cosine")
    assert knn_graph(points, 2, metric="cosine", nonfinite="isolate").indices[5].tolist() == [-1, -1]
    knn_graph(np.where(np.arange(50)[:, None] == 5, np.nan, points), 2, subset=np.arange(50) != 5)


def test_a_dominant_column_is_warned_of_and_left_alone():
    points = POINTS.astype(np.float64) * [1, 5000, 1]
    with pytest.warns(UserWarning, match="column 1 is spread"):
        graph = knn_graph(points, 1)
    assert graph.distances.max() > 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        knn_graph(POINTS * np.float32([1, 500, 1]), 1)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"k": 0}, ValueError, "k: "),
        ({"k": 2.0}, TypeError, "k: "),
        ({"k": True}, TypeError, "k: "),
        ({"method": "hnsw"}, ValueError, "method: .*'auto'.*'hnsw'"),
        ({"metric": "dot"}, ValueError, "metric: "),
        ({"metric": "l1", "method": "ivf"}, ValueError, "method: .*l1"),
        ({"target_recall": 0}, ValueError, "target_recall: "),
        ({"target_recall": 1.1}, ValueError, "target_recall: "),
        ({"nonfinite": "drop"}, ValueError, "nonfinite: "),
        ({"seed": -1}, ValueError, "seed: "),
        ({"max_memory": 0}, ValueError, "max_memory: "),
        ({"device": "tpu9"}, ValueError, "device: "),
        ({"device": "meta"}, ValueError, "device: "),
        ({"ids": ["a"]}, ValueError, "ids: expected 50.*got 1"),
        ({"subset": np.ones(3, bool)}, ValueError, "subset: "),
        ({"subset": [50]}, ValueError, "subset: .*0..49"),
        ({"subset": [0.5]}, TypeError, "subset: "),
        ({"exclude": np.zeros((3, 2), int)}, ValueError, "exclude: .*(2, E)"),
        ({"exclude": np.array([[0], [50]])}, ValueError, "exclude: .*0..49"),
        ({"points": POINTS[0]}, ValueError, "points: .*(N, D)"),
        ({"points": POINTS[:, :0]}, ValueError, "points: .*column"),
        ({"points": POINTS > 0}, TypeError, "points: "),
        ({"points": np.full((3, 2), 1e200)}, ValueError, "points: expected values within"),
        ({"points": np.zeros((5, 25)), "method": "kdtree"}, ValueError, "method: .*25 columns"),
    ],
)
def test_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        knn_graph(**{"points": POINTS, "k": 2, **arguments})


def test_progress_is_shown(capfd):
    knn_graph(POINTS, 2, method="exact", progress=True)
    knn_graph(POINTS, 2, method="kdtree", progress=True)
    assert "kd-tree" in capfd.readouterr().err


def test_settings_of_the_process_are_restored():
    torch.set_float32_matmul_precision("medium")
    try:
        knn_graph(POINTS, 2, method="exact")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


WITHOUT = """
import sys, warnings
for name in ("faiss", "scipy"):
    sys.modules[name] = None
import numpy as np
from ferkit.graph import knn_graph
points = np.random.default_rng(0).normal(size=(9000, 3)).astype(np.float32)
exact = knn_graph(points, 4)  # a kd-tree where scipy is
assert (exact.meta["method"], exact.meta["engine"]) == ("exact", "torch"), exact.meta
assert (knn_graph(points, 4, method="exact", max_memory=1 << 18).indices == exact.indices).all()
ivf = knn_graph(points, 4, method="ivf")
assert ivf.meta["method"] == "ivf" and (ivf.indices == exact.indices).float().mean() > 0.998
try:
    knn_graph(points, 4, method="kdtree")
except ImportError as error:
    assert "ferkit[graph]" in str(error)
else:
    raise AssertionError
print(exact.indices.sum().item())
"""


def test_without_faiss_and_scipy():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    points = np.random.default_rng(0).normal(size=(9000, 3)).astype(np.float32)
    assert int(done.stdout) == int(knn_graph(points, 4, method="exact").indices.sum())


def units_with_copies(rows=600):
    generator = torch.Generator().manual_seed(0)
    units = torch.rand(rows, 17, generator=generator) * 5 * (torch.rand(rows, 17, generator=generator) < 0.5)
    units[rows // 2 :] = units[torch.randint(0, 40, (rows - rows // 2,), generator=generator)]
    return units


@pytest.mark.parametrize("metric", ["l2", "l1", "cosine"])
def test_copies_are_no_error_of_the_graph(metric):
    units = units_with_copies()
    assert knn_graph(units, 4, metric=metric).verify(units)["recall"] == 1.0


@pytest.mark.parametrize("name", ["cuda", "mkldnn"])
def test_precision_settings_are_left_as_they_were(name):
    matmuls = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    before = [matmul.fp32_precision for matmul in matmuls]
    try:
        getattr(torch.backends, name).matmul.fp32_precision = "tf32"
        held = [matmul.fp32_precision for matmul in matmuls]
        graph = knn_graph(units_with_copies(100), 2)
        assert [matmul.fp32_precision for matmul in matmuls] == held and graph.k == 2
    finally:
        for matmul, value in zip(matmuls, before, strict=True):
            matmul.fp32_precision = value


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_default_dtype_and_device_change_nothing(method):
    points = torch.rand(3000, 10, generator=torch.Generator().manual_seed(0))
    plain = knn_graph(points, 4, method=method)
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        other = knn_graph(points, 4, method=method)
        assert other.verify(points, 200)["recall"] >= 0.999
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(plain.indices, other.indices)
