"""Exact neighbours: float32 candidates with spares, direct float64 distances, and a certificate a row.

A row whose certificate does not hold is searched again in float64. docs/math/knn_graph.md derives the bounds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ferkit.graph import _rerank
from ferkit.graph._blocks import Engine, merge
from ferkit.graph._rows import Rows
from ferkit.graph._threads import Crew, tracked

__all__ = ["SPARES", "nearest"]

SPARES = 8  # candidates beyond the k neighbours and the row itself
BASE = 8192  # rows searched at once


def nearest(
    rows: Rows,
    queries: np.ndarray,
    k: int,
    crew: Crew,
    engine: Engine,
    max_bytes: int,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of every row in ``queries`` (Q,) among all rows: ids and float64 distances (Q, k)."""
    need = k + 1 + SPARES
    if need >= rows.count:
        return _all(rows, queries, k, crew, max_bytes)
    ids = np.empty((len(queries), k), np.int64)
    near = np.empty((len(queries), k))
    failed = []
    step = max(64, min(1 << 16, max_bytes // (8 * (rows.dim + 6 * need))))  # queries held in float32 at once
    for start in tracked(range(0, len(queries), step), "exact neighbours", progress):
        block = queries[start : start + step]
        centred = rows.centred(block)
        candidates, worst = _candidates(rows, centred, need, crew, engine, max_bytes)
        found = _rerank.direct(rows, block, candidates, crew, max_bytes)
        ids[start : start + step], near[start : start + step] = _rerank.first(candidates, found, k)
        kth = near[start : start + step, -1] if k else np.zeros(len(block))
        failed.append(start + np.nonzero(~_certain(rows, centred, kth, worst))[0])
    again = np.concatenate(failed) if failed else np.zeros(0, np.int64)
    if len(again):
        ids[again], near[again] = _in_float64(rows, queries[again], k, crew, max_bytes, progress)
    return ids, near


def _all(rows: Rows, queries: np.ndarray, k: int, crew: Crew, max_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """So few rows, or so many neighbours, that each row is a candidate of each."""
    ids, near = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    step = max(1, max_bytes // (64 * max(1, rows.count)))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        candidates = np.broadcast_to(np.arange(rows.count), (len(block), rows.count))
        found = _rerank.direct(rows, block, candidates, crew, max_bytes)
        ids[start : start + step], near[start : start + step] = _rerank.first(candidates, found, k)
    return ids, near


def _candidates(
    rows: Rows, queries: Tensor, need: int, crew: Crew, engine: Engine, max_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ``need`` nearest by float32 distance, and the largest of these distances, for every centred query."""
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, rows.count, BASE):
        base = rows.centred(np.arange(start, min(rows.count, start + BASE)))
        near, ids = engine.search(queries, base, min(need, len(base)), rows.metric, crew, max_bytes)
        best = merge(best, (near, ids + start), need)
    assert best is not None
    return best[1].numpy(), best[0].numpy().max(1).astype(np.float64)


def _certain(rows: Rows, centred: Tensor, kth: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """bool (Q,): whether no row outside the candidates can be as near as the k-th distance found."""
    own = centred.double().numpy()
    size = np.abs(own).sum(1) if rows.metric == "l1" else np.sqrt(np.einsum("nd,nd->n", own, own))
    return np.asarray(worst > _reach(rows, size, kth, float(np.finfo(np.float32).eps) / 2, 2.0**-120))


def _reach(rows: Rows, size: np.ndarray, distance: np.ndarray, rounding: float, tiny: float) -> np.ndarray:
    """Largest value that the search may compute, in scaled units, for a row whose distance is ``distance``."""
    if rows.metric == "l1":
        scaled = distance / rows.unit
        return np.asarray(scaled + 2 * (rows.dim + 8) * rounding * (2 * size + scaled) + rows.dim * tiny)
    scaled = distance * (2 if rows.metric == "cosine" else 1) / rows.unit**2
    return np.asarray(scaled + 2 * (rows.dim + 8) * rounding * (2 * size + np.sqrt(scaled)) ** 2 + rows.dim * tiny)


def _in_float64(
    rows: Rows, queries: np.ndarray, k: int, crew: Crew, max_bytes: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Every distance in float64; all rows that could be among the k nearest, ties included, are measured directly."""
    ids, near = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    step = int(max(1, min(256, max_bytes // (24 * rows.count * crew.count))))
    parts = [(start, min(len(queries), start + step)) for start in range(0, len(queries), step)]
    grouped = [parts[start : start + 4 * crew.count] for start in range(0, len(parts), 4 * crew.count)]
    for some in tracked(grouped, "neighbours in float64", progress):

        def work(part: tuple[int, int]) -> None:
            block = queries[part[0] : part[1]]
            ids[part[0] : part[1]], near[part[0] : part[1]] = _block_in_float64(rows, block, k)

        crew.map(work, some)
    return ids, near


def _block_in_float64(rows: Rows, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    own = rows.centred(block, torch.float64)
    rough = own.new_empty(len(block), rows.count)
    for start in range(0, rows.count, BASE):
        base = rows.centred(np.arange(start, min(rows.count, start + BASE)), torch.float64)
        part = rough[:, start : start + len(base)]
        if rows.metric == "l1":
            part.copy_(torch.cdist(own, base, p=1.0))
        else:
            torch.addmm(base.square().sum(1), own, base.T, alpha=-2, out=part)
            part.add_(own.square().sum(1, keepdim=True)).clamp_(min=0)
    rough[torch.arange(len(block), device="cpu"), torch.from_numpy(block)] = torch.inf
    kth = rough.kthvalue(k, dim=1).values.numpy() if k else np.zeros(len(block))
    size = (own.abs().sum(1) if rows.metric == "l1" else own.square().sum(1).sqrt()).numpy()
    # Twice the error: once for the k-th distance itself, once for the row that is compared with it.
    half = rows.unit**2 / 2 if rows.metric == "cosine" else rows.unit if rows.metric == "l1" else rows.unit**2
    limit = kth
    for _ in range(2):
        limit = _reach(rows, size, limit * half, float(np.finfo(np.float64).eps), 2.0**-1000)
    owner, other = (part.numpy() for part in (rough <= torch.from_numpy(limit)[:, None]).nonzero(as_tuple=True))
    found = np.empty(len(owner))
    width = max(1, _rerank.BYTES // (16 * rows.dim))
    for start in range(0, len(owner), width):
        stop = start + width
        found[start:stop] = _rerank.pairs(rows, block[owner[start:stop]], other[start:stop])
    order = np.lexsort((other, found, owner))
    begin = np.searchsorted(owner, np.arange(len(block)))  # owner is ascending, and so it stays
    kept = order[begin[:, None] + np.arange(k)]
    return other[kept], found[kept]
