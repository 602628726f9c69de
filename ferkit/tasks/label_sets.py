"""Which label sets and which values a dataset is learned from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ferkit.checks import renamed
from ferkit.data import LabelSetDataset, SyntheticFaces, majority_vote
from ferkit.data.readers.cifar10 import DERIVED
from ferkit.data.synthetic.annotators import annotators, noisy_affect
from ferkit.graph.spaces import known_affect
from ferkit.tasks.data import DataOptions

__all__ = ["attach_label_sets", "default_sources"]

AFFECT = ("valence", "arousal")


def attach_label_sets(
    dataset: Any,
    options: DataOptions,
    split: str,
    sources: Sequence[str] | None = None,
    values: Sequence[str] | None = None,
) -> LabelSetDataset:
    """The dataset of ``build_dataset`` with its label sets and continuous labels.

    Rendered faces have two annotators and a noisy detector's valence and arousal (``annotators`` and ``noisy_affect``
    of ``ferkit.data.synthetic.annotators``), others what is in their manifest. Data without a label set have one, the
    "label".

    Args:
        dataset: of ``build_dataset(options, split)``.
        options: ``sources`` and ``values`` name what is learned from.
        split: "train"; for "validation" and "test" there are no sources, ``labels`` stay what is scored against, and
            the values are the best-known ones (exact for rendered faces; NaN for those that the data do not have).
        sources, values: names in place of those in ``options``.

    Returns:
        For training ``labels`` is the majority vote of the sources, and ``true_values`` are there where they are known
        to be better than the values (rendered faces).

    Raises:
        ValueError: for a name that the training data do not have, with those they have.
    """
    sources = options.sources if sources is None else sources
    values = options.values if values is None else values
    training = split == "train"
    reported, exact = _affect(dataset, training)
    names = tuple(reported) if values is None else tuple(values)
    unknown = [name for name in names if name not in (reported if training else AFFECT)]
    if unknown:
        known = reported if training else AFFECT
        raise ValueError(f"values: expected {_listed(known)}, got {unknown[0]!r}")
    missing = torch.full((len(dataset),), torch.nan)
    columns = {name: reported.get(name, missing) for name in names}
    if not training:
        best = torch.stack(list(columns.values()), dim=1) if columns else None
        return LabelSetDataset(dataset, {}, columns, best, labels=dataset.labels)
    better = torch.stack([exact[name] for name in names], dim=1) if exact and names else None
    return LabelSetDataset(dataset, _sources(dataset, options, sources), columns, better)


def _listed(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"some of {listed}" if listed else "none, since the data have none"


def default_sources(dataset: Any) -> tuple[str, ...]:
    """The names of the label sets that are learned from if none are named."""
    sets = _sets(dataset)
    return tuple(name for name in sets if _votes(name, sets)) or ("label",)


def _votes(name: str, sets: Iterable[str]) -> bool:
    # CIFAR-10N's by their names, since a manifest may have been written of it.
    return name != "true" and not (name in DERIVED and "random_label1" in sets)


def _sources(dataset: Any, options: DataOptions, names: Sequence[str] | None) -> dict[str, Tensor]:
    sets = _sets(dataset)
    voters = [labels for name, labels in sets.items() if _votes(name, sets)]
    if voters:
        sets.setdefault("majority", majority_vote(torch.stack(voters, dim=1), len(dataset.classes)))
    sets.setdefault("label", dataset.labels)
    wanted = default_sources(dataset) if names is None else tuple(names)
    unknown = [name for name in wanted if name not in sets]
    if unknown:
        raise ValueError(f"sources: expected {_listed(sets)}, got {unknown[0]!r}")
    if "label" not in wanted and (options.labels is not None or options.noise > 0):
        which = "labels" if options.labels is not None else "noise"
        learned = ", ".join(wanted) or "none"
        raise ValueError(f"{which}: expected 'label' among the sources, which alone it changes, got sources {learned}")
    return {name: sets[name] for name in wanted}


def _sets(dataset: Any) -> dict[str, Tensor]:
    """Every label set that the data have, by name."""
    if isinstance(dataset, SyntheticFaces):
        return {**annotators(dataset), "true": dataset.true_labels}
    return {name: dataset.manifest.labels(f"source_label_{name}") for name in dataset.manifest.source_labels}


def _affect(dataset: Any, training: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Valence and arousal as they are given, and the exact ones where these are known (float32)."""
    if isinstance(dataset, SyntheticFaces):
        exact = {"valence": dataset.valence_exact, "arousal": dataset.arousal_exact}
        return (noisy_affect(dataset) if training else exact), exact
    given = {name: getattr(dataset.manifest, name) for name in AFFECT}
    # A column without a number is as good as none.
    known = {name: _known(name, column) for name, column in given.items() if column is not None}
    return {name: column for name, column in known.items() if bool(column.isfinite().any())}, {}


def _known(name: str, column: Any) -> Tensor:
    """A column of valence or arousal, float32, NaN where it is unknown, as graphs take it."""
    values = torch.from_numpy(column.astype(np.float32))
    with renamed(valence=name):
        return known_affect(values, torch.zeros_like(values))[:, 0]
