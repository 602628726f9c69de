"""Batches that hold every class: what a loss that compares classes within a batch needs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferkit.checks import check_number
from ferkit.samplers._labels import check_classes_present, label_array
from ferkit.samplers._plan import Keys, class_draws, count_steps, plan_epoch
from ferkit.samplers._resumable import ResumableBatchSampler

__all__ = ["ClassCoverageBatchSampler"]


class ClassCoverageBatchSampler(ResumableBatchSampler):
    """Batch sampler with at least ``min_per_class`` draws of every class in every batch.

    What it promises for each epoch:

    * every batch has exactly ``batch_size`` indices and at least ``min_per_class`` of each class, on every rank;
    * every sample is drawn at least once (not so with ``drop_last=True``), unlabelled ones (-1) at most once;
    * samples are repeated only to keep that promise. A class is drawn ``max(its samples, min_per_class * batches)``
      times, the number of batches is the smallest that holds this, and how often two samples of a class are drawn
      differs by at most one. A batch holds a sample twice only if its class has too few;
    * ranks get equally many batches, and a sample of a class that is not repeated goes to one rank only;
    * the order is a pure function of (labels, settings, seed, epoch): it knows no global generator, no worker count
      and no numpy version. All ranks plan the same epoch and rank ``r`` takes batches ``r, r + world_size, ...``.

    The last batches are never partial. With ``drop_last=False`` the slots that are left over (fewer than one batch a
    rank, except in tiny data sets) are filled by repeats, in proportion to class size. With ``drop_last=True`` there
    are as many batches as need no such filling: samples of the larger classes, and unlabelled ones, are left out
    instead, in proportion and others in each epoch; rare classes are still repeated.

    Args:
        labels: given labels (N,), -1 for unlabelled: int64 tensor, integer array or list.
        batch_size: indices per batch and rank.
        min_per_class: least number of draws of each class in each batch.
        seed: 0 or more.
        rank, world_size: this process among those that share the epoch. They are never guessed.
        drop_last: see above.
        num_classes: number of classes; the default is ``labels.max() + 1``.

    Raises:
        ValueError: a class has no sample, or a batch cannot hold ``min_per_class`` of every class, with the numbers.

    ``len(sampler)`` is the number of batches of a whole epoch for one rank, also after a resume in mid-epoch. Call
    ``set_epoch`` before each epoch for a new order (Lightning does it by itself; give its Trainer
    ``use_distributed_sampler=False``, the ranks are split here).

    Example:
        >>> labels = torch.tensor([0] * 9 + [1] * 5 + [2])
        >>> sampler = ClassCoverageBatchSampler(labels, batch_size=8, min_per_class=2)
        >>> len(sampler), sampler.class_counts().tolist()
        (3, [11, 7, 6])
        >>> [sorted(set(labels[batch].tolist())) for batch in sampler]
        [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    """

    def __init__(
        self,
        labels: Tensor | NDArray[Any] | Sequence[int],
        batch_size: int,
        min_per_class: int = 2,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        *,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(seed, rank, world_size, drop_last)
        for name, value in (("batch_size", batch_size), ("min_per_class", min_per_class)):
            check_number(value, name, low=1, integer=True)
        self.batch_size, self.min_per_class = batch_size, min_per_class
        values = label_array(labels, num_classes)
        self.num_classes = int(values.max(initial=-1)) + 1 if num_classes is None else num_classes
        self.num_samples = len(values)
        counts = np.bincount(values[values >= 0], minlength=self.num_classes).astype(np.int64)
        unlabelled = self.num_samples - int(counts.sum())
        self._check_possible(counts, unlabelled)
        self._steps = count_steps(counts, unlabelled, batch_size, min_per_class, world_size, self.drop_last)
        if self._steps == 0:
            raise ValueError(
                f"drop_last: {self.num_samples} samples do not fill one batch of {batch_size} on each of {world_size} "
                f"rank(s); expected drop_last=False or a smaller batch_size"
            )
        self._draws = np.append(*class_draws(counts, unlabelled, len(self) * world_size, batch_size, min_per_class))
        # One stable sort groups the samples by class; -1 comes first and is moved to the end.
        order = np.argsort(values, kind="stable").astype(np.int64, copy=False)
        groups = np.split(order, np.cumsum([unlabelled, *counts.tolist()[:-1]]))
        self._members = [*groups[1:], groups[0]]
        self._digest = zlib.crc32(values.tobytes())

    def _check_possible(self, counts: NDArray[np.int64], unlabelled: int) -> None:
        check_classes_present(counts, unlabelled)
        needed = self.num_classes * self.min_per_class + (unlabelled > 0)
        if self.batch_size < needed:
            extra = " + 1 for the unlabelled samples" if unlabelled else ""
            raise ValueError(
                f"batch_size: expected at least {needed} ({self.num_classes} classes * {self.min_per_class} "
                f"min_per_class{extra}), got {self.batch_size}"
            )

    def class_counts(self) -> Tensor:
        """How often each class is drawn in an epoch, over all ranks and in every epoch: int64 (num_classes,)."""
        return torch.from_numpy(self._draws[:-1].copy())

    def _batches(self, start: int) -> Iterator[list[int]]:
        yield from self._plan()[start:].tolist()

    def _plan(self) -> NDArray[np.int64]:
        keys = Keys(self.seed, self.epoch)
        batches = self._steps * self.world_size
        plan = plan_epoch(self._members, self._draws, batches, self.batch_size, self.min_per_class, keys)
        return plan[self.rank :: self.world_size]

    def _settings(self) -> dict[str, int]:
        return {
            "batch_size": self.batch_size,
            "min_per_class": self.min_per_class,
            "seed": self.seed,
            "world_size": self.world_size,
            "drop_last": int(self.drop_last),
            "num_classes": self.num_classes,
            "num_samples": self.num_samples,
            "labels_crc32": self._digest,
        }
