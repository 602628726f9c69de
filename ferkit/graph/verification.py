"""How right a graph is, measured against exact float64 distances of a sample of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ferkit.checks import check_number

if TYPE_CHECKING:
    from ferkit.graph.graph import KNNGraph

__all__ = ["verify"]

PAIRS = 1 << 22  # distances held at once
SPARES = 16  # candidates beyond K that are measured directly
ROUNDING = 1e-30  # of the distance of two equal rows brought to length 1
TOLERANCE = 1e-6  # relative: a neighbour as near as the K-th but for rounding is right


def verify(
    graph: KNNGraph, points: Any, rows: int = 2000, *, seed: int = 0, exclude: Tensor | None = None
) -> dict[str, float]:
    """See ``KNNGraph.verify``. Rows that have no neighbour take no part, neither as rows nor as neighbours."""
    check_number(rows, "rows", 1, integer=True)
    values = torch.as_tensor(points, device="cpu").detach()
    indices, distances = graph.indices.cpu(), graph.distances.cpu()
    members = (indices[:, 0] >= 0).nonzero()[:, 0] if graph.k else indices.new_zeros(0)
    generator = torch.Generator().manual_seed(seed)
    chosen = members[torch.randperm(len(members), generator=generator, device="cpu")[:rows].sort().values]
    if not len(chosen):
        return {"recall": 1.0, "rows": 0, "distance_error": 0.0}
    centre = values[members].double().mean(0) if graph.metric != "cosine" else values.new_zeros((), dtype=torch.float64)
    place = members.new_full((graph.n,), -1).index_copy_(0, members, torch.arange(len(members), device="cpu"))
    right = wanted = 0
    slack = ROUNDING if graph.metric == "cosine" else 0.0
    worst = 0.0
    step = max(1, PAIRS // len(members))
    for start in range(0, len(chosen), step):
        block = chosen[start : start + step]
        query = values[block].double() - centre
        rough = _all_distances(query, values, members, centre, graph.metric)
        rough[torch.arange(len(block), device="cpu"), place[block]] = torch.inf
        _leave_out(rough, block, place, exclude)
        near = rough.topk(min(graph.k + SPARES, rough.shape[1]), dim=1, largest=False)
        exact = _direct(query, values[members[near.indices]].double() - centre, graph.metric)
        exact = exact.masked_fill(torch.isinf(near.values), torch.inf).sort(1).values[:, : graph.k]
        count = torch.isfinite(exact).sum(1)
        limit = exact.gather(1, (count - 1).clamp(min=0)[:, None])
        found, there = indices[block], indices[block] >= 0
        mine = _direct(query, values[found.clamp(min=0)].double() - centre, graph.metric)
        hit = there & (mine <= limit * (1 + TOLERANCE) + slack) & _first_of_row(found)
        right += int(torch.minimum(hit.sum(1), count).sum())
        wanted += int(count.sum())
        error = ((distances[block].double() - mine).abs() / (1 + mine))[there]
        worst = max(worst, float(error.max())) if len(error) else worst
    return {"recall": right / max(1, wanted), "rows": len(chosen), "distance_error": worst}


def _all_distances(query: Tensor, values: Tensor, members: Tensor, centre: Tensor, metric: str) -> Tensor:
    """(B, M) distances to every member, good to float64 rounding of the centred rows."""
    parts = []
    step = max(1, PAIRS // max(1, values.shape[1]))
    for start in range(0, len(members), step):
        other = values[members[start : start + step]].double() - centre
        if metric == "l1":
            parts.append(torch.cdist(query, other, p=1.0))
        elif metric == "cosine":
            parts.append(1 - _unit(query) @ _unit(other).T)
        else:
            parts.append(query.square().sum(1, keepdim=True) - 2 * query @ other.T + other.square().sum(1))
    return torch.cat(parts, 1)


def _direct(query: Tensor, other: Tensor, metric: str) -> Tensor:
    """(B, K) distances of (B, D) to (B, K, D) by differences."""
    if metric == "cosine":  # by differences too: 1 - cosine of equal rows is not 0
        return (_unit(query)[:, None] - _unit(other)).square().sum(2) / 2
    difference = query[:, None] - other
    return difference.abs().sum(2) if metric == "l1" else difference.square().sum(2)


def _unit(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / length.clamp(min=torch.finfo(rows.dtype).tiny)


def _leave_out(rough: Tensor, block: Tensor, place: Tensor, exclude: Tensor | None) -> None:
    if exclude is None:
        return
    where = {int(row): position for position, row in enumerate(block)}
    for one, other in torch.cat((exclude, exclude.flip(0)), 1).T.tolist():
        if one in where and place[other] >= 0:
            rough[where[one], place[other]] = torch.inf


def _first_of_row(found: Tensor) -> Tensor:
    """A neighbour that is listed twice counts once."""
    same = found[:, :, None] == found[:, None, :]
    return ~same.tril(-1).any(2)
