"""Batches drawn with replacement by inverse class frequency: DMUE's released sampling."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferkit.checks import check_number
from ferkit.samplers._labels import check_classes_present, label_array
from ferkit.samplers._plan import Keys
from ferkit.samplers._resumable import ResumableBatchSampler

__all__ = ["InverseFrequencyBatchSampler"]

LEAST_KEPT = 0.01  # of the drawn batches: below it skipping takes too long to be meant


class InverseFrequencyBatchSampler(ResumableBatchSampler):
    """Batch sampler that draws each sample with weight 1 / (samples of its class), with replacement.

    Every class is equally likely in every draw. A batch with fewer than ``min_per_class`` draws of a class is skipped
    and the next one is drawn, so that an epoch has ``labelled samples // (batch_size * world_size)`` batches a rank, at
    least one. (The released code does not draw again: its epochs are shorter by what was skipped, ``1 - kept_share``:
    0.6 % of the batches of 72 with 8 classes.) Unlabelled samples (-1) are never drawn. Nothing promises that a sample
    is drawn in an epoch: of a class that is not rare, many are not.

    The order is a pure function of (labels, settings, seed, epoch), whatever the numpy version. All ranks plan the same
    epoch and rank ``r`` takes batches ``r, r + world_size, ...``.

    Args:
        labels: given labels (N,), -1 for unlabelled: int64 tensor, integer array or list.
        batch_size: indices per batch and rank.
        min_per_class: least number of draws of each class in a batch that is kept; 0 keeps all.
        seed: 0 or more.
        rank, world_size: this process among those that share the epoch. They are never guessed.
        num_classes: number of classes; the default is ``labels.max() + 1``.

    Raises:
        ValueError: a class has no sample, or less than 1 in 100 drawn batches would be kept, with the numbers; the
            share is computed beforehand, so that skipping always ends.

    Source: the released code of She et al., CVPR 2021 (the paper: "every class is included").

    Example:
        >>> labels = torch.tensor([0] * 24 + [1] * 6 + [2] * 2)
        >>> sampler = InverseFrequencyBatchSampler(labels, batch_size=12)
        >>> len(sampler), round(sampler.kept_share, 3)
        (2, 0.839)
        >>> [bool((torch.bincount(labels[batch]) >= 2).all()) for batch in sampler]
        [True, True]
    """

    def __init__(
        self,
        labels: Tensor | NDArray[Any] | Sequence[int],
        batch_size: int,
        min_per_class: int = 2,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(seed, rank, world_size, drop_last=True)
        check_number(batch_size, "batch_size", low=1, integer=True)
        check_number(min_per_class, "min_per_class", low=0, integer=True)
        self.batch_size, self.min_per_class = batch_size, min_per_class
        values = label_array(labels, num_classes)
        self.num_classes = int(values.max(initial=-1)) + 1 if num_classes is None else num_classes
        self.num_samples = len(values)
        self._counts = np.bincount(values[values >= 0], minlength=self.num_classes).astype(np.int64)
        check_classes_present(self._counts, self.num_samples - int(self._counts.sum()))
        #: Share of the drawn batches that are kept, on average.
        self.kept_share = self._check_possible()
        labelled = int(self._counts.sum())
        self._steps = max(labelled // (batch_size * world_size), 1)
        self._members = np.argsort(values, kind="stable")[self.num_samples - labelled :]  # by class
        self._first = np.cumsum(self._counts) - self._counts
        self._values = values
        self._digest = zlib.crc32(values.tobytes())

    @property
    def weights(self) -> Tensor:
        """What each sample is drawn by, float64 (N,): 1 / (samples of its class), 0 where unlabelled."""
        return torch.from_numpy(np.where(self._values < 0, 0.0, 1 / self._counts[self._values]))

    def _check_possible(self) -> float:
        classes, least, size = self.num_classes, self.min_per_class, self.batch_size
        if size < classes * least:
            raise ValueError(
                f"batch_size: expected at least {classes * least} ({classes} classes * {least} min_per_class), "
                f"got {size}"
            )
        share = kept_share(classes, size, least)
        if share < LEAST_KEPT:
            raise ValueError(
                f"batch_size: expected one that keeps 1 in {1 / LEAST_KEPT:.0f} drawn batches or more, got {size}, "
                f"which keeps 1 in {1 / max(share, 1e-300):.3g} ({classes} classes, {least} min_per_class)"
            )
        return share

    def _batches(self, start: int) -> Iterator[list[int]]:
        yield from self._plan()[self.rank :: self.world_size][start:].tolist()

    def _plan(self) -> NDArray[np.int64]:
        """The kept batches (batches over all ranks, batch_size) of the epoch, in the order they were drawn."""
        keys, wanted = Keys(self.seed, self.epoch), self._steps * self.world_size
        kept, missing = [], wanted
        while missing > 0:  # one raw number a draw: how many are drawn at once does not change the batches
            drawn, classes = self._draw(keys, math.ceil(missing / self.kept_share) + 8)
            row = np.arange(len(drawn))[:, None] * self.num_classes
            counts = np.bincount((row + classes).reshape(-1), minlength=len(drawn) * self.num_classes)
            good = (counts.reshape(len(drawn), -1) >= self.min_per_class).all(axis=1)
            kept.append(drawn[good])
            missing -= int(good.sum())
        return np.concatenate(kept)[:wanted]

    def _draw(self, keys: Keys, batches: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Samples and their classes, each (batches, batch_size): a class at random, then one of its members."""
        uniform = (keys.draw(batches, self.batch_size) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        place = uniform * self.num_classes
        classes = np.minimum(place.astype(np.int64), self.num_classes - 1)
        count = self._counts[classes]
        member = np.minimum(((place - classes) * count).astype(np.int64), count - 1)
        return self._members[self._first[classes] + member], classes

    def _settings(self) -> dict[str, int]:
        return {
            "batch_size": self.batch_size,
            "min_per_class": self.min_per_class,
            "seed": self.seed,
            "world_size": self.world_size,
            "num_classes": self.num_classes,
            "num_samples": self.num_samples,
            "labels_crc32": self._digest,
        }


def kept_share(num_classes: int, batch_size: int, min_per_class: int) -> float:
    """Probability that ``batch_size`` draws of equally likely classes hold each at least ``min_per_class`` times.

    Independent Poisson counts, given that their sum is ``batch_size``, are such draws.
    """
    number = np.arange(batch_size + 1)
    factorial = np.array([math.lgamma(k + 1) for k in number])
    mean = batch_size / num_classes
    one = np.where(number >= min_per_class, np.exp(number * math.log(mean) - mean - factorial), 0)
    total, power = np.eye(1, batch_size + 1)[0], num_classes
    while power:  # the num_classes-fold convolution, by squaring
        if power % 2:
            total = np.convolve(total, one)[: batch_size + 1]
        one, power = np.convolve(one, one)[: batch_size + 1], power // 2
    exactly = math.exp(batch_size * math.log(batch_size) - batch_size - factorial[-1])
    return min(float(total[-1]) / exactly, 1.0)
