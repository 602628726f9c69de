"""The nearest of one block of rows, by float32 distance: FAISS where it is, else torch; on the CPU or a CUDA device."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from ferkit.graph._threads import Crew

__all__ = ["Engine", "FaissEngine", "FaissGpuEngine", "TorchEngine", "engine_for", "merge", "need_faiss", "smallest"]

MISSING = 'FAISS is missing: pip install "ferkit[graph]"'
GPU_LARGEST = 2048  # neighbours that a GPU index can select
QUERIES = 256  # rows of a block of distances on the CPU


def need_faiss() -> Any:
    """The module, or the ImportError that names the extra."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(MISSING) from error
    return faiss


def merge(best: tuple[Tensor, Tensor] | None, new: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of two lists of (distances, ids) (Q, .)."""
    if best is None:
        return new
    near, ids = (torch.cat(both, 1) for both in zip(best, new))
    if near.shape[1] <= k:
        return near, ids
    near, place = near.topk(k, dim=1, largest=False, sorted=False)
    return near, ids.gather(1, place)


def smallest(values: Tensor, k: int, fold: int = 16) -> tuple[Tensor, Tensor]:
    """``values.topk(k, largest=False)`` unsorted: the k smallest lie in the k columns with the smallest minima.

    >>> smallest(torch.tensor([[5.0, 1.0, 4.0, 2.0]]), 2)[0].sort().values
    tensor([[1., 2.]])
    """
    count, width = values.shape
    columns = width // fold
    if width % fold or columns < 2 * k:
        found = values.topk(k, dim=1, largest=False, sorted=False)
        return found.values, found.indices
    column = values.view(count, fold, columns).amin(1).topk(k, dim=1, largest=False, sorted=False).indices
    step = torch.arange(0, width, columns, device=values.device)
    places = (column[:, None] + step[None, :, None]).reshape(count, -1)
    near, place = values.gather(1, places).topk(k, dim=1, largest=False, sorted=False)
    return near, places.gather(1, place)


class Engine:
    """``search`` gives, for centred float32 queries (Q, D), the k nearest of base (M, D) on the CPU, unordered."""

    name: str

    def search(
        self, queries: Tensor, base: Tensor, k: int, metric: str, crew: Crew, max_bytes: int
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class TorchEngine(Engine):
    """Matrix products (l1: torch.cdist) and a selection; complete without FAISS."""

    name = "torch"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def search(
        self, queries: Tensor, base: Tensor, k: int, metric: str, crew: Crew, max_bytes: int
    ) -> tuple[Tensor, Tensor]:
        on_cpu = self.device.type == "cpu"
        threads = crew.count if on_cpu else 1
        step = max(16, min(QUERIES if on_cpu else 1 << 14, max_bytes // (12 * len(base) * threads)))
        base = base.to(self.device)
        norms = base.square().sum(1)
        starts = range(0, len(queries), step)

        def work(start: int) -> tuple[Tensor, Tensor]:
            part = queries[start : start + step].to(self.device)
            if metric == "l1":
                values = torch.cdist(part, base, p=1.0)
            else:
                values = torch.addmm(
                    norms, part, base.T, alpha=-2, out=crew.room(len(part), len(base)) if on_cpu else None
                )
            near, ids = smallest(values, k)
            if metric != "l1":
                near = (near + part.square().sum(1, keepdim=True)).clamp_(min=0)
            return near.cpu(), ids.cpu()

        parts = crew.map(work, starts) if on_cpu else [work(start) for start in starts]
        return torch.cat([near for near, _ in parts]), torch.cat([ids for _, ids in parts])


class FaissEngine(Engine):
    """``faiss.knn``: brute force over arrays, without an index to fill."""

    name = "faiss"

    def __init__(self) -> None:
        self.faiss = need_faiss()

    def search(
        self, queries: Tensor, base: Tensor, k: int, metric: str, crew: Crew, max_bytes: int
    ) -> tuple[Tensor, Tensor]:
        before = self.faiss.omp_get_max_threads()
        self.faiss.omp_set_num_threads(crew.count)
        try:
            near, ids = self.faiss.knn(queries.numpy(), base.numpy(), k)
        finally:
            self.faiss.omp_set_num_threads(before)
        return torch.from_numpy(near), torch.from_numpy(ids)


class FaissGpuEngine(Engine):
    """``GpuIndexFlatL2`` on one explicit device, with scratch memory bounded by ``max_memory``."""

    name = "faiss-gpu"

    def __init__(self, device: torch.device, max_bytes: int) -> None:
        self.faiss = need_faiss()
        self.resources = self.faiss.StandardGpuResources()
        self.resources.setTempMemory(max_bytes)
        self.config = self.faiss.GpuIndexFlatConfig()
        self.config.device = device.index or 0
        self.config.useFloat16 = False
        self.fallback = TorchEngine(device)

    def search(
        self, queries: Tensor, base: Tensor, k: int, metric: str, crew: Crew, max_bytes: int
    ) -> tuple[Tensor, Tensor]:
        if k > GPU_LARGEST:
            return self.fallback.search(queries, base, k, metric, crew, max_bytes)
        index = self.faiss.GpuIndexFlatL2(self.resources, base.shape[1], self.config)
        index.add(base.numpy())
        near, ids = index.search(queries.numpy(), k)
        return torch.from_numpy(near), torch.from_numpy(ids)


def engine_for(device: torch.device, metric: str, max_bytes: int) -> Engine:
    """FAISS where it is installed and knows the metric, else torch on the same device."""
    if metric == "l1" or importlib.util.find_spec("faiss") is None:
        return TorchEngine(device)
    try:
        faiss = need_faiss()
    except ImportError:
        return TorchEngine(device)
    if device.type == "cpu":
        return FaissEngine()
    if hasattr(faiss, "GpuIndexFlatL2") and faiss.get_num_gpus() > (device.index or 0):
        return FaissGpuEngine(device, max_bytes)
    return TorchEngine(device)
