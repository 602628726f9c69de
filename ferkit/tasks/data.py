"""From the options of a command to a training, validation or test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from ferkit.checks import check_choice, check_number
from ferkit.data import FaceDataset, Manifest, SyntheticFaces, ferplus, flip_labels, image_folder

__all__ = ["DataOptions", "Part", "build_dataset"]

SPLITS = ("train", "validation", "test")
VALIDATION_NAMES = ("validation", "valid", "val")
SYNTHETIC_SEEDS = {"train": 0, "validation": 1_000_003, "test": 2_000_003}


@dataclass
class DataOptions:
    """Which images and which labels.

    Args:
        data: "synthetic" (rendered faces), "ferplus", "folder" (class folders) or "manifest".
        root: the data's folder, or the manifest's file.
        labels: for ferplus the training labels: "fer2013" (the original ones), "votes" (the most voted class),
            "majority", "probability", "cross_entropy" or "multi_target"; for a manifest the column, "label".
        size: side of the images in pixels.
        train_images: use this many training images, drawn by ``subset_seed``; all if not given. For synthetic data
            how many are rendered, 3500 if not given.
        validation_images: likewise for validation and test; 1000 rendered ones if not given.
        noise: share of training labels flipped to another class.
        noise_includes_true: flips draw from all classes, the true one too (as noisyFER's release has it).
        validation_share: share of the training images held out where the data has no validation split.
        synthetic_classes: 7 or 8.
        subset_seed: of the two choices above.
        exclude_duplicates: leave out ferplus images that are copies of others across the splits.
        on_error: "raise", or "skip" unreadable images, which are then counted and listed.
    """

    data: Literal["synthetic", "ferplus", "folder", "manifest"] = "synthetic"
    root: str | None = None
    labels: str | None = None
    size: int = 48
    train_images: int | None = None
    validation_images: int | None = None
    noise: float = 0.0
    noise_includes_true: bool = False
    validation_share: float = 0.2
    synthetic_classes: int = 7
    subset_seed: int = 0
    exclude_duplicates: bool = False
    on_error: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        check_choice(self.data, "data", ("synthetic", "ferplus", "folder", "manifest"))
        if self.data != "synthetic" and self.root is None:
            raise ValueError(f"root: expected the folder or file of data {self.data!r}, got none")
        check_number(self.size, "size", 8, integer=True)
        check_number(self.noise, "noise", 0, 1)
        check_number(self.validation_share, "validation_share", 0, 1)
        for name in ("train_images", "validation_images"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, 1, integer=True)


class Part(Dataset[dict[str, Any]]):
    """Some samples of a dataset, under new indices 0, 1, ..."""

    def __init__(self, dataset: Any, keep: torch.Tensor) -> None:
        self.dataset, self.keep = dataset, keep
        self.classes = dataset.classes
        for name in ("labels", "distributions", "true_labels"):
            value = getattr(dataset, name)
            setattr(self, name, None if value is None else value[keep])
        paths = getattr(dataset, "paths", None)
        self.paths = None if paths is None else [paths[i] for i in keep.tolist()]

    def __len__(self) -> int:
        return len(self.keep)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[int(self.keep[index])]
        return {"image": sample["image"], "label": int(self.labels[index]), "index": index}

    def with_labels(self, labels: torch.Tensor) -> Part:
        """The same images under other given labels; the old ones become the true labels if none are known."""
        part = Part(self.dataset, self.keep)
        part.labels = labels
        part.true_labels = self.labels if self.true_labels is None else self.true_labels
        return part


def build_dataset(
    options: DataOptions,
    split: str,
    *,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    progress: bool = False,
) -> Any:
    """The images of a split; training labels are flipped by ``noise``, with ``seed``.

    Raises:
        ValueError: for an unknown split, images that cannot be read, or other classes than ``classes``.
    """
    check_choice(split, "split", SPLITS)
    if options.data == "synthetic":
        dataset: Any = _synthetic(options, split, progress)
    else:
        dataset = _files(options, split, classes, progress)
    if classes is not None and tuple(dataset.classes) != tuple(classes):
        raise ValueError(f"classes: expected {', '.join(classes)}, got {', '.join(dataset.classes)} in the {split} set")
    wanted = options.train_images if split == "train" else options.validation_images
    if options.data != "synthetic" and wanted is not None and wanted < len(dataset):
        order = np.random.default_rng([options.subset_seed, SPLITS.index(split)]).permutation(len(dataset))
        dataset = Part(dataset, torch.from_numpy(np.sort(order[:wanted])))
    if split == "train" and options.noise > 0:
        flipped = flip_labels(
            dataset.labels, options.noise, len(dataset.classes), exclude_true=not options.noise_includes_true, seed=seed
        )
        dataset = dataset.with_labels(flipped)
    return dataset


def _synthetic(options: DataOptions, split: str, progress: bool) -> Any:
    wanted = options.train_images if split == "train" else options.validation_images
    count = wanted or (3500 if split == "train" else 1000)
    return SyntheticFaces(
        count,
        size=options.size,
        seed=SYNTHETIC_SEEDS[split] + options.subset_seed,
        num_classes=options.synthetic_classes,
        progress=progress,
    )
