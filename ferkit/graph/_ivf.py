"""Approximate neighbours by an inverted file, as good as measured on a sample; candidates are re-ranked exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ferkit.graph import _cells, _exact, _rerank
from ferkit.graph._blocks import GPU_LARGEST, Engine, need_faiss
from ferkit.graph._rows import Rows
from ferkit.graph._threads import Crew, tracked

__all__ = ["SAMPLE", "TOLERANCE", "Found", "nearest"]

SAMPLE = 2000  # rows that recall is measured on
TOLERANCE = 1e-6  # relative: a neighbour as near as the k-th but for rounding is right
QUERIES = 16384  # rows searched at once
DEVIATIONS = 2.0  # standard errors that the measured recall must exceed the target by


@dataclass
class Found:
    """ids and distances (U, k), or None where the target was out of reach; what to put down in ``meta``."""

    table: tuple[np.ndarray, np.ndarray] | None
    recall: float
    sample: int
    parameters: dict[str, Any]


class InvertedFile:
    """FAISS's IVFFlat over rows sorted by cell; centres, cells and the cells to visit are ours (and repeatable)."""

    def __init__(self, points: Tensor, count: int, crew: Crew, seed: int, device: torch.device, max_bytes: int) -> None:
        faiss = need_faiss()
        self.crew = crew
        self.centres = _cells.centroids(points, count, crew, seed)
        cells = _cells.assign(points, self.centres, crew)
        self.order = torch.argsort(cells, stable=True).numpy()
        self.points = points[torch.from_numpy(self.order)]
        self.cells = cells.numpy()
        width = points.shape[1]
        self.quantizer = faiss.IndexFlatL2(width)
        self.quantizer.add(self.centres.numpy())
        self.index = faiss.IndexIVFFlat(self.quantizer, width, count)
        self.index.is_trained = True
        table, sorted_cells = self.points.numpy(), np.ascontiguousarray(self.cells[self.order])
        pointer = faiss.swig_ptr
        self.index.add_core(len(table), pointer(table), None, pointer(sorted_cells))
        self.gpu: Any = None
        if device.type == "cuda" and hasattr(faiss, "GpuIndexIVFFlat") and faiss.get_num_gpus() > (device.index or 0):
            self.resources = faiss.StandardGpuResources()
            self.resources.setTempMemory(max_bytes)
            config = faiss.GpuIndexIVFFlatConfig()
            config.device = device.index or 0
            self.gpu = faiss.GpuIndexIVFFlat(self.resources, width, count, faiss.METRIC_L2, config)
            self.gpu.copyFrom(self.index)

    def candidates(self, points: Tensor, count: int, nprobe: int) -> np.ndarray:
        """Row numbers (Q, count) nearest to ``points`` among the rows of ``nprobe`` cells; -1 where there are fewer."""
        if self.gpu is not None and max(count, nprobe) <= GPU_LARGEST:
            self.gpu.nprobe = nprobe
            found = self.gpu.search(points.numpy(), count)[1]
        else:
            visited = _cells.near_cells(points, self.centres, nprobe, self.crew)
            self.index.nprobe = nprobe
            found = self.index.search_preassigned(points.numpy(), count, visited, np.zeros(visited.shape, np.float32))[
                1
            ]
        return np.where(found < 0, -1, self.order[np.maximum(found, 0)])


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
    sample = np.sort(np.random.default_rng(seed + 2).permutation(rows.count)[:SAMPLE])
    if most < 1:
        return Found(None, 0.0, 0, parameters)
    file = InvertedFile(points, count, crew, seed, device, max_bytes)
    own = points[torch.from_numpy(sample)]
    del points
    true_ids, true = _exact.nearest(rows, sample, k, crew, engine, max_bytes)
    whole = len(sample) == rows.count
    spares = 2 * (k + 1)
    nprobe, reached = _predicted(file, own, true_ids, target, most, whole), 0.0
    while nprobe < most:
        found = file.candidates(own, spares, nprobe)
        near = _rerank.first(found, _rerank.direct(rows, sample, found, crew, max_bytes), k)[1]
        shares = _right(near, true)
        reached = float(shares.mean())
        if _surely(shares, whole) >= target:
            break
        nprobe = 4 * (nprobe * 5 // 16 + 1)
    parameters |= {"nprobe": min(nprobe, most), "candidates": spares}
    if nprobe >= most:
        return Found(None, reached, len(sample), parameters)
    table = _search(rows, file, k, spares, nprobe, max_bytes, progress)
    return Found(table, float(_right(table[1][sample], true).mean()), len(sample), parameters)


def _search(
    rows: Rows, file: InvertedFile, k: int, spares: int, nprobe: int, max_bytes: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """All rows in the order of their cells, so that the lists they visit are in the cache."""
    ids, near = np.empty((rows.count, k), np.int64), np.empty((rows.count, k))
    for start in tracked(range(0, rows.count, QUERIES), "neighbours by cells", progress):
        block = file.order[start : start + QUERIES]
        found = file.candidates(file.points[start : start + QUERIES], spares, nprobe)
        ids[block], near[block] = _rerank.first(found, _rerank.direct(rows, block, found, file.crew, max_bytes), k)
    return ids, near


def _predicted(file: InvertedFile, own: Tensor, true: np.ndarray, target: float, most: int, whole: bool) -> int:
    """The fewest cells, a multiple of 4, that hold enough of the true neighbours; what they cost is not visited."""
    order = torch.cdist(own.double(), file.centres.double()).argsort(dim=1)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    ranks = rank.gather(1, torch.from_numpy(file.cells[np.maximum(true, 0)])).numpy()
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
