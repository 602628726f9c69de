"""Candidates from the cells near each row, by matrix products of whole cells.

The rows of neighbouring cells visit much the same cells: a visited cell is multiplied at once with all of them that
visit it, and only what beats a bound known beforehand is looked at. Blocks are fixed by the data: one answer for any
number of threads and any memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ferkit.graph import _cells
from ferkit.graph._threads import Crew

__all__ = ["CellScan"]

GROUP = 8192  # rows that are searched together
FIRST_CELLS, FIRST_ROWS = 8, 1280  # a row's bound comes from so many of the cells next to its own
LARGE = 1e30  # a bound that all keep to: points lie within [-1, 1]
TALL, WIDE = 1024, 1024  # largest block of distances


class CellScan:
    """Rows sorted by cell, and the search among them.

    Attributes:
        order: int64 (U,), the rows' numbers in that order; ``points`` (U, R) are in it too: a view of ``table``
            (U, R + 2), which has their squared norm and 1 beside them.
        cells: int64 (U,), the cell of each row by its number.
    """

    def __init__(self, points: Tensor, count: int, crew: Crew, seed: int) -> None:
        self.crew = crew
        self.centres = _cells.centroids(points, count, crew, seed)
        cells = _cells.assign(points, self.centres, crew)
        order = torch.argsort(cells, stable=True)
        self.order, self.cells = order.numpy(), cells.numpy()
        self.table = torch.ones(len(points), points.shape[1] + 2)
        self.points = self.table[:, :-2]
        torch.index_select(points, 0, order, out=self.points)
        torch.sum(self.points.square(), 1, out=self.table[:, -2])
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(self.cells, minlength=count))])
        apart = torch.cdist(self.centres.double(), self.centres.double())
        self.around = apart.argsort(dim=1, stable=True)[:, :FIRST_CELLS].numpy()

    def stretches(self) -> list[tuple[int, int]]:
        """Stretches of ``order`` to search at once."""
        return [(start, min(len(self.order), start + GROUP)) for start in range(0, len(self.order), GROUP)]

    def candidates(self, points: Tensor, cells: np.ndarray, count: int, nprobe: int) -> np.ndarray:
        """Row numbers (Q, count) nearest to each of the points among the rows of the ``nprobe`` cells nearest to it.

        ``cells`` (Q,), ascending: the cell of each. Places without a candidate, and candidates beyond the bound, are
        -1. One thread does it; several such calls may run at once.
        """
        # A product with a row of ``table`` is then the squared distance, less the row's own norm and its bound.
        rows = torch.cat([-2 * points, torch.ones(len(points), 1), torch.zeros(len(points), 1)], 1)
        rows[:, -1] = -self._bound(rows, cells, count)
        visited = _cells.near_cells(points, self.centres, nprobe, self.crew).astype(np.int32).reshape(-1)
        by_cell = np.argsort(visited, kind="stable")
        targets, begin = np.unique(visited[by_cell], return_index=True)
        queries = torch.from_numpy(by_cell // nprobe)
        flags = np.zeros(TALL * WIDE, bool)
        hits = []
        for target, first, last in zip(targets, begin, [*begin[1:], len(by_cell)]):
            low, high = int(self.starts[target]), int(self.starts[target + 1])
            for top in range(int(first), int(last), TALL):
                some = queries[top : min(int(last), top + TALL)]
                part = rows[some]
                for left in range(low, high, WIDE):
                    base = self.table[left : min(high, left + WIDE)]
                    row, column, value = _below_zero(part, base, self.crew.room(len(part), len(base)), flags)
                    hits.append((some.numpy()[row], column + left, value))
        return self._best(hits, len(points), count)

    def _bound(self, rows: Tensor, cells: np.ndarray, count: int) -> Tensor:
        """(Q,): the count-th distance among the rows next to each row's own cell, less the row's own norm."""
        found = torch.full((len(rows),), LARGE)
        own, begin = np.unique(cells, return_index=True)
        for cell, first, last in zip(own, begin, [*begin[1:], len(cells)]):
            base, size = [], 0
            for near in self.around[cell]:
                low, high = int(self.starts[near]), int(self.starts[near + 1])
                base.append(self.table[low : min(high, low + WIDE)])
                size += len(base[-1])
                if size >= FIRST_ROWS:
                    break
            if size < count:
                continue
            fold = 8 if size >= 16 * count else 1
            blank = torch.zeros(-size % fold, rows.shape[1])
            blank[:, -2] = LARGE
            some = torch.cat([*base, blank])
            for top in range(int(first), int(last), TALL):
                bottom = min(int(last), top + TALL)
                values = torch.mm(rows[top:bottom], some.T, out=self.crew.room(bottom - top, len(some)))
                minima = values.view(len(values), fold, -1).amin(1)  # their count-th is no less than that of all
                found[top:bottom] = minima.kthvalue(count, dim=1).values
        return found

    def _best(self, hits: list[tuple[np.ndarray, np.ndarray, np.ndarray]], total: int, count: int) -> np.ndarray:
        found = np.full((total, count), -1, np.int64)
        if not hits:
            return found
        query, place, value = (np.concatenate(part) for part in zip(*hits))
        bits = value.view(np.uint32)
        ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # integers in the order of the floats
        order = np.argsort(query.astype(np.uint64) << np.uint64(32) | ordered, kind="stable")
        query, place = query[order], place[order]
        rank = np.arange(len(query)) - np.searchsorted(query, np.arange(total))[query]
        kept = rank < count
        found[query[kept], rank[kept]] = self.order[place[kept]]
        return found


def _below_zero(
    rows: Tensor, base: Tensor, room: Tensor, flags: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, column, value) wherever rows @ base.T is 0 or less; ``room`` and ``flags`` are written over."""
    width, total = len(base), len(rows) * len(base)
    flat = torch.mm(rows, base.T, out=room).view(-1).numpy()
    padded = flags[: (total + 7) // 8 * 8]
    padded[total:] = False
    np.less_equal(flat, np.float32(0), out=padded[:total])
    words = padded.view(np.uint64)
    some = np.flatnonzero(words)  # hits are rare: eight pairs are dismissed at a time
    word, byte = np.nonzero(words[some].view(np.bool_).reshape(-1, 8))
    at = some[word] * 8 + byte
    row, column = np.divmod(at, width)
    return row, column, flat[at]
