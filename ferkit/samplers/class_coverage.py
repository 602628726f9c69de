"""Batches that hold every class: what a loss that compares classes within a batch needs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from ferkit.checks import check_label_range, check_labels, check_number
from ferkit.samplers._plan import Keys, class_draws, count_steps, plan_epoch

__all__ = ["ClassCoverageBatchSampler"]


class ClassCoverageBatchSampler(Sampler[list[int]]):
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
        for name, value in (("batch_size", batch_size), ("min_per_class", min_per_class), ("world_size", world_size)):
            check_number(value, name, low=1, integer=True)
        check_number(seed, "seed", low=0, integer=True)
        check_number(rank, "rank", low=0, high=world_size - 1, integer=True)
        self.batch_size, self.min_per_class, self.seed = batch_size, min_per_class, seed
        self.rank, self.world_size, self.drop_last = rank, world_size, bool(drop_last)
        values = _label_array(labels, num_classes)
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
        self.epoch = 0
        self._position = 0  # batches of this epoch already handed out
        self._start = 0  # where the next pass begins: not 0 only once, after load_state_dict
        self._running: object = None

    def _check_possible(self, counts: NDArray[np.int64], unlabelled: int) -> None:
        if self.num_classes == 0:
            raise ValueError(f"labels: expected at least one labelled sample, got {unlabelled} labelled -1")
        absent = np.flatnonzero(counts == 0).tolist()
        if absent:
            raise ValueError(
                f"labels: expected a sample of each of the {self.num_classes} classes, got none of class "
                f"{', '.join(map(str, absent))}"
            )
        needed = self.num_classes * self.min_per_class + (unlabelled > 0)
        if self.batch_size < needed:
            extra = " + 1 for the unlabelled samples" if unlabelled else ""
            raise ValueError(
                f"batch_size: expected at least {needed} ({self.num_classes} classes * {self.min_per_class} "
                f"min_per_class{extra}), got {self.batch_size}"
            )

    @property
    def sampler(self) -> ClassCoverageBatchSampler:
        """This object: Lightning looks for ``set_epoch`` on ``batch_sampler.sampler``."""
        return self

    def __len__(self) -> int:
        return self._steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order. The epoch already set is left where it stands, so a resumed one goes on."""
        check_number(epoch, "epoch", low=0, integer=True)
        if epoch != self.epoch:
            self.epoch, self._position, self._start, self._running = epoch, 0, 0, None

    def class_counts(self) -> Tensor:
        """How often each class is drawn in an epoch, over all ranks and in every epoch: int64 (num_classes,)."""
        return torch.from_numpy(self._draws[:-1].copy())

    def __iter__(self) -> Iterator[list[int]]:
        start, self._start = self._start, 0
        self._position = start
        self._running = object()
        return self._pass(start, self._running)

    def _pass(self, start: int, running: object) -> Iterator[list[int]]:
        for step, batch in enumerate(self._plan()[start:].tolist(), start + 1):
            if self._running is running:  # only the latest pass moves the position
                self._position = step
            yield batch

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

    def state_dict(self, position: int | None = None) -> dict[str, int]:
        """State to go on from: plain integers, the same on every rank.

        Args:
            position: batches of this epoch that are done. The default is what this sampler has handed out; a
                DataLoader with workers takes batches ahead of training, so give the number trained on there.
        """
        if position is not None:
            check_number(position, "position", low=0, high=len(self), integer=True)
        return {"epoch": self.epoch, "position": self._position if position is None else position, **self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken: the next pass yields the rest of that epoch, later ones whole epochs.

        Raises:
            ValueError: the state was taken from other labels or settings, naming what differs.
        """
        settings = self._settings()
        for name in ("epoch", "position", *settings):
            if name not in state:
                raise ValueError(f"state: expected the key {name!r}, got {sorted(state)}")
        for name, value in settings.items():
            if state[name] != value:
                raise ValueError(f"state: expected {name} {value} as in this sampler, got {state[name]}")
        check_number(state["epoch"], "state['epoch']", low=0, integer=True)
        check_number(state["position"], "state['position']", low=0, high=len(self), integer=True)
        self.epoch, self._running = int(state["epoch"]), None
        self._position = self._start = int(state["position"])

    def __repr__(self) -> str:
        settings = {k: v for k, v in self._settings().items() if k != "labels_crc32"} | {"drop_last": self.drop_last}
        shown = ", ".join(f"{name}={value}" for name, value in settings.items())
        return f"ClassCoverageBatchSampler({shown}, rank={self.rank}, batches={len(self)})"


def _label_array(labels: Any, num_classes: int | None) -> NDArray[np.int64]:
    if not isinstance(labels, Tensor):
        array = np.asarray(labels)
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"labels: expected integers, got dtype {array.dtype}")
        labels = torch.from_numpy(array.astype(np.int64))
    if labels.ndim != 1 or labels.numel() == 0:
        raise ValueError(f"labels: expected shape (N,) with N of 1 or more, got {tuple(labels.shape)}")
    if num_classes is not None:
        check_number(num_classes, "num_classes", low=1, integer=True)
    labels = check_labels(labels, labels.numel()).cpu()
    check_label_range(labels, num_classes if num_classes is not None else int(labels.max()) + 1)
    return np.ascontiguousarray(labels.numpy(), dtype=np.int64)
