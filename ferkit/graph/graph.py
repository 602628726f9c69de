"""A graph of nearest neighbours as a table (N, K), with all that says what it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ferkit.checks import check_choice, check_floating, check_number, check_shape, check_tensor
from ferkit.graph import edges, storage, verification
from ferkit.graph.fingerprint import check_fingerprints

__all__ = ["FORMAT", "KNNGraph"]

FORMAT = "ferkit.knn/1"
METRICS = ("l2", "l1", "cosine")
REQUIRED = ("format", "n", "dim", "k", "metric", "method")
BLOCK = 1 << 20  # rows checked at once: a memory-mapped table is never in memory as a whole


@dataclass(frozen=True, eq=False, repr=False)
class KNNGraph:
    """The K nearest neighbours of each of N rows; built by ``ferkit.graph.knn_graph``.

    Attributes:
        indices: int64 (N, K), positions of the neighbours, nearest first; -1 where there is none. Never the row itself.
        distances: (N, K), float32 or float64; l2: **squared** distances, l1: sums of absolute differences, cosine:
            1 - cosine; infinite where there is no neighbour.
        meta: plain values: format, n, dim, k, metric, method, engine, parameters, target_recall, recall (measured; 1
            for exact methods), recall_rows, seed, isolated, zero_distance, copies, versions, points_sha256, ids_sha256.

    Raises:
        TypeError, ValueError: for tables that are no such graph.

    Example:
        >>> graph = KNNGraph(
        ...     torch.tensor([[1, 2], [0, 2], [1, -1]]),
        ...     torch.tensor([[1.0, 4.0], [1.0, 1.0], [1.0, torch.inf]]),
        ...     {"format": "ferkit.knn/1", "n": 3, "dim": 1, "k": 2, "metric": "l2", "method": "exact"},
        ... )
        >>> graph
        KNNGraph(n=3, k=2, dim=1, metric=l2, method=exact, edges=5)
        >>> graph.affinity(sigma=1.0)
        tensor([[0.6065, 0.1353],
                [0.6065, 0.6065],
                [0.6065, 0.0000]])
        >>> graph.edge_index()  # row 0: the neighbour, row 1: the centre, as torch_geometric's knn_graph has it
        tensor([[1, 2, 0, 2, 1],
                [0, 0, 1, 1, 2]])
    """

    indices: Tensor
    distances: Tensor
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        check_tensor(self.indices, "indices")
        check_floating(self.distances, "distances")
        if self.indices.dtype != torch.int64:
            raise TypeError(f"indices: expected dtype torch.int64, got {self.indices.dtype}")
        if self.distances.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"distances: expected dtype float32 or float64, got {self.distances.dtype}")
        check_shape(self.indices, "indices", ("N", "K"))
        check_shape(self.distances, "distances", tuple(self.indices.shape))
        if not isinstance(self.meta, dict):
            raise TypeError(f"meta: expected a dict, got {type(self.meta).__name__}")
        missing = [key for key in REQUIRED if key not in self.meta]
        if missing:
            raise ValueError(f"meta: expected the entries {', '.join(REQUIRED)}, got none of {', '.join(missing)}")
        check_choice(self.meta["format"], "meta: format", (FORMAT,))
        check_choice(self.meta["metric"], "meta: metric", METRICS)
        if (self.meta["n"], self.meta["k"]) != (self.n, self.k):
            have = f"n={self.meta['n']}, k={self.meta['k']}"
            raise ValueError(f"meta: expected n={self.n}, k={self.k} as the tables have it, got {have}")
        for start in range(0, self.n, BLOCK):
            _check_rows(self.indices[start : start + BLOCK], self.distances[start : start + BLOCK], start, self.n)

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.indices.shape[0]

    @property
    def k(self) -> int:
        """Number of columns: neighbours a row, where there are so many."""
        return self.indices.shape[1]

    @property
    def metric(self) -> str:
        """ "l2", "l1" or "cosine"."""
        return str(self.meta["metric"])

    @property
    def valid(self) -> Tensor:
        """bool (N, K): where there is a neighbour."""
        return self.indices >= 0

    def affinity(self, sigma: float, kind: str = "gaussian") -> Tensor:
        """Similarities (N, K) in [0, 1], 0 where there is no neighbour.

        Args:
            sigma: bandwidth in the units of the points (the papers': 1 for action units, 68 for landmarks in pixels,
                0.5 for valence and arousal).
            kind: "gaussian": exp(-d²/(2 sigma²)) over the l2 distance (Chen et al., CVPR 2020); "laplacian":
                exp(-d/sigma) over the l1 distance (LDLVA's code).

        Raises:
            ValueError: where the stored distances are of another metric than ``kind`` needs.
        """
        check_choice(kind, "kind", ("gaussian", "laplacian"))
        check_number(sigma, "sigma", 0, open_low=True)
        needed = {"gaussian": "l2", "laplacian": "l1"}[kind]
        if self.metric != needed:
            raise ValueError(
                f"kind: {kind!r} needs {needed} distances, and this graph holds {self.metric}: build it with "
                f'metric="{needed}", or compute the affinity from the rows themselves (points[graph.indices])'
            )
        scale = 2.0 * sigma * sigma if kind == "gaussian" else sigma
        return torch.exp(self.distances / -scale)  # exp(-inf) = 0

    def take(self, k: int) -> KNNGraph:
        """The graph of the ``k`` nearest: the first columns. Its ``recall`` stays the one measured at ``recall_k``."""
        check_number(k, "k", 0, self.k, integer=True)
        distances = self.distances[:, :k]
        meta = {**self.meta, "k": k, "recall_k": self.meta.get("recall_k", self.k)}
        if "zero_distance" in meta:
            edges_left = int(self.valid[:, :k].sum())
            meta["zero_distance"] = int((distances == 0).sum()) / max(1, edges_left)
        return replace(self, indices=self.indices[:, :k], distances=distances, meta=meta)

    def edge_index(self, flow: str = "source_to_target", weight: Tensor | None = None) -> Any:
        """Edges int64 (2, E), centre by centre, nearest first, as ``torch_geometric.nn.knn_graph`` gives them.

        Args:
            flow: "source_to_target": row 0 is the neighbour, row 1 the centre, so that messages run to the centre;
                "target_to_source": the other way round.
            weight: (N, K), such as an affinity: its E entries are returned too, as (edge_index, edge_weight).
        """
        return edges.edge_index(self.indices, flow, weight)

    def csr(self, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Compressed rows: indptr int64 (N+1,), indices int64 (E,), data (E,): distances, or those of ``weight``.

        Within a row entries are ordered by distance, as scikit-learn wants precomputed graphs. Neighbours at distance 0
        are entries with an explicit 0.
        """
        return edges.csr(self.indices, self.distances if weight is None else weight)

    def to_scipy(self, weight: Tensor | None = None) -> Any:
        """``scipy.sparse.csr_array`` (N, N) of the distances, or of ``weight`` (N, K); explicit zeros are kept."""
        return edges.to_scipy(*self.csr(weight), size=self.n)

    def symmetrize(self, mode: str = "union") -> edges.EdgeGraph:
        """The undirected graph, both directions listed: "union" keeps an edge that either row has, "mutual" that both.

        Rows differ in their number of neighbours then, hence a list of edges.
        """
        return edges.symmetrize(self.indices, self.distances, mode)

    def check(self, points: Any = None, ids: Sequence[Any] | None = None, strict: bool = True) -> None:
        """Raise ValueError (or warn, where not ``strict``) unless the graph was built from these rows and ids."""
        check_fingerprints(self.meta, points, ids, strict=strict, where="graph")

    def verify(
        self, points: Any, rows: int = 2000, *, seed: int = 0, exclude: Tensor | None = None
    ) -> dict[str, float]:
        """Measure the graph against exact float64 distances of a sample of rows.

        Args:
            points: (N, D), the rows that the graph was built from.
            rows: how many are sampled (all, where there are no more).
            exclude: int64 (2, E) pairs that the graph was told never to link.

        Returns:
            recall (share of the true K nearest; a neighbour as near as the K-th is right), rows (sampled),
            distance_error (largest error of a stored distance, relative to 1 + the distance).

        Raises:
            ValueError: for other points than those of the graph.
        """
        self.check(points)
        return verification.verify(self, points, rows, seed=seed, exclude=exclude)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: whole or not at all, also when killed meanwhile. Needs ``ferkit[graph]``."""
        storage.save(path, {"indices": self.indices, "distances": self.distances}, self.meta)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        points: Any = None,
        ids: Sequence[Any] | None = None,
        *,
        strict: bool = True,
    ) -> KNNGraph:
        """Memory-map a file of ``save``. Needs ``ferkit[graph]``.

        Args:
            path: the file.
            points: (N, D), the data's rows; a graph of others is refused.
            ids: the data's N ids; likewise.
            strict: False warns of other data instead.

        Raises:
            ValueError: naming the file, if it is torn, no graph, or a graph of other data.
            FileNotFoundError: if there is none.
        """
        tensors, meta = storage.load(path, FORMAT)
        try:
            graph = cls(tensors["indices"], tensors["distances"], meta)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: not a graph of ferkit ({error})") from error
        check_fingerprints(meta, points, ids, strict=strict, where=os.fspath(path))
        return graph

    def __repr__(self) -> str:
        meta = self.meta
        parts = [f"n={self.n}", f"k={self.k}", f"dim={meta['dim']}", f"metric={meta['metric']}"]
        parts += [f"method={meta['method']}", f"edges={int(self.valid.sum())}"]
        if meta.get("recall") is not None:
            parts.append(f"recall={meta['recall']:.4f}")
        if meta.get("isolated"):
            parts.append(f"isolated={meta['isolated']}")
        return f"KNNGraph({', '.join(parts)})"


def _check_rows(indices: Tensor, distances: Tensor, start: int, n: int) -> None:
    """Order of distances, range of positions, padding. Ties are not looked at: they may have been broken in float64."""
    rows = torch.arange(start, start + len(indices), device=indices.device)[:, None]
    absent = indices == -1
    for bad, expected in (
        ((indices < -1) | (indices >= n), f"indices: expected positions in 0..{n - 1} or -1"),
        (indices == rows, "indices: expected no row as its own neighbour"),
        (~(distances >= 0), "distances: expected values of 0 or more"),
        (absent != torch.isinf(distances), "distances: expected infinity where, and only where, there is no neighbour"),
        (distances[:, 1:] < distances[:, :-1], "distances: expected the nearest first"),
    ):
        if bool(bad.any()):
            row = int(bad.any(1).nonzero()[0])
            raise ValueError(
                f"{expected}, got row {start + row}: {indices[row].tolist()}, {[f'{d:g}' for d in distances[row]]}"
            )
