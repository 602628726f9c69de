"""A table of neighbours as edges: index pairs, compressed rows, and the undirected graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ferkit.checks import check_choice, check_shape, check_tensor

__all__ = ["EdgeGraph", "csr", "edge_index", "symmetrize", "to_scipy"]

FLOWS = ("source_to_target", "target_to_source")


def edge_index(indices: Tensor, flow: str, weight: Tensor | None = None) -> Any:
    """int64 (2, E) of a table (N, K), missing neighbours left out; with ``weight`` (N, K) also its entries (E,)."""
    check_choice(flow, "flow", FLOWS)
    valid = indices >= 0
    centre = valid.nonzero()[:, 0]
    pair = (indices[valid], centre) if flow == FLOWS[0] else (centre, indices[valid])
    index = torch.stack(pair)
    return index if weight is None else (index, _like(indices, weight)[valid])


def csr(indices: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """indptr (N+1,), indices (E,) and data (E,) of a table (N, K)."""
    valid = indices >= 0
    return _indptr(valid.sum(1)), indices[valid], _like(indices, weight)[valid]


def to_scipy(indptr: Tensor, indices: Tensor, data: Tensor, size: int) -> Any:
    """``scipy.sparse.csr_array`` of compressed rows."""
    try:
        from scipy.sparse import csr_array
    except ModuleNotFoundError as error:
        raise ImportError('to_scipy needs scipy: pip install "ferkit[graph]"') from error
    arrays = (data.cpu().numpy(), indices.cpu().numpy(), indptr.cpu().numpy())
    return csr_array(arrays, shape=(size, size))


@dataclass(frozen=True, eq=False)
class EdgeGraph:
    """An undirected graph: each edge in both directions, ordered by (centre, neighbour).

    Attributes:
        centre, neighbor: int64 (E,). distances: (E,), of the metric of the graph it came from. n: number of rows.
    """

    centre: Tensor
    neighbor: Tensor
    distances: Tensor
    n: int

    def edge_index(self, flow: str = "source_to_target") -> Tensor:
        """int64 (2, E); both directions are there, so ``flow`` only says which end comes first."""
        check_choice(flow, "flow", FLOWS)
        return torch.stack((self.neighbor, self.centre) if flow == FLOWS[0] else (self.centre, self.neighbor))

    def csr(self) -> tuple[Tensor, Tensor, Tensor]:
        """indptr int64 (N+1,), indices int64 (E,) ascending within a row, data (E,)."""
        return _indptr(torch.bincount(self.centre, minlength=self.n)), self.neighbor, self.distances

    def to_scipy(self) -> Any:
        """``scipy.sparse.csr_array`` (N, N); explicit zeros are kept."""
        return to_scipy(*self.csr(), size=self.n)

    def __repr__(self) -> str:
        return f"EdgeGraph(n={self.n}, edges={len(self.centre)})"


def symmetrize(indices: Tensor, distances: Tensor, mode: str) -> EdgeGraph:
    """The edges that either end has ("union") or both have ("mutual"), in both directions."""
    check_choice(mode, "mode", ("union", "mutual"))
    n, valid = len(indices), indices >= 0
    centre, neighbor = valid.nonzero()[:, 0], indices[valid]
    low, high = torch.minimum(centre, neighbor), torch.maximum(centre, neighbor)
    # stable: of an edge that occurs twice the distance stored with the lower row is kept
    key, order = torch.sort(low * n + high, stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    if mode == "mutual":
        last = torch.ones_like(first)
        last[:-1] = first[1:]
        first &= ~last  # an edge that is listed twice
    kept = order[first]
    low, high, value = low[kept], high[kept], distances[valid][kept]
    both = torch.sort(torch.cat((low * n + high, high * n + low)))
    ends = torch.cat((low, high))[both.indices], torch.cat((high, low))[both.indices]
    return EdgeGraph(*ends, torch.cat((value, value))[both.indices], n)


def _indptr(degrees: Tensor) -> Tensor:
    return torch.cat((degrees.new_zeros(1), degrees.cumsum(0)))


def _like(indices: Tensor, weight: Tensor) -> Tensor:
    check_shape(check_tensor(weight, "weight"), "weight", tuple(indices.shape))
    return weight
