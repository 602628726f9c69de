"""How one epoch of class-covering batches is counted and ordered: pure functions over numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


class Keys:
    """Random orders from the raw 64-bit output of PCG64, whose stream is fixed for every numpy version."""

    def __init__(self, seed: int, epoch: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))

    def draw(self, *shape: int) -> NDArray[np.uint64]:
        raw: Any = self._bits.random_raw(int(np.prod(shape)))
        return np.asarray(raw, dtype=np.uint64).reshape(shape)

    def order(self, *shape: int) -> IntArray:
        """Random permutations of 0..n-1 along the last axis."""
        return np.argsort(self.draw(*shape), axis=-1, kind="stable").astype(np.int64, copy=False)


def spare_slots(counts: IntArray, unlabelled: int, batches: int, batch_size: int, min_per_class: int) -> int:
    """Slots left in ``batches`` full batches once every sample and every class minimum is in; negative: too few."""
    needed = int(np.maximum(counts, min_per_class * batches).sum()) + unlabelled
    return batches * batch_size - needed


def count_steps(
    counts: IntArray, unlabelled: int, batch_size: int, min_per_class: int, world_size: int, drop_last: bool
) -> int:
    """Batches per rank: the fewest that hold every sample, or with ``drop_last`` the most that need no filling."""
    free = batch_size - min_per_class * len(counts)
    total = int(counts.sum()) + unlabelled
    bound = -(-total // free) if free else -(-int(counts.max()) // min_per_class)

    def spare(steps: int) -> int:
        return spare_slots(counts, unlabelled, steps * world_size, batch_size, min_per_class)

    # `spare` never falls as steps grow (each batch holds at least the minimum of every class), so bisection is exact.
    low, high = 1, max(1, -(-bound // world_size))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if spare(middle) >= 0 else (middle + 1, high)
    return low - 1 if drop_last and spare(low) > 0 else low


def apportion(total: int, weights: IntArray) -> IntArray:
    """Split ``total`` in proportion to integer weights by largest remainder (ties: lowest index), in exact integers."""
    if total == 0:
        return np.zeros_like(weights)
    whole = int(weights.sum())
    shares = [divmod(total * int(weight), whole) for weight in weights]
    quota = np.array([share for share, _ in shares], dtype=np.int64)
    remainders = np.array([rest for _, rest in shares], dtype=np.int64)
    quota[np.argsort(-remainders, kind="stable")[: total - int(quota.sum())]] += 1
    return quota


def class_draws(
    counts: IntArray, unlabelled: int, batches: int, batch_size: int, min_per_class: int
) -> tuple[IntArray, int]:
    """How often each class, and how many unlabelled samples, are drawn in an epoch of ``batches`` batches."""
    floor = np.maximum(counts, min_per_class * batches)
    spare = spare_slots(counts, unlabelled, batches, batch_size, min_per_class)
    if spare >= 0:
        return floor + apportion(spare, counts), unlabelled
    # drop_last: what exceeds the minimum is cut in proportion, so that the class shares stay as they are.
    excess = np.append(floor - min_per_class * batches, unlabelled)
    kept = apportion(int(excess.sum()) + spare, excess)
    return min_per_class * batches + kept[:-1], int(kept[-1])


def repeat_evenly(members: IntArray, draws: int, widest: int, keys: Keys) -> IntArray:
    """``draws`` members in random order whose counts differ by at most one.

    Any ``widest`` neighbours in the result are distinct when there are that many members, so no batch that takes
    ``widest`` of them or fewer holds a sample twice.
    """
    size = len(members)
    rounds = -(-draws // size)
    if rounds <= 1:
        return members[keys.order(size)[:draws]]
    if size < 4 * widest:  # too few to separate two shuffles: one shuffle again and again keeps neighbours distinct
        return members[np.resize(keys.order(size), draws)]
    orders = keys.order(rounds, size)
    # What ended the round before moves out of this round's head; the tail stays, so rounds can be mended at once.
    head, tail = orders[1:, : 3 * widest], orders[:-1, size - widest :]
    clash = (head[:, :, None] == tail[:, None, :]).any(-1)
    orders[1:, : 3 * widest] = np.take_along_axis(head, np.argsort(clash, axis=1, kind="stable"), 1)
    return members[orders.reshape(-1)[:draws]]


def plan_epoch(
    members: list[IntArray], draws: IntArray, batches: int, batch_size: int, min_per_class: int, keys: Keys
) -> IntArray:
    """Sample indices (batches, batch_size) of an epoch; ``members`` and ``draws``: per class, then unlabelled."""
    classes = len(members) - 1
    # Which class sits where: the minimum in every batch, the rest shuffled over all batches.
    rest = draws - np.append(np.full(classes, min_per_class * batches), 0)
    pool = np.repeat(np.arange(classes + 1), rest)[keys.order(int(rest.sum()))]
    fixed = np.tile(np.repeat(np.arange(classes), min_per_class), (batches, 1))
    slots = np.concatenate([fixed, pool.reshape(batches, -1)], axis=1)
    # Widest share of each class in one batch, then its members laid into its slots batch by batch.
    share = np.bincount(
        (np.arange(batches)[:, None] * (classes + 1) + slots).reshape(-1), minlength=batches * len(draws)
    )
    widest = share.reshape(batches, -1).max(axis=0)
    sequences = [repeat_evenly(*args, keys) for args in zip(members, map(int, draws), map(int, widest)) if args[1]]
    plan = np.empty(batches * batch_size, dtype=np.int64)
    plan[np.argsort(slots.reshape(-1), kind="stable")] = np.concatenate(sequences)
    return np.take_along_axis(plan.reshape(batches, batch_size), keys.order(batches, batch_size), axis=1)
