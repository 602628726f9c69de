"""Candidates from the cells near each row, by matrix products of whole cells.

The rows of neighbouring cells visit much the same cells: a visited cell is multiplied at once with all of them that
visit it, and only what beats a bound known beforehand is looked at. Blocks are fixed by the data: one answer for any
number of threads and any memory. The native library does it where there is one; `_in_blocks` is the same without it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ferkit.graph import _cells
from ferkit.graph._threads import Crew
from ferkit.ops import native

__all__ = ["FIRST_ROWS", "CellScan"]

Hits = tuple[np.ndarray, np.ndarray, np.ndarray]  # of queries with places in order: both numbers, and the distance

GROUP = 8192  # rows that are searched together
FIRST_CELLS, FIRST_ROWS = 8, 1280  # a row's bound comes from so many of the cells next to its own
LARGE = 1e30  # squared norm of what is no row
TALL, WIDE = 1024, 1024  # largest block of distances


class CellScan:
    """Rows sorted by cell, and the search among them.

    Attributes:
        order: int64 (U,), the rows' numbers in that order; ``points`` (U, R) are in it too: a view of ``table``
            (U, R + 2), which has the whole rows' squared norm and 1 beside them.
        cells: int64 (U,), the cell of each row by its number.
        kept: share of the variance that ``points`` have, None where they have all columns.
        lead: columns of ``points`` that are multiplied before the others.
    """

    def __init__(self, rows: _cells.Projected, count: int, crew: Crew, seed: int) -> None:
        self.crew = crew
        points, self.kept, self.lead = rows.points, rows.kept, rows.lead
        self.centres = _cells.centroids(points, count, crew, seed)
        cells = _cells.assign(points, self.centres, crew)
        order = torch.argsort(cells, stable=True)
        self.order, self.cells = order.numpy(), cells.numpy()
        self.table = points.new_ones(len(points), points.shape[1] + 2)
        self.points = self.table[:, :-2]
        torch.index_select(points, 0, order, out=self.points)
        torch.index_select(rows.norms, 0, order, out=self.table[:, -2])
        self.farthest = 4 * float(rows.norms.max())  # a bound that all keep to, and that drowns no distance
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(self.cells, minlength=count))])
        apart = torch.cdist(self.centres.double(), self.centres.double())
        self.around = apart.argsort(dim=1, stable=True)[:, :FIRST_CELLS].numpy()

    def of(self, rows: np.ndarray) -> Tensor:
        """The points (n, R) of rows given by number."""
        place = np.empty(len(self.order), np.int64)
        place[self.order] = np.arange(len(self.order))
        return self.points[torch.from_numpy(place[rows])]

    def stretches(self) -> list[tuple[int, int]]:
        """Stretches of ``order`` to search at once."""
        return [(start, min(len(self.order), start + GROUP)) for start in range(0, len(self.order), GROUP)]

    def candidates(self, points: Tensor, cells: np.ndarray, count: int, nprobe: int) -> np.ndarray:
        """Row numbers (Q, count) nearest to each of the points among the rows of the ``nprobe`` cells nearest to it.

        ``cells`` (Q,), ascending: the cell of each. Places without a candidate, and candidates beyond the bound, are
        -1. One thread does it; several such calls may run at once.
        """
        # A product with a row of ``table`` is then the squared distance, less the row's own norm and its bound.
        rows = torch.cat([-2 * points, points.new_ones(len(points), 1), points.new_zeros(len(points), 1)], 1)
        rows[:, -1] = -self._bound(rows, cells, count)
        visits = _cells.near_cells(points, self.centres, nprobe, self.crew)
        in_registers = native("cell_candidates")
        if in_registers is None:
            found = self._in_blocks(rows, visits.numpy(), count)
        else:
            found = in_registers(self.table, rows, visits, torch.from_numpy(self.starts), count, self.lead).numpy()
        return np.where(found < 0, -1, self.order[found])

    def _in_blocks(self, rows: Tensor, visits: np.ndarray, count: int) -> np.ndarray:
        """Places (Q, count) of the nearest rows in the cells that a query visits, (Q, cells)."""
        pairs = np.flatnonzero(np.ascontiguousarray(visits.T))  # by cell, then by query
        edges = np.searchsorted(pairs, np.arange(len(visits.T) + 1) * len(rows))
        queries = pairs % len(rows)
        flags, room = np.empty(TALL * WIDE, np.bool_), rows.new_empty(TALL, rows.shape[1])
        hits = []
        for target in np.flatnonzero(np.diff(edges)):
            low, high = int(self.starts[target]), int(self.starts[target + 1])
            for top in range(int(edges[target]), int(edges[target + 1]), TALL):
                some = queries[top : min(int(edges[target + 1]), top + TALL)]
                part = torch.index_select(rows, 0, torch.from_numpy(some), out=room[: len(some)])
                for left in range(low, high, WIDE):
                    base = self.table[left : min(high, left + WIDE)]
                    values = torch.mm(base, part.T, out=self.crew.room(len(base), len(part))).numpy()
                    row, column, value = _flagged(values, flags)
                    hits.append((some[column], row + left, value))
        return _best(hits, len(rows), count)

    def _bound(self, rows: Tensor, cells: np.ndarray, count: int) -> Tensor:
        """(Q,): the count-th distance among the rows next to each row's own cell, less the row's own norm."""
        found = rows.new_full((len(rows),), self.farthest)
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
            blank = rows.new_zeros(-size % fold, rows.shape[1])
            blank[:, -2] = LARGE
            some = torch.cat([*base, blank])
            for top in range(int(first), int(last), TALL):
                bottom = min(int(last), top + TALL)
                values = torch.mm(rows[top:bottom], some.T, out=self.crew.room(bottom - top, len(some)))
                minima = values.view(len(values), fold, -1).amin(1)  # their count-th is no less than that of all
                found[top:bottom] = _cells.kth_smallest(minima, count)
        return found


def _flagged(values: np.ndarray, flags: np.ndarray) -> Hits:
    """(row, column, value) wherever ``values`` is 0 or less; ``flags`` is written over."""
    flat = values.reshape(-1)
    at = np.flatnonzero(np.less_equal(flat, np.float32(0), out=flags[: flat.size]))
    row = at // values.shape[1]
    return row, at - row * values.shape[1], flat[at]


def _best(hits: list[Hits], total: int, count: int) -> np.ndarray:
    """Places (total, count) with the smallest values of each query, in order; -1 where it has fewer."""
    found = np.full((total, count), -1, np.int64)
    if not hits:
        return found
    query, place, value = (np.concatenate(part) for part in zip(*hits))
    order = _by_query(query, value, total)
    query, place = query[order], place[order]
    rank = np.arange(len(query)) - np.searchsorted(query, np.arange(total))[query]
    kept = rank < count
    found[query[kept], rank[kept]] = place[kept]
    return found


def _by_query(query: np.ndarray, value: np.ndarray, total: int) -> np.ndarray:
    """The order by query, then by value (to as many bits as there is room for), then as they came.

    All three in one integer: sorting whole numbers is five times as fast as sorting an order by a key.

    >>> _by_query(np.array([1, 0, 1]), np.array([2.0, 9.0, -3.0], np.float32), 2)
    array([1, 2, 0])
    """
    bits = value.view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # integers in the order of the floats
    last = max(1, (len(query) - 1).bit_length())
    dropped = max(0, (total - 1).bit_length() + 32 + last - 64)
    key = (query.astype(np.uint64) << np.uint64(32) | ordered) >> np.uint64(dropped) << np.uint64(last)
    key |= np.arange(len(query), dtype=np.uint64)
    key.sort()
    order: np.ndarray = (key & np.uint64((1 << last) - 1)).astype(np.int64)
    return order
