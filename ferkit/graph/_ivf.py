"""Approximate neighbours by an inverted file, as good as measured on a sample; candidates are re-ranked exactly."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ferkit.graph import _cells, _exact, _rerank
from ferkit.graph._blocks import GPU_LARGEST, Engine, need_faiss
from ferkit.graph._rows import Rows
from ferkit.graph._scan import FIRST_ROWS, CellScan
from ferkit.graph._threads import Crew, tracked

__all__ = ["SAMPLE", "TOLERANCE", "Found", "nearest"]

SAMPLE = 2000  # rows that recall is measured on
TOLERANCE = 1e-6  # relative: a neighbour as near as the k-th but for rounding is right
PART = 512  # rows of the sample searched at once
FACTORS = (2, 3, 4, 6, 8)  # times k + 1: candidates a row
DEVIATIONS = 2.0  # standard errors that the measured recall must exceed the target by


@dataclass
class Found:
    """ids and distances (U, k), or None where the target was out of reach; what to put down in ``meta``."""

    table: tuple[np.ndarray, np.ndarray] | None
    recall: float
    sample: int
    parameters: dict[str, Any]
    engine: str = "torch"


class OnGpu:
    """FAISS's IVFFlat on one explicit device over the same cells; scratch memory bounded by ``max_memory``."""

    def __init__(self, scan: CellScan, device: torch.device, max_bytes: int) -> None:
        faiss = need_faiss()
        width, count = scan.points.shape[1], len(scan.centres)
        quantizer = faiss.IndexFlatL2(width)
        quantizer.add(scan.centres.numpy())
        index = faiss.IndexIVFFlat(quantizer, width, count)
        index.is_trained = True
        cells = np.ascontiguousarray(scan.cells[scan.order])
        index.add_core(len(cells), faiss.swig_ptr(scan.points.numpy()), None, faiss.swig_ptr(cells))
        self.resources = faiss.StandardGpuResources()
        self.resources.setTempMemory(max_bytes)
        config = faiss.GpuIndexIVFFlatConfig()
        config.device = device.index or 0
        self.index = faiss.GpuIndexIVFFlat(self.resources, width, count, faiss.METRIC_L2, config)
        self.index.copyFrom(index)
        self.scan = scan

    def candidates(self, points: Tensor, cells: np.ndarray, count: int, nprobe: int) -> np.ndarray:
        self.index.nprobe = nprobe
        found = self.index.search(points.numpy(), count)[1]
        return np.where(found < 0, -1, self.scan.order[np.maximum(found, 0)])


def _searcher(scan: CellScan, device: torch.device, max_bytes: int, most: int) -> CellScan | OnGpu:
    if device.type == "cuda" and importlib.util.find_spec("faiss") is not None and most <= GPU_LARGEST:
        faiss = need_faiss()
        if hasattr(faiss, "GpuIndexIVFFlat") and faiss.get_num_gpus() > (device.index or 0):
            return OnGpu(scan, device, max_bytes)
    return scan


def nearest(
    rows: Rows,
    k: int,
    target: float,
    seed: int,
    crew: Crew,
    engine: Engine,
    device: torch.device,
    max_bytes: int,
    progress: bool = False,
) -> Found:
    """The k nearest of every row, at the fewest cells visited that reach ``target`` on a sample."""
    count = _cells.cell_count(rows.count)
    most = count // 4
    if most < 1:
        return Found(None, 0.0, 0, {"nlist": count})
    sample = np.sort(np.random.default_rng(seed + 2).permutation(rows.count)[:SAMPLE])
    true_ids, true = _exact.nearest(rows, sample, k, crew, engine, max_bytes)
    for kth in (_usual(rows, true), None):
        scan = CellScan(_cells.project(rows, crew, seed, kth), count, crew, seed)
        by_cell = np.argsort(scan.cells[sample], kind="stable")
        sample, true_ids, true = sample[by_cell], true_ids[by_cell], true[by_cell]
        file = _searcher(scan, device, max_bytes, max(most, _widths(scan, k)[-1]))
        plan = _plan(rows, scan, file, _Sample(sample, true_ids, true), target, most, max_bytes)
        if plan.lost <= (1 - target) / 2 or scan.kept is None:
            break  # else what was projected away is what tells neighbours apart
    parameters = {"nlist": count, "dimensions": scan.points.shape[1], "variance_kept": scan.kept}
    parameters |= {"nprobe": plan.nprobe, "candidates": plan.spares}
    if plan.nprobe >= most:
        return Found(None, plan.reached, len(sample), parameters)
    name = "faiss-gpu" if isinstance(file, OnGpu) else "torch"
    table = _search(rows, scan, file, k, plan.spares, plan.nprobe, max_bytes, progress)
    return Found(table, float(_right(table[1][sample], true).mean()), len(sample), parameters, name)


class _Sample(NamedTuple):
    rows: np.ndarray  # int64 (S,), by cell
    ids: np.ndarray  # (S, k), the true neighbours
    near: np.ndarray  # (S, k), their distances


class _Plan(NamedTuple):
    nprobe: int  # cells that a row visits; too many where nothing reaches the target
    spares: int  # candidates that are measured directly
    reached: float  # recall on the sample
    lost: float  # share of the true neighbours in the visited cells that is not among the candidates


