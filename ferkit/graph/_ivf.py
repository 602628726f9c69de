"""Approximate neighbours by an inverted file, as good as measured on a sample; candidates are re-ranked exactly."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ferkit.graph import _cells, _exact, _rerank
from ferkit.graph._blocks import GPU_LARGEST, Engine, need_faiss
from ferkit.graph._rows import Rows
from ferkit.graph._scan import CellScan
from ferkit.graph._threads import Crew, tracked

__all__ = ["SAMPLE", "TOLERANCE", "Found", "nearest"]

SAMPLE = 2000  # rows that recall is measured on
TOLERANCE = 1e-6  # relative: a neighbour as near as the k-th but for rounding is right
PART = 512  # rows of the sample searched at once
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
    points, kept = _cells.project(rows, crew, seed)
    count = _cells.cell_count(rows.count)
    parameters: dict[str, Any] = {"nlist": count, "dimensions": points.shape[1], "variance_kept": kept}
    most = count // 4
    spares = 2 * (k + 1)
    sample = np.sort(np.random.default_rng(seed + 2).permutation(rows.count)[:SAMPLE])
    if most < 1:
        return Found(None, 0.0, 0, parameters)
    scan = CellScan(points, count, crew, seed)
    sample = sample[np.argsort(scan.cells[sample], kind="stable")]
    own, cells = points[torch.from_numpy(sample)], scan.cells[sample]
    del points
    file = _searcher(scan, device, max_bytes, max(most, spares))
    true_ids, true = _exact.nearest(rows, sample, k, crew, engine, max_bytes)
    whole = len(sample) == rows.count
    nprobe, reached = _predicted(scan, own, true_ids, target, most, whole), 0.0
    while nprobe < most:
        found = _in_parts(file, own, cells, spares, nprobe, crew)
        near = _rerank.first(found, _rerank.direct(rows, sample, found, crew, max_bytes), k)[1]
        shares = _right(near, true)
        reached = float(shares.mean())
        if _surely(shares, whole) >= target:
            break
        nprobe = 4 * (nprobe * 5 // 16 + 1)
    parameters |= {"nprobe": min(nprobe, most), "candidates": spares}
    if nprobe >= most:
        return Found(None, reached, len(sample), parameters)
    name = "faiss-gpu" if isinstance(file, OnGpu) else "torch"
    table = _search(rows, scan, file, k, spares, nprobe, max_bytes, progress)
    return Found(table, float(_right(table[1][sample], true).mean()), len(sample), parameters, name)


def _in_parts(
    file: CellScan | OnGpu, points: Tensor, cells: np.ndarray, count: int, nprobe: int, crew: Crew
) -> np.ndarray:
    """Candidates of the sample, a fixed part at a time."""

    def work(start: int) -> np.ndarray:
        return file.candidates(points[start : start + PART], cells[start : start + PART], count, nprobe)

    starts = range(0, len(points), PART)
    return np.concatenate(crew.map(work, starts) if isinstance(file, CellScan) else [work(start) for start in starts])


def _search(
    rows: Rows, scan: CellScan, file: CellScan | OnGpu, k: int, spares: int, nprobe: int, max_bytes: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """All rows, cell by cell: what they visit is in the cache."""
    ids, near = np.empty((rows.count, k), np.int64), np.empty((rows.count, k))
    crew = Crew(1, None) if isinstance(file, CellScan) else scan.crew

    def work(stretch: tuple[int, int]) -> None:
        block = scan.order[stretch[0] : stretch[1]]
        found = file.candidates(scan.points[stretch[0] : stretch[1]], scan.cells[block], spares, nprobe)
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


def _predicted(scan: CellScan, own: Tensor, true: np.ndarray, target: float, most: int, whole: bool) -> int:
    """The fewest cells, a multiple of 4, that hold enough of the true neighbours; what they cost is not visited."""
    order = torch.cdist(own.double(), scan.centres.double()).argsort(dim=1)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    ranks = rank.gather(1, torch.from_numpy(scan.cells[np.maximum(true, 0)])).numpy()
    for nprobe in range(8, most, 4):
        if _surely(((ranks < nprobe) | (true < 0)).mean(1), whole) >= target:
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
