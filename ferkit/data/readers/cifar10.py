"""CIFAR-10 as torchvision keeps it, with label sets of known noise (noisyFER's benchmark)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ferkit.checks import check_number
from ferkit.data.arrays import ImageArray
from ferkit.data.label_sets import label_sets_from_noise, majority_vote
from ferkit.data.manifest import Manifest

__all__ = ["CIFAR_CLASSES", "DERIVED", "cifar10", "cifar_images", "cifar_labels", "is_labelled_folder", "read_arrays"]

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DERIVED = ("aggre", "worse")  # CIFAR-10N's sets that are made from the three others, and do not vote beside them


def cifar10(
    root: str | os.PathLike[str],
    noise: Sequence[float] = (0.2, 0.3, 0.4),
    exclude_true: bool = True,
    seed: int = 100,
    download: bool = False,
) -> Manifest:
    """CIFAR-10 with one label set for each rate of ``noise`` (noisyFER, WACV 2021, section 4.1).

    Args:
        root: folder with torchvision's ``cifar-10-batches-py``.
        noise: rates, of which ``label_sets_from_noise`` makes the sets, over all 50,000 labels in torchvision's order.
        exclude_true, seed: as there: the paper's flips and the released seed. ``exclude_true=False``: released flips.
        download: let torchvision download what is not there.

    Returns:
        60,000 rows of the splits ``train`` and ``test``; ``label`` and the source label ``true`` are the clean ones,
        the others are ``noise20``, ``noise30``, ... by per cent (-1 in the test split). Images are named
        ``train/00000`` by split and position and are no files: ``cifar_images`` has them.

    Raises:
        FileNotFoundError: if the data are not there. ImportError: without torchvision. ValueError: equal rates.
    """
    for rate in noise:
        check_number(rate, "noise", low=0, high=1)
    names = [f"noise{100 * rate:g}" for rate in noise]
    if len(set(names)) < len(names):
        raise ValueError(f"noise: expected different rates, got {', '.join(f'{rate:g}' for rate in noise)}")
    manifest = clean_manifest(root, download)
    train = manifest.split == "train"
    sets = label_sets_from_noise(torch.from_numpy(manifest.label[train]), noise, len(CIFAR_CLASSES), exclude_true, seed)
    return with_sources(manifest, {name: sets[:, column].numpy() for column, name in enumerate(names)})


def clean_manifest(root: str | os.PathLike[str], download: bool) -> Manifest:
    """Both splits with the clean labels."""
    parts = {split: read_arrays(str(root), split, download)[1] for split in ("train", "test")}
    label = np.concatenate(list(parts.values()))
    names = [(split, f"{split}/{i:05d}") for split, part in parts.items() for i in range(len(part))]
    return Manifest(
        image=np.array([name for _, name in names], dtype=np.object_),
        split=np.array([split for split, _ in names], dtype=np.object_),
        label=label,
        classes=CIFAR_CLASSES,
        root=Path(root),
        source_labels={"true": label},
        source=f"CIFAR-10 in {root}",
    )


def with_sources(manifest: Manifest, sets: dict[str, NDArray[np.int64]]) -> Manifest:
    """Add label sets of the training rows, in their order."""
    sources = dict(manifest.source_labels)
    for name, values in sets.items():
        sources[name] = np.full(len(manifest), -1, dtype=np.int64)
        sources[name][manifest.split == "train"] = values
    return replace(manifest, source_labels=sources)


@lru_cache(maxsize=2)
def read_arrays(root: str, split: str, download: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, 32, 32, 3) and labels (N,) of a split, by torchvision; not to be written to."""
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as error:
        raise ImportError('CIFAR-10 needs torchvision: pip install "ferkit[train]"') from error
    try:
        data: Any = CIFAR10(root, train=split == "train", download=download)
    except RuntimeError as error:  # torchvision's for files that are missing or of another checksum
        raise FileNotFoundError(
            f"root: expected torchvision's CIFAR-10 (cifar-10-batches-py) in {root}; it is missing or damaged, and is "
            "downloaded (170 MB) only if asked for: --download true"
        ) from error
    return data.data, np.array(data.targets, dtype=np.int64)


def cifar_images(manifest: Manifest, root: str, size: int = 32) -> ImageArray:
    """The images of rows made by ``cifar10`` or ``cifar10n`` from torchvision's files, whatever rows were chosen."""
    pixels = np.empty((len(manifest), 32, 32, 3), dtype=np.uint8)
    for split in manifest.splits:
        rows = np.flatnonzero(manifest.split == split)
        # By name: rows held out for validation are of the training file.
        places = [manifest.image[row].split("/") for row in rows]
        for file in {place[0] for place in places}:
            chosen = [i for i, place in enumerate(places) if place[0] == file]
            images = read_arrays(root, file, False)[0]  # as the labels were read: it is kept by these arguments
            pixels[rows[chosen]] = images[[int(places[i][1]) for i in chosen]]
    return ImageArray(manifest, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), size)


def cifar_labels(manifest: Manifest, labels: str) -> Manifest:
    """The same rows with another label: ``clean``, ``majority`` (the vote of the sets) or the name of a set.

    Raises:
        ValueError: naming those there are.
    """
    sets = {name: values for name, values in manifest.source_labels.items() if name != "true"}
    voters = [values for name, values in sets.items() if name not in DERIVED]
    choices = {"clean": manifest.source_labels["true"], **sets}
    if voters and labels == "majority":
        vote = majority_vote(torch.from_numpy(np.stack(voters, axis=1)), len(manifest.classes))
        return replace(manifest, label=vote.numpy())
    if labels not in choices:
        raise ValueError(f"labels: expected one of {', '.join(choices)} or majority, got {labels!r}")
    return replace(manifest, label=choices[labels])


def is_labelled_folder(root: str | os.PathLike[str] | None) -> bool:
    """Whether the folder is CIFAR-10N as image files with a ``labels.csv``."""
    return root is not None and (Path(root) / "labels.csv").is_file()