def _plan(
    rows: Rows, scan: CellScan, file: CellScan | OnGpu, sample: _Sample, target: float, most: int, max_bytes: int
) -> _Plan:
    """The fewest candidates that lose little, and the fewest cells that reach ``target`` with them, on the sample."""
    own, cells, k = scan.of(sample.rows), scan.cells[sample.rows], sample.ids.shape[1]
    whole, reached, lost = len(sample.rows) == rows.count, 0.0, 0.0
    ranks = np.where(sample.ids < 0, -1, _ranks(scan, own, scan.cells[np.maximum(sample.ids, 0)]))
    widths = _widths(scan, k)
    nprobe, spares = _fewest(ranks, target, most, whole, 4), widths[0]
    while nprobe < most:
        found = _in_parts(file, own, cells, widths[-1], nprobe, scan.crew)
        far = _rerank.direct(rows, sample.rows, found, scan.crew, max_bytes)
        for spares in widths:
            shares = _right(_rerank.first(found[:, :spares], far[:, :spares], k)[1], sample.near)
            reached = float(shares.mean())
            lost = max(0.0, float((ranks < nprobe).mean()) - reached)
            if lost <= (1 - target) / 4:
                break
        if _surely(shares, whole) >= target:
            break
        gone = (ranks < nprobe) & (sample.ids >= 0) & ~_among(sample.ids, found[:, :spares])
        nprobe = _fewest(np.where(gone, most, ranks), target, most, whole, nprobe + 4)
    return _Plan(min(nprobe, most), spares, reached, lost)


def _widths(scan: CellScan, k: int) -> list[int]:
    """Numbers of candidates to choose from: more than the first only help where columns are projected away."""
    first, *more = (factor * (k + 1) for factor in FACTORS)
    # beyond FIRST_ROWS a row has no bound, and all that it visits would be held at once
    return [first, *(width for width in more if scan.kept is not None and width <= FIRST_ROWS)]


def _usual(rows: Rows, true: np.ndarray) -> float:
    """The median of the sample's distances to the last neighbour, in the units of ``Rows.centred``."""
    last = true[:, -1][np.isfinite(true[:, -1])]
    scale = (2 if rows.metric == "cosine" else 1) / rows.unit**2
    return float(np.median(last)) * scale if len(last) else 0.0


def _in_parts(
    file: CellScan | OnGpu, points: Tensor, cells: np.ndarray, count: int, nprobe: int, crew: Crew
) -> np.ndarray:
    """Candidates of the sample, a fixed part at a time."""

    def work(start: int) -> np.ndarray:
        return file.candidates(points[start : start + PART], cells[start : start + PART], count, nprobe)

    starts = range(0, len(points), PART)
    return np.concatenate(crew.map(work, starts) if isinstance(file, CellScan) else [work(start) for start in starts])


def _search(
    rows: Rows,
    scan: CellScan,
    file: CellScan | OnGpu,
    k: int,
    spares: int,
    nprobe: int,
    max_bytes: int,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """All rows, cell by cell: what they visit is in the cache."""
    ids, near = np.empty((rows.count, k), np.int64), np.empty((rows.count, k))
    crew = Crew(1, None) if isinstance(file, CellScan) else scan.crew

    def work(stretch: tuple[int, int]) -> None:
        block = scan.order[stretch[0] : stretch[1]]
        points = scan.points[stretch[0] : stretch[1]]
        found = file.candidates(points, scan.cells[block], spares, nprobe)
        ids[block], near[block] = _rerank.first(found, _rerank.direct(rows, block, found, crew, max_bytes), k)

    parts = scan.stretches()
    together = [parts[start : start + 4 * scan.crew.count] for start in range(0, len(parts), 4 * scan.crew.count)]
    for some in tracked(together, "neighbours by cells", progress):
        if isinstance(file, CellScan):
            scan.crew.map(work, some)
        else:
            for part in some:
                work(part)
    return ids, near


def _ranks(scan: CellScan, points: Tensor, cells: np.ndarray) -> np.ndarray:
    """How many cells are nearer to each point (n, R) than each of ``cells`` (n, m)."""
    found = np.empty(cells.shape, np.int64)

    def work(start: int) -> None:
        far = torch.cdist(points[start : start + PART].double(), scan.centres.double())
        own = far.gather(1, torch.from_numpy(cells[start : start + PART]))
        for column in range(cells.shape[1]):
            found[start : start + PART, column] = (far < own[:, column, None]).sum(1).numpy()

    scan.crew.map(work, range(0, len(points), PART))
    return found


def _among(ids: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """bool (S, k): which of a row's ``ids`` (S, k) are among its ``candidates`` (S, C)."""
    return np.stack([(candidates == column[:, None]).any(1) for column in ids.T], 1)


def _fewest(ranks: np.ndarray, target: float, most: int, whole: bool, least: int) -> int:
    """The fewest cells, by fours from ``least``, that hold enough true neighbours; what they cost is not visited."""
    for nprobe in range(least, most, 4):
        if _surely((ranks < nprobe).mean(1), whole) >= target:
            return nprobe
    return most


def _right(near: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Share of right neighbours a row: as near as the last true one."""
    count = np.isfinite(true).sum(1)
    last = np.take_along_axis(true, np.maximum(count - 1, 0)[:, None], 1)
    right = (np.isfinite(near) & (near <= last * (1 + TOLERANCE))).sum(1)
    return np.where(count > 0, np.minimum(right, count) / np.maximum(count, 1), 1.0)


def _surely(shares: np.ndarray, whole: bool) -> float:
    """The mean, less two standard errors where the rows are a sample."""
    error = 0.0 if whole else float(shares.std()) / len(shares) ** 0.5
    return float(shares.mean()) - DEVIATIONS * error
