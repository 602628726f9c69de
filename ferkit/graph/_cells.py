"""What an inverted file is made of: rows in few dimensions, cells by k-means, cells near a row.

Fixed blocks, one BLAS thread in each: the same cells for any number of threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ferkit.graph._blocks import smallest
from ferkit.graph._rows import Rows
from ferkit.graph._threads import Crew
from ferkit.ops import native

__all__ = ["PROJECTED", "Projected", "assign", "cell_count", "centroids", "kth_smallest", "near_cells", "project"]

PROJECTED = 24  # fewest dimensions that candidates are searched in
STEP = 8  # more are taken so many at a time
WIDE = 48  # columns up to which no projection pays
KEPT = 0.98  # share of the variance that always suffices
BLUR = 0.03  # else: what the projection may change a distance by, against that of a k-th neighbour
APART = 0.6  # what columns that are looked at later may take from a distance at most, likewise
PART = 1024  # rows at once: what is computed stays in the cache
PCA_ROWS = 20480
ROWS_A_CELL = 64  # that k-means is trained on
ITERATIONS = 10


def cell_count(rows: int) -> int:
    """2^round(log2(2 sqrt rows)), at most ``rows``.

    >>> cell_count(300_000), cell_count(3)
    (1024, 3)
    """
    return int(min(rows, 2 ** round(math.log2(2 * math.sqrt(rows)))))


def _sample(count: int, size: int, seed: int) -> np.ndarray:
    """``size`` of 0..count-1, ascending."""
    return np.asarray(np.sort(np.random.default_rng(seed).permutation(count)[:size]))


class Projected(NamedTuple):
    """Centred rows in few dimensions."""

    points: Tensor  # (U, R) float32
    norms: Tensor  # (U,), squared, of the rows with all their columns: what is left out counts as orthogonal
    kept: float | None  # share of the variance in ``points``; None: all columns, no projection
    lead: int  # columns of ``points`` that tell most rows from a row's neighbours


def project(rows: Rows, crew: Crew, seed: int, kth: float | None) -> Projected:
    """The rows on their fewest principal axes that tell neighbours apart.

    ``kth``: a usual squared distance to the k-th neighbour; None: no projection.
    """
    axes, kept, lead = None, None, rows.dim
    if rows.dim > WIDE and kth is not None:
        some = rows.centred(_sample(rows.count, PCA_ROWS, seed), torch.float64)
        some -= some.mean(0)
        values, vectors = torch.linalg.eigh(some.T @ some)
        width = _dimensions(values.flip(0) / len(some), kth)
        if width is not None:
            axes = vectors.flip(1)[:, :width].float().contiguous()
            kept = float(values[-width:].sum() / values.sum().clamp(min=torch.finfo(torch.float64).tiny))
            lead = _leading(values.flip(0)[:width] / len(some), kth)
    width = rows.dim if axes is None else axes.shape[1]
    found = torch.empty(rows.count, width, dtype=torch.float32, device="cpu")
    norms = found.new_empty(rows.count)

    def work(start: int) -> None:
        block = rows.centred(np.arange(start, min(rows.count, start + PART)))
        found[start : start + PART] = block if axes is None else block @ axes
        norms[start : start + PART] = block.square().sum(1)

    crew.map(work, range(0, rows.count, PART))
    return Projected(found, norms, kept, lead)


def _dimensions(variances: Tensor, kth: float) -> int | None:
    """How many of the axes, widest first; None where so many are needed that projecting does not pay.

    Of a distance only twice the inner product of what is left out of both rows is lost: of spread 2 sqrt(sum v^2).

    >>> _dimensions(torch.tensor([1.0] * 24 + [0.001] * 76), kth=1.0), _dimensions(torch.ones(100), kth=1.0)
    (24, None)
    """
    share = variances.cumsum(0) / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
    lost = 2 * variances.square().flip(0).cumsum(0).flip(0).sqrt()
    for width in range(PROJECTED, len(variances) // 2 + 1, STEP):
        if float(share[width - 1]) >= KEPT or float(lost[width]) <= BLUR * kth:
            return width
    return None


def _leading(variances: Tensor, kth: float) -> int:
    """How many of the axes kept, widest first, are multiplied before the others; all where that tells too little.

    Of two rows' distance the others are then known but for twice their inner product: 2 sum v at most, on average.

    >>> _leading(torch.tensor([1.0] * 8 + [0.01] * 16), kth=1.0), _leading(torch.ones(24), kth=1.0)
    (8, 24)
    """
    lost = 2 * variances.flip(0).cumsum(0).flip(0)
    for lead in range(STEP, len(variances), STEP):
        if float(lost[lead]) <= APART * kth:
            return lead
    return len(variances)


def _distances(points: Tensor, centres: Tensor, crew: Crew) -> Tensor:
    """Squared distances but for the points' own norm, in the thread's room."""
    room = crew.room(len(points), len(centres))
    return torch.addmm(centres.square().sum(1), points, centres.T, alpha=-2, out=room)


def assign(points: Tensor, centres: Tensor, crew: Crew) -> Tensor:
    """int64 (U,): the nearest centre of each row."""
    found = points.new_empty(len(points), dtype=torch.int64)

    def work(start: int) -> None:
        values = _distances(points[start : start + PART], centres, crew)
        found[start : start + PART] = smallest(values, 1)[1][:, 0]

    crew.map(work, range(0, len(points), PART))
    return found


def centroids(points: Tensor, count: int, crew: Crew, seed: int) -> Tensor:
    """Lloyd's k-means on a seeded sample; a centre that loses all its rows stays where it is."""
    some = points[torch.from_numpy(_sample(len(points), ROWS_A_CELL * count, seed))]
    start = np.sort(np.random.default_rng(seed + 1).permutation(len(some))[:count])
    centres = some[torch.from_numpy(start)]
    columns = some.T.double().contiguous().numpy()
    for _ in range(ITERATIONS):
        nearest = assign(some, centres, crew).numpy()
        size = np.bincount(nearest, minlength=count)
        sums = np.stack(crew.map(lambda c: np.bincount(nearest, c, count), columns), 1)  # noqa: B023 - used at once
        means = torch.from_numpy(sums / np.maximum(size, 1)[:, None]).float()
        centres = torch.where(torch.from_numpy(size > 0)[:, None], means, centres)
    return centres[torch.from_numpy(_neighbours_together(centres.double().numpy()))]


def _neighbours_together(centres: np.ndarray) -> np.ndarray:
    """An order in which near centres are near: halves along the widest column, halved again."""
    parts = [np.arange(len(centres))]
    while max(map(len, parts)) > 4:
        halves = []
        for part in parts:
            column = centres[part][:, np.ptp(centres[part], axis=0).argmax()]
            halves += np.array_split(part[np.argsort(column, kind="stable")], 2)
        parts = [half for half in halves if len(half)]
    return np.concatenate(parts)


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """(Q,): the k-th smallest of every row of float32 values (Q, M) in contiguous rows."""
    counted = native("kth_smallest")
    if counted is not None:
        found: Tensor = counted(values, k)
        return found
    return torch.from_numpy(np.partition(values.numpy(), k - 1, axis=1)[:, k - 1])


def near_cells(points: Tensor, centres: Tensor, count: int, crew: Crew) -> Tensor:
    """bool (Q, cells): the ``count`` cells whose centres are nearest; more where the last are equally near."""
    found = torch.empty(len(points), len(centres), dtype=torch.bool, device="cpu")
    for start in range(0, len(points), PART):
        values = _distances(points[start : start + PART], centres, crew)
        torch.le(values, kth_smallest(values, count)[:, None], out=found[start : start + PART])
    return found
