"""Rows that are equal are searched once, and put back by their positions: groups of copies are exact and fast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ferkit.graph._rows import BLOCK

__all__ = ["Groups", "expand", "group", "ragged"]

ENTRIES = 1 << 21  # of lists put together at once


@dataclass(frozen=True)
class Groups:
    """Which of the rows that take part are equal.

    Attributes:
        first: int64 (U,), position of the first row of each group, ascending.
        of: int64 (M,), group of each row that takes part.
        members: int64 (M,), positions, group by group, ascending within each.
        starts: int64 (U+1,), where each group begins in ``members``.
    """

    first: np.ndarray
    of: np.ndarray
    members: np.ndarray
    starts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.starts)


def group(values: np.ndarray, positions: np.ndarray) -> Groups:
    """Group the rows at ``positions`` (ascending) by value; -0.0 equals 0.0."""
    keys = _hashes(values, positions)
    _, first, of = np.unique(keys, return_index=True, return_inverse=True)
    if not _equal_to_first(values, positions, first, of):  # two rows with one 64-bit hash
        _, first, of = np.unique(_normal(values[positions]), axis=0, return_index=True, return_inverse=True)
    of = of.reshape(-1)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    of = rank[of]
    starts = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=len(first)))]).astype(np.int64)
    members = positions[np.argsort(of, kind="stable")]
    return Groups(positions[np.sort(first)], of, members, starts)


def _normal(block: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(block + block.dtype.type(0))  # -0.0 + 0.0 = 0.0


def _hashes(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """uint64 (M,) of the rows' bits."""
    generator = np.random.default_rng(0)
    odd = generator.integers(0, 2**63, values.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    bits = np.uint32 if values.dtype == np.float32 else np.uint64
    keys = np.empty(len(positions), np.uint64)
    for start in range(0, len(positions), BLOCK):
        block = _normal(values[positions[start : start + BLOCK]]).view(bits).astype(np.uint64)
        block *= odd
        block ^= block >> np.uint64(29)
        keys[start : start + BLOCK] = block.sum(1)
    return keys


def _equal_to_first(values: np.ndarray, positions: np.ndarray, first: np.ndarray, of: np.ndarray) -> bool:
    others = np.nonzero(first[of.reshape(-1)] != np.arange(len(positions)))[0]
    for start in range(0, len(others), BLOCK):
        block = others[start : start + BLOCK]
        if not np.array_equal(values[positions[block]], values[positions[first[of.reshape(-1)[block]]]]):
            return False
    return True


def ragged(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(owner, place) of every entry of lists with these lengths.

    >>> ragged(np.array([2, 0, 1]))
    (array([0, 0, 2]), array([0, 1, 0]))
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def expand(
    groups: Groups,
    places: np.ndarray,
    positions: np.ndarray,
    found: np.ndarray,
    near: np.ndarray,
    k: int,
    excluded: np.ndarray,
    most_excluded: int,
    total: int,
) -> tuple[np.ndarray, np.ndarray]:
    """From neighbouring groups to neighbouring rows: the k nearest positions of some rows, by (distance, position).

    Args:
        places: int64 (B,), which of the rows that take part; ``positions`` (M,) has their positions.
        found, near: (B, S), the S nearest groups of each row's group: k + most_excluded, or all.
        excluded: sorted keys position * total + other; at most ``most_excluded`` of one of these rows.
    """
    ids, distances = np.full((len(places), k), -1, np.int64), np.full((len(places), k), np.inf)
    sizes = np.append(groups.sizes, 0)  # that of group -1
    own = groups.of[places]
    width = found.shape[1] + 1
    plain = (sizes[found] <= 1).all(1) & (sizes[own] == 1)
    if len(excluded):
        begin = np.searchsorted(excluded, positions[places] * total)
        plain &= begin == np.searchsorted(excluded, (positions[places] + 1) * total)
    head = min(k, width - 1)
    ids[plain, :head] = np.where(found[plain, :k] < 0, -1, groups.first[found[plain, :k]])
    distances[plain, :head] = near[plain, :k]
    rest = np.nonzero(~plain)[0]
    needed = k + most_excluded + 1  # of one group: itself and those excluded may be the first
    step = max(1, ENTRIES // (width * needed))
    for start in range(0, len(rest), step):
        block = rest[start : start + step]
        lists = np.concatenate([own[block, None], found[block]], 1).reshape(-1)
        far = np.concatenate([np.zeros((len(block), 1)), near[block]], 1).reshape(-1)
        owner, place = ragged(np.minimum(sizes[lists], needed))
        entry = groups.members[groups.starts[lists[owner]] + place]
        row, far = owner // width, far[owner]
        kept = entry != positions[places[block]][row]
        if len(excluded):
            keys = positions[places[block]][row] * total + entry
            at = np.minimum(np.searchsorted(excluded, keys), len(excluded) - 1)
            kept &= excluded[at] != keys
        row, entry, far = row[kept], entry[kept], far[kept]
        order = np.lexsort((entry, far, row))
        row, entry, far = row[order], entry[order], far[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        near_enough = rank < k
        at_row, at_column = block[row[near_enough]], rank[near_enough]
        ids[at_row, at_column], distances[at_row, at_column] = entry[near_enough], far[near_enough]
    return ids, distances
