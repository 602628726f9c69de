"""From the distinct samples of a batch to groups of fixed shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

__all__ = ["GroupCollate"]


class GroupCollate:
    """Lays the samples of one batch out as ``groups`` centres, then each centre's neighbours, table by table.

    Holds nothing but the tables, so that DataLoader workers may share it.
    """

    def __init__(self, tables: Sequence[tuple[NDArray[np.int64], NDArray[Any]]], groups: int) -> None:
        self.tables, self.groups = tuple(tables), groups

    def neighbors(self, centers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Neighbours (G, K') of the centres (G,), -1 where one is missing."""
        return np.concatenate([indices[centers] for indices, _ in self.tables], axis=1)

    def weights(self, centers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Their weights, float32 (G, K'); whatever a table says of a missing neighbour, 0."""
        weights = np.concatenate([values[centers].astype(np.float32) for _, values in self.tables], axis=1)
        weights[self.neighbors(centers) < 0] = 0
        return weights

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        size = len(self.tables[0][0])
        place: dict[int, int] = {}
        for position, sample in enumerate(samples):
            if "index" not in sample:
                raise ValueError(f"samples: expected the key 'index' in each, got {sorted(sample)}")
            place.setdefault(int(sample["index"]), position)
        centers = np.array([int(sample["index"]) for sample in samples[: self.groups]], dtype=np.int64)
        if len(centers) < self.groups or centers.min() < 0 or centers.max() >= size:
            raise ValueError(
                f"samples: expected {self.groups} centres first, of index 0..{size - 1}, got {centers.tolist()}"
            )
        near = self.neighbors(centers)
        near = np.where(near < 0, centers[:, None], near)
        wanted = near.reshape(-1).tolist()
        absent = sorted({index for index in wanted if index not in place})
        if absent:
            raise ValueError(
                f"samples: expected a batch of this sampler, whose 'index' is the position in its tables; "
                f"missing are {absent[:8]}"
            )
        chosen = [*range(self.groups), *(place[index] for index in wanted)]
        batch: dict[str, Any] = default_collate([samples[position] for position in chosen])
        batch["weight"] = torch.from_numpy(self.weights(centers))
        return batch
