"""Several label sets for the same images: annotators who disagree, and valence and arousal beside them."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ferkit.checks import (
    check_floating,
    check_label_range,
    check_labels,
    check_number,
    check_shape,
    check_tensor,
)

__all__ = ["LabelSetDataset", "label_sets_from_noise", "majority_vote"]


class LabelSetDataset(Dataset[dict[str, Any]]):
    """A data set whose items also hold their label in each of S sets, and V continuous labels.

    ``dataset[i]`` is the base's item with its ``label`` replaced, and ``"sources"``: int64 (S,), -1 where missing;
    ``"values"``: float32 (V,), NaN where missing.

    Args:
        dataset: with ``labels``, ``classes``, ``true_labels``, ``distributions``, such as ``FaceDataset``.
        sources: name to int64 (N,), indices into ``dataset.classes``, -1 where missing.
        values: name to floating (N,), NaN where missing.
        true_values: floating (N, V), the best-known values, in the order of ``values``.
        labels: int64 (N,). By default the majority vote of the sources, and without sources the base's labels.

    Attributes:
        sources: int64 (N, S). values: float32 (N, V). source_names, value_names: their columns. true_values: float32
            (N, V) or None. labels: int64 (N,). dataset: the base, whose ``classes``, ``true_labels``,
            ``distributions`` and (where it has one) ``manifest`` are here too.

    Raises:
        TypeError, ValueError: naming the set and what is wrong with it.

    Example:
        >>> from ferkit.data import SyntheticFaces
        >>> faces = SyntheticFaces(2, size=32)
        >>> data = LabelSetDataset(faces, {"first": torch.tensor([1, -1]), "second": torch.tensor([3, 2])})
        >>> data.source_names, data[1]["sources"], data.labels
        (('first', 'second'), tensor([-1,  2]), tensor([1, 2]))
    """

    def __init__(
        self,
        dataset: Any,
        sources: Mapping[str, Tensor],
        values: Mapping[str, Tensor] | None = None,
        true_values: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        size, values = len(dataset), values or {}
        self.dataset, self.classes = dataset, tuple(dataset.classes)
        for name, column in sources.items():
            check_labels(column, size, len(self.classes), f"sources[{name!r}]")
        for name, column in values.items():
            check_shape(check_floating(column, f"values[{name!r}]"), f"values[{name!r}]", (size,))
            if bool(torch.isinf(column).any()):
                raise ValueError(f"values[{name!r}]: expected finite values or NaN, got {float(column.abs().max())}")
        if true_values is not None:
            check_shape(check_floating(true_values, "true_values"), "true_values", (size, len(values)))
        self.source_names, self.value_names = tuple(sources), tuple(values)
        self.sources = _stack(sources, size, torch.int64)
        self.values = _stack(values, size, torch.float32)
        self.true_values = None if true_values is None else true_values.detach().cpu().float()
        self.true_labels, self.distributions = dataset.true_labels, dataset.distributions
        if labels is not None:
            self.labels = check_labels(labels, size, len(self.classes)).detach().cpu().clone()
        elif sources:
            self.labels = majority_vote(self.sources, len(self.classes))
        else:
            self.labels = dataset.labels
        if hasattr(dataset, "manifest"):
            self.manifest = dataset.manifest

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[index]
        more = {"sources": self.sources[position].clone(), "values": self.values[position].clone()}
        return {**self.dataset[position], "label": int(self.labels[position]), "index": position, **more}

    def with_labels(self, labels: Tensor) -> LabelSetDataset:
        """The same images and sets with other labels, int64 (N,), -1 for unlabelled."""
        other = copy.copy(self)
        other.labels = check_labels(labels, len(self), len(self.classes)).detach().cpu().clone()
        return other

    def __repr__(self) -> str:
        return f"LabelSetDataset({self.dataset!r}, sources={self.source_names}, values={self.value_names})"


def _stack(columns: Mapping[str, Tensor], size: int, dtype: torch.dtype) -> Tensor:
    if not columns:
        return torch.zeros(size, 0, dtype=dtype)
    return torch.stack([column.detach().cpu().to(dtype) for column in columns.values()], dim=1)


def majority_vote(sources: Tensor, num_classes: int) -> Tensor:
    """The most common label of each row; among equally common ones that of the first set.

    noisyFER's majority label (WACV 2021, section 4.1): with three sets that all differ it is the first set's.

    Args:
        sources: int64 (N, S), -1 where a set has no label; these do not vote.
        num_classes: number of classes C.

    Returns:
        int64 (N,), -1 where no set has a label.

    Raises:
        TypeError, ValueError: no int64 tensor (N, S), or labels outside -1..C-1.

    Example:
        >>> majority_vote(torch.tensor([[2, 1, 1], [2, 1, 0], [-1, 0, 1], [-1, -1, -1]]), num_classes=3)
        tensor([ 1,  2,  0, -1])
    """
    check_number(num_classes, "num_classes", low=1, integer=True)
    check_tensor(sources, "sources")
    if sources.dtype != torch.int64:
        raise TypeError(f"sources: expected dtype torch.int64, got {sources.dtype}")
    check_shape(sources, "sources", ("N", "S"))
    check_label_range(sources, num_classes, "sources")
    if sources.shape[1] == 0:
        return sources.new_full((len(sources),), -1)
    # How many sets say what this one says; argmax takes the first of equals.
    agreeing = (sources[:, :, None] == sources[:, None, :]).sum(2).masked_fill(sources < 0, 0)
    return sources.gather(1, agreeing.argmax(1, keepdim=True))[:, 0]


def label_sets_from_noise(
    labels: Tensor, rates: Sequence[float], num_classes: int, exclude_true: bool = True, seed: int = 100
) -> Tensor:
    """Label sets made from one by symmetric noise, as noisyFER makes three of CIFAR-10 (WACV 2021, section 4.1).

    For each rate and each label in turn one uniform draw decides whether it is redrawn, from one generator of Python's
    ``random`` throughout, so that the sets are the same on every machine and version.

    Args:
        labels: int64 (N,), -1 for unlabelled (left as they are). Not written to.
        rates: of each set the share that is redrawn, 0 to 1; the paper has 0.2, 0.3 and 0.4.
        num_classes: number of classes C.
        exclude_true: draw among the C-1 other classes, so that a set of rate r is wrong in a share of about r (the
            paper: "randomly flipping"). ``False``: among all C, as the released code does; r (C-1)/C are wrong then.
        seed: of the generator; the released code has 100.

    Returns:
        int64 (N, S), one column a rate, on the CPU.

    Example:
        >>> labels = torch.arange(10).repeat(500)
        >>> sets = label_sets_from_noise(labels, (0.2, 0.3, 0.4), num_classes=10)
        >>> [round(float(share), 3) for share in (sets != labels[:, None]).double().mean(0)]
        [0.198, 0.304, 0.397]
    """
    for rate in rates:
        check_number(rate, "rates", low=0, high=1)
    check_number(num_classes, "num_classes", low=1, integer=True)
    check_number(seed, "seed", low=0, integer=True)
    if exclude_true and num_classes == 1 and any(rates):
        raise ValueError("num_classes: expected at least 2 to draw another class, got 1")
    check_labels(check_tensor(labels, "labels"), labels.numel())
    given = labels.detach().cpu()
    check_label_range(given, num_classes)
    draw = random.Random(seed)
    columns = [[_redrawn(label, rate, num_classes, exclude_true, draw) for label in given.tolist()] for rate in rates]
    return torch.tensor(columns, dtype=torch.int64).reshape(len(columns), len(given)).T.contiguous()


def _redrawn(label: int, rate: float, num_classes: int, exclude_true: bool, draw: random.Random) -> int:
    if draw.random() >= rate:
        return label
    if not exclude_true:
        other = draw.randint(0, num_classes - 1)
    else:
        other = draw.randint(0, num_classes - 2)
        other += label <= other
    return other if label >= 0 else label
