"""Batches of groups: a centre and its neighbours in one or several graphs of the label space."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ferkit.checks import check_number
from ferkit.samplers._group_collate import GroupCollate
from ferkit.samplers._neighbor_tables import Table, read_tables
from ferkit.samplers._plan import Keys, repeat_evenly
from ferkit.samplers._resumable import ResumableBatchSampler

__all__ = ["NeighborGroupBatchSampler"]

Array = Tensor | NDArray[Any]
ROWS = 65536  # rows of a table that are copied at a time for the digest


class NeighborGroupBatchSampler(ResumableBatchSampler):
    """Batch sampler of groups: one centre, its neighbours in each graph, and their weights (LDL-ALSG, LDLVA).

    What it promises for each epoch:

    * every batch has exactly ``groups`` distinct centres, on every rank, and ranks get equally many batches;
    * every image is a centre at least once (not so with ``drop_last=True``); how often two images are centres
      differs by at most one. Only the last batches are filled with further centres;
    * a batch lists distinct images, the centres first: one that is needed several times is loaded once;
    * the order is a pure function of (number of images, settings, seed, epoch): it knows no global generator, no
      worker count and no numpy version. All ranks plan the same epoch and rank ``r`` takes batches ``r, r +
      world_size, ...``.

    Labels play no part: unlabelled images are centres and neighbours like all others.

    Args:
        tables: name to ``(indices, weights)``, or one such pair: int64 (N, K) positions of neighbours, -1 for none,
            and floating-point (N, K) weights of 0 or more, such as ``graph.indices`` and ``graph.affinity(sigma)``.
            Tensors or arrays; they are kept as they are, not copied, and must not be changed afterwards.
        groups: centres in a batch and rank.
        neighbors: the first so many columns of each table are used.
        seed: 0 or more.
        rank, world_size: this process among those that share the epoch. They are never guessed.
        drop_last: leave out the centres that do not fill ``groups`` on every rank (others in each epoch).

    Raises:
        ValueError, TypeError: a table of another shape or dtype, an index outside -1..N-1, a row that names itself, a
            weight that is NaN, infinite or negative, fewer columns than ``neighbors``, fewer images than ``groups``.

    ``collate`` is the DataLoader's ``collate_fn``. With G groups and K' = tables * neighbors it returns ``image``
    (G * (1 + K'), ...), ``label`` and ``index`` (and whatever else a sample holds), the centres first, then the
    neighbours group by group, table by table; and ``weight`` float32 (G, K'), 0 for a missing neighbour, whose place
    holds the centre again. Samples need the key ``index``, their position in the tables.

    ``len(sampler)`` is the number of batches of a whole epoch for one rank, also after a resume in mid-epoch. Call
    ``set_epoch`` before each epoch for a new order (Lightning does it by itself; give its Trainer
    ``use_distributed_sampler=False``, the ranks are split here).

    Example:
        >>> import torch
        >>> indices = torch.tensor([[1, 2], [0, 2], [1, -1], [2, 1]])
        >>> weights = torch.tensor([[0.9, 0.5], [0.9, 0.7], [0.7, 0.0], [0.2, 0.1]])
        >>> sampler = NeighborGroupBatchSampler((indices, weights), groups=2, neighbors=2)
        >>> faces = [{"image": torch.zeros(3, 8, 8), "label": i % 2, "index": i} for i in range(4)]
        >>> loader = torch.utils.data.DataLoader(faces, batch_sampler=sampler, collate_fn=sampler.collate)
        >>> for batch in loader:
        ...     print(batch["image"].shape[0], batch["weight"].shape)
        6 torch.Size([2, 2])
        6 torch.Size([2, 2])
    """

    def __init__(
        self,
        tables: Mapping[str, tuple[Array, Array]] | tuple[Array, Array],
        groups: int = 32,
        neighbors: int = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(seed, rank, world_size, drop_last)
        check_number(groups, "groups", low=1, integer=True)
        check_number(neighbors, "neighbors", low=1, integer=True)
        self.groups, self.neighbors = groups, neighbors
        read = read_tables(tables, neighbors)
        self.names = tuple(read)
        self.num_samples = len(next(iter(read.values()))[0])
        if self.num_samples < groups:
            raise ValueError(f"groups: expected at most the {self.num_samples} rows of the tables, got {groups}")
        whole, rest = divmod(self.num_samples, groups * world_size)
        self._steps = whole if self.drop_last else whole + (rest > 0)
        if self._steps == 0:
            raise ValueError(
                f"drop_last: {self.num_samples} images do not give {groups} centres to each of {world_size} rank(s); "
                f"expected drop_last=False or fewer groups"
            )
        #: the DataLoader's ``collate_fn``
        self.collate = GroupCollate(list(read.values()), groups)
        self._digest = _digest(read)

    def _batches(self, start: int) -> Iterator[list[int]]:
        keys = Keys(self.seed, self.epoch)
        draws = self._steps * self.world_size * self.groups
        # any `groups` neighbours in this sequence are distinct
        plan = repeat_evenly(np.arange(self.num_samples), draws, self.groups, keys).reshape(-1, self.groups)
        for centers in plan[self.rank :: self.world_size][start:]:
            near = self.collate.neighbors(centers).reshape(-1)
            yield list(dict.fromkeys([*centers.tolist(), *near[near >= 0].tolist()]))

    def _settings(self) -> dict[str, int]:
        return {
            "groups": self.groups,
            "neighbors": self.neighbors,
            "seed": self.seed,
            "world_size": self.world_size,
            "drop_last": int(self.drop_last),
            "num_samples": self.num_samples,
            "num_tables": len(self.names),
            "tables_crc32": self._digest,
        }


def _digest(tables: Mapping[str, Table]) -> int:
    value = zlib.crc32("\n".join(tables).encode())
    for indices, weights in tables.values():
        for values, kind in ((indices, "<i8"), (weights, "<f4")):
            for start in range(0, len(values), ROWS):
                value = zlib.crc32(values[start : start + ROWS].astype(kind).tobytes(), value)
    return value
