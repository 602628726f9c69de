"""``knn_graph``: the k nearest neighbours of every row, exact or with a measured recall."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ferkit import __version__
from ferkit.checks import check_choice, check_number
from ferkit.graph import _copies, _exact, _inputs, _ivf, _kdtree
from ferkit.graph._blocks import Engine, TorchEngine, engine_for
from ferkit.graph._rows import Rows, as_array, warn_of_dominant_columns
from ferkit.graph._threads import Crew, crew
from ferkit.graph.fingerprint import fingerprints
from ferkit.graph.graph import FORMAT, METRICS, KNNGraph

__all__ = ["METHODS", "choose_method", "knn_graph"]

METHODS = ("auto", "exact", "ivf", "kdtree")
MEMORY = 1 << 28  # bytes of blocks where nothing else is asked
FEW_DIMENSIONS, FEW_ROWS, FEW_ROWS_CUDA = 4, 50_000, 2_000_000
FEW_EXCLUDED = 32  # pairs a row that are simply searched along; rows with more are searched by themselves

Table = tuple[np.ndarray, np.ndarray]


def choose_method(n: int, d: int, device_type: str = "cpu") -> str:
    """What ``method="auto"`` takes for n rows of d columns: nothing else decides, so one config gives one graph.

    >>> choose_method(300_000, 2), choose_method(20_000, 136), choose_method(300_000, 136)
    ('kdtree', 'exact', 'ivf')
    """
    if n < 2:
        return "exact"  # nothing to search
    if device_type != "cpu":
        return "exact" if n <= FEW_ROWS_CUDA else "ivf"
    if d <= FEW_DIMENSIONS:
        return "kdtree"
    return "exact" if n <= FEW_ROWS else "ivf"


def knn_graph(
    points: Any,
    k: int,
    *,
    method: str = "auto",
    metric: str = "l2",
    target_recall: float = 0.999,
    device: str | torch.device | None = None,
    subset: Any = None,
    ids: Sequence[Any] | None = None,
    nonfinite: str = "error",
    exclude: Any = None,
    seed: int = 0,
    max_memory: int | None = None,
    progress: bool = False,
) -> KNNGraph:
    """Link every row to its k nearest others, by (distance, index): the same ids for any threads and block sizes.

    Distances are direct differences of the rows as given, in float64; equal rows are neighbours at distance 0.

    Args:
        points: (N, D) tensor, array or memory map of floats (integers become float64); never written to.
        k: neighbours a row. Where fewer rows exist the table is padded with -1 and infinity, and a warning says so.
        method: "exact"; "ivf": an inverted file that visits as many cells as ``target_recall`` needs, measured on a
            seeded sample (else exact, with a warning); "kdtree": exact, for up to 24 columns; "auto": see
            ``choose_method``.
        metric: "l2" (squared distances), "l1" (sums of absolute differences; exact or kdtree), "cosine" (1 - cosine).
        target_recall: share of the true neighbours that "ivf" must find, by two standard errors on the sample.
        device: where to search; that of the points by default. The tables are on the CPU.
        subset: bool (N,) or positions: the rows that take part; others get -1 and are nobody's neighbours.
        ids: N names of the rows, fingerprinted so that the graph is never used with others.
        nonfinite: "error", or "isolate": rows with NaN or infinity (cosine: rows of zeros) get -1.
        exclude: int64 (2, E), pairs never linked, in either direction.
        seed: of the sample that recall is measured on and of the cells.
        max_memory: bytes for blocks of work, 256 MiB by default; it changes no id.
        progress: show a bar.

    Returns:
        KNNGraph; ``meta`` has the method taken, its parameters, the recall measured, counts and fingerprints.

    Raises:
        TypeError, ValueError: naming the argument, before any work.
        ImportError: where the method asked for needs a missing package: ``pip install "ferkit[graph]"``.

    Example:
        >>> graph = knn_graph(torch.tensor([[0.0], [1.0], [3.0], [3.0]]), 2)
        >>> graph.indices
        tensor([[1, 2],
                [0, 2],
                [3, 1],
                [2, 1]])
        >>> graph.distances
        tensor([[1., 9.],
                [1., 4.],
                [0., 4.],
                [0., 4.]])
    """
    check_number(k, "k", 1, integer=True)
    check_choice(method, "method", METHODS)
    check_choice(metric, "metric", METRICS)
    check_choice(nonfinite, "nonfinite", ("error", "isolate"))
    check_number(target_recall, "target_recall", 0, 1, open_low=True)
    check_number(seed, "seed", 0, integer=True)
    if max_memory is not None:
        check_number(max_memory, "max_memory", 1, integer=True)
    if metric == "l1" and method == "ivf":
        raise ValueError("method: expected 'exact' or 'kdtree' for metric 'l1', got 'ivf'")
    where = _inputs.check_device(device, points)
    values = as_array(points)
    n, dim = values.shape
    if method == "kdtree" and dim > _kdtree.MOST_DIMENSIONS:
        most = _kdtree.MOST_DIMENSIONS
        raise ValueError(
            f"method: expected 'exact' or 'ivf' for {dim} columns, got 'kdtree': "
            f"beyond {most} a tree is slower than measuring every pair"
        )
    if ids is not None and len(ids) != n:
        raise ValueError(f"ids: expected {n}, one a row, got {len(ids)}")
    excluded = _inputs.excluded_pairs(exclude, n)
    mask = _inputs.usable(values, _inputs.taking_part(subset, n), metric, nonfinite)
    if method == "kdtree":
        _kdtree.need_scipy()

    positions = np.nonzero(mask)[0]
    if n and k >= len(positions):
        warnings.warn(f"k: {k} neighbours asked of {len(positions)} rows; the rest is -1 at infinity", stacklevel=2)
    groups = _copies.group(values, positions)
    rows = Rows(values, groups.first, metric)
    warn_of_dominant_columns(rows)
    build = _Build(rows, groups, positions, n, k, where, max_memory or MEMORY, progress)
    with crew() as threads:
        facts = build.run(
            _available(method, metric, len(positions), dim, where.type), target_recall, seed, excluded, threads
        )
    build.distances[np.isfinite(build.distances)] = np.minimum(
        build.distances[np.isfinite(build.distances)], np.finfo(values.dtype).max
    )
    edges = int((build.indices >= 0).sum())
    meta = {
        "format": FORMAT, "n": n, "dim": dim, "k": k, "metric": metric, **facts, "target_recall": target_recall,
        "seed": seed, "isolated": n - len(positions), "copies": len(positions) - rows.count,
        "zero_distance": int((build.distances == 0).sum()) / max(1, edges),
        "versions": _versions(facts["engine"]), **fingerprints(points, ids),
    }  # fmt: skip
    distances = torch.from_numpy(build.distances.astype(values.dtype, copy=False))
    return KNNGraph(torch.from_numpy(build.indices), distances, meta)


def _available(method: str, metric: str, n: int, dim: int, device_type: str) -> str:
    """What "auto" stands for; exact where the package or the metric for it is missing, which is said where slow."""
    if method != "auto":
        return method
    chosen = choose_method(n, dim, device_type)
    try:
        if chosen == "ivf" and metric == "l1":
            return "exact"
        if chosen == "kdtree":
            _kdtree.need_scipy()
    except ImportError as error:
        if n > FEW_ROWS:
            warnings.warn(f"{error}; without it {n} rows are searched exactly, which takes long", stacklevel=3)
        return "exact"
    return chosen


def _versions(engine: str) -> dict[str, str]:
    found = {"ferkit": __version__, "torch": torch.__version__, "numpy": np.__version__}
    names = {"faiss": ("faiss-gpu", "faiss-cpu"), "faiss-gpu": ("faiss-gpu",), "scipy": ("scipy",)}.get(engine, ())
    for name in names:
        try:
            return found | {name: importlib.metadata.version(name)}
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class _Build:
    """One graph in the making: distinct rows are searched, and their lists put out over all rows."""

    def __init__(
        self,
        rows: Rows,
        groups: _copies.Groups,
        positions: np.ndarray,
        n: int,
        k: int,
        device: torch.device,
        max_bytes: int,
        progress: bool,
    ) -> None:
        self.rows, self.groups, self.positions, self.n, self.k = rows, groups, positions, n, k
        self.device, self.max_bytes, self.progress = device, max_bytes, progress
        self.engine: Engine | None = None
        self.indices, self.distances = np.full((n, k), -1, np.int64), np.full((n, k), np.inf)

    def run(self, method: str, target: float, seed: int, excluded: np.ndarray, threads: Crew) -> dict[str, Any]:
        """Fill the tables; the entries of ``meta`` that say how."""
        count = np.bincount(excluded // max(1, self.n), minlength=self.n)[self.positions]
        light = np.nonzero(count <= FEW_EXCLUDED)[0]
        facts: dict[str, Any] = {"method": method, "engine": "torch", "parameters": {}}
        facts |= {"recall": 1.0, "recall_rows": 0}
        if len(light):
            more = int(count[light].max())
            table = self._table(method, self._width(more), target, seed, threads, facts)
            self._put(light, table, np.arange(self.rows.count), excluded, more)
        for limit in 2 ** np.unique(np.ceil(np.log2(count[count > FEW_EXCLUDED])).astype(int)):
            some = np.nonzero((count > max(FEW_EXCLUDED, limit // 2)) & (count <= limit))[0]
            groups = np.unique(self.groups.of[some])
            self._put(some, self._exact(groups, self._width(int(limit)), threads), groups, excluded, int(limit))
        return facts

    def _width(self, more: int) -> int:
        return min(self.k + more, max(1, self.rows.count))

    def _exact(self, queries: np.ndarray, k: int, threads: Crew) -> Table:
        if self.engine is None:  # FAISS takes a while to import
            self.engine = engine_for(self.device, self.rows.metric, self.max_bytes)
        return _exact.nearest(self.rows, queries, k, threads, self.engine, self.max_bytes, self.progress)

    def _table(self, method: str, k: int, target: float, seed: int, threads: Crew, facts: dict[str, Any]) -> Table:
        """The k nearest of every distinct row."""
        if method == "kdtree":
            facts["engine"] = "scipy"
            return _kdtree.nearest(self.rows, k, threads, self.max_bytes, self.progress)
        if method == "ivf":
            found = _ivf.nearest(
                self.rows,
                k,
                target,
                seed,
                threads,
                TorchEngine(self.device),
                self.device,
                self.max_bytes,
                self.progress,
            )
            facts["parameters"] = found.parameters
            if found.table is not None:
                facts |= {"recall": found.recall, "recall_rows": found.sample, "engine": found.engine}
                return found.table
            said = f"a quarter of the {found.parameters['nlist']} cells does not surely reach a recall of {target}"
            facts |= {"method": "exact", "parameters": {**found.parameters, "instead_of": "ivf", "because": said}}
            warnings.warn(f"method: {said}; the graph is built exactly", stacklevel=5)
        table = self._exact(np.arange(self.rows.count), k, threads)
        facts["engine"] = self.engine.name if self.engine is not None else "torch"
        return table

    def _put(self, places: np.ndarray, table: Table, queries: np.ndarray, excluded: np.ndarray, most: int) -> None:
        """Lists of distinct rows ``queries`` (ascending) -> the rows at ``places``."""
        step = max(1, self.max_bytes // (64 * (table[0].shape[1] + 1)))
        for start in range(0, len(places), step):
            block = places[start : start + step]
            at = np.searchsorted(queries, self.groups.of[block])
            found = _copies.expand(
                self.groups, block, self.positions, table[0][at], table[1][at], self.k, excluded, most, self.n
            )
            self.indices[self.positions[block]], self.distances[self.positions[block]] = found
