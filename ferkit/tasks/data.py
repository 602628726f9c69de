"""From the options of a command to a training, validation or test set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from ferkit.checks import check_choice, check_number, renamed
from ferkit.data import (
    EMOTIONS,
    FaceDataset,
    Manifest,
    SyntheticFaces,
    cifar10,
    cifar10n,
    diffusionfer,
    ferplus,
    flip_labels,
    image_folder,
    stratified_folds,
)
from ferkit.data.classes import with_classes
from ferkit.data.manifest import canonical_split
from ferkit.data.readers.cifar10 import cifar_images, cifar_labels, is_labelled_folder
from ferkit.data.synthetic.dataset import MAX_SIZE
from ferkit.tasks._listed_faces import LISTED, best_labels, check_lists, learned_labels, listed_faces
from ferkit.tasks._published_faces import PUBLISHED, check_images, published_faces

__all__ = ["SPLITS", "DataOptions", "build_dataset", "split_rows"]

SPLITS = ("train", "validation", "test")
FER2013_CLASSES = EMOTIONS[:7]  # its annotators had no contempt
CIFAR = ("cifar10", "cifar10n")
KINDS = (
    *("synthetic", "ferplus", "rafdb", "affectnet", "sfew", "dmue_list", "diffusionfer"),
    *("cifar10", "cifar10n", "folder", "manifest"),
)
SYNTHETIC_SEEDS = {"train": 0, "validation": 1_000_003, "test": 2_000_003}


@dataclass
class DataOptions:
    """Which images and which labels.

    Args:
        data: "synthetic" (rendered faces), "ferplus", "rafdb", "affectnet", "sfew", "dmue_list" (the list of DMUE's
            release, with an LMDB), "diffusionfer", "cifar10", "cifar10n" (with the labels that people gave it),
            "folder" (class folders) or "manifest".
        root: the data's folder, or the manifest's or list's file.
        alignment: for rafdb and sfew "aligned" faces (if not given) or the "original" images.
        image_root: for dmue_list the LMDB, or the folder of images; the LMDB beside the list if not given.
        label_order: for dmue_list what its numbers mean, from 0; AffectNet's order, which is DMUE's, if not given.
        classes: class names in order, where the data's own are not wanted (fewer emotions, or no emotions at all).
        labels: for ferplus the training labels: "fer2013" (the original ones), "votes" (the most voted class),
            "majority", "probability", "cross_entropy" or "multi_target"; for diffusionfer "sheet" or "folder" (the
            prompt's, wrong in 15 %; scored against the sheet's all the same); for cifar10 "clean", "majority" or a set
            of ``source_noise`` such as "noise20"; for cifar10n "random_label1" (or 2, 3), "aggre", "worse", "majority"
            or "clean" (both scored against the clean ones); for rafdb a list file, such as a noise list (scored against
            the official labels); for a manifest the column, "label" (scored against its source_label_true where that is
            known, else against its label).
        sources: label sets that are learned at once, by methods that do: names of the data's sets, "majority" (their
            vote) or "label" (the one of ``labels``). All the data has if not given, but for "true" and for the two of
            cifar10n that are made from others.
        values: continuous labels that are learned too: "valence", "arousal". Those the data has if not given.
        source_noise: for cifar10 the share of wrong labels in each set; 0.2, 0.3 and 0.4 if not given.
        machine_labels: for rafdb and affectnet further label sets, name to list file (``--machine_labels.model
            list.txt``), learned as ``sources`` and joined by the images' names.
        affect: for rafdb and affectnet a list of valence and arousal, joined likewise.
        size: side of the images in pixels, 8 to 512.
        train_images: use this many training images, drawn by ``subset_seed``; all if not given. For synthetic data
            how many are rendered, 3500 if not given.
        validation_images: likewise for validation and test; 1000 rendered ones if not given.
        noise: share of training labels flipped to another class.
        noise_includes_true: flips, of ``noise`` and ``source_noise``, draw from all classes, the true one too (as
            noisyFER's release has it).
        validation_share: share of the training images held out where the data has no validation split.
        folds: cross-validation: share the training images out over so many folds, each with the same class shares.
            What the data has of other splits is then not used.
        fold: this one, counted from 0, is the validation and the test set; the others train.
        synthetic_classes: 7 or 8.
        subset_seed: of the choices above.
        exclude_duplicates: leave out ferplus images that are copies of others across the splits.
        on_error: "raise", or "skip" unreadable images, which are then counted and listed.
        download: let torchvision download CIFAR-10 (170 MB) where ``root`` does not hold it.
    """

    data: Literal[
        "synthetic",
        "ferplus",
        "rafdb",
        "affectnet",
        "sfew",
        "dmue_list",
        "diffusionfer",
        "cifar10",
        "cifar10n",
        "folder",
        "manifest",
    ] = "synthetic"
    root: str | None = None
    classes: list[str] | None = None
    labels: str | None = None
    size: int = 48
    train_images: int | None = None
    validation_images: int | None = None
    noise: float = 0.0
    noise_includes_true: bool = False
    validation_share: float = 0.2
    folds: int | None = None
    fold: int | None = None
    synthetic_classes: int = 7
    subset_seed: int = 0
    exclude_duplicates: bool = False
    on_error: Literal["raise", "skip"] = "raise"
    sources: list[str] | None = None
    values: list[str] | None = None
    source_noise: list[float] | None = None
    download: bool = False
    machine_labels: dict[str, str] | None = None
    affect: str | None = None
    alignment: Literal["aligned", "original"] | None = None
    image_root: str | None = None
    label_order: list[str] | None = None

    def __post_init__(self) -> None:
        check_choice(self.data, "data", KINDS)
        if self.data != "synthetic" and self.root is None:
            raise ValueError(f"root: expected the folder or file of data {self.data!r}, got none")
        if self.data == "synthetic" and self.root is not None:
            raise ValueError(f"data: expected the kind of images in root {self.root!r}, got 'synthetic'")
        check_number(self.size, "size", 8, MAX_SIZE, integer=True)
        check_number(self.subset_seed, "subset_seed", 0, integer=True)
        if self.synthetic_classes not in (7, 8):
            raise ValueError(f"synthetic_classes: expected 7 or 8, got {self.synthetic_classes!r}")
        check_number(self.noise, "noise", 0, 1)
        check_number(self.validation_share, "validation_share", 0, 1)
        for name in ("train_images", "validation_images"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, 1, integer=True)
        if self.data in ("affectnet", "folder", "synthetic") and self.labels is not None:
            raise ValueError(f"labels: expected none for data {self.data!r}, got {self.labels!r}")
        if self.data == "diffusionfer" and self.labels is not None:
            check_choice(self.labels, "labels", ("sheet", "folder"))
        for name, kind in (("source_noise", "cifar10"), ("exclude_duplicates", "ferplus")):
            if getattr(self, name) and self.data != kind:
                raise ValueError(f"{name}: expected data {kind!r} beside it, got {self.data!r}")
        check_lists(self)
        check_images(self)
        for rate in self.source_noise or ():
            check_number(rate, "source_noise", 0, 1)
        for name in ("sources", "values"):
            names = getattr(self, name) or ()
            if isinstance(names, str):
                raise TypeError(f"{name}: expected a list of names, got {names!r}")
            if len(set(names)) < len(names):
                raise ValueError(f"{name}: expected each name once, got {', '.join(names)}")
        self._check_folds()

    def _check_folds(self) -> None:
        if self.folds is None:
            if self.fold is not None:
                raise ValueError(f"folds: expected their number beside fold {self.fold}, got none")
            return
        check_number(self.folds, "folds", 2, integer=True)
        if self.data == "synthetic":
            raise ValueError("folds: expected data other than 'synthetic', which renders a validation set of its own")
        if self.fold is None:
            raise ValueError(f"fold: expected one of 0..{self.folds - 1} beside folds {self.folds}, got none")
        check_number(self.fold, "fold", 0, self.folds - 1, integer=True)


def build_dataset(
    options: DataOptions,
    split: str,
    *,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    progress: bool = False,
    images: bool = True,
) -> Any:
    """The images of a split; training labels are flipped by ``noise``, with ``seed``.

    Without ``images`` none is rendered or decoded before it is asked for: for those who want the columns only. With
    ``classes``, such as a run's, class folders need not have an image of each.

    Raises:
        ValueError: for an unknown split, images that cannot be read, or other classes than ``classes``.
    """
    check_choice(split, "split", SPLITS)
    every_class = classes is None
    classes = options.classes if classes is None else classes
    dataset: Any = _synthetic(options, split, progress, images) if options.data == "synthetic" else None
    rows = None if dataset is not None else split_rows(options, split, classes, progress, every_class=every_class)
    if rows is not None and (
        options.data == "cifar10" or (options.data == "cifar10n" and not is_labelled_folder(options.root))
    ):
        dataset = cifar_images(rows, str(options.root), options.size)
    elif rows is not None:
        dataset = FaceDataset(
            rows,
            options.size,
            on_error=options.on_error,
            cache=None if images else False,
            progress=progress,
        )
    if classes is not None and tuple(dataset.classes) != tuple(classes):
        raise ValueError(f"classes: expected {', '.join(classes)}, got {', '.join(dataset.classes)} in the {split} set")
    if split == "train" and options.noise > 0:
        flipped = flip_labels(
            dataset.labels, options.noise, len(dataset.classes), exclude_true=not options.noise_includes_true, seed=seed
        )
        dataset = dataset.with_labels(flipped)
    return dataset


def _synthetic(options: DataOptions, split: str, progress: bool, images: bool) -> SyntheticFaces:
    wanted = options.train_images if split == "train" else options.validation_images
    count = wanted or (3500 if split == "train" else 1000)
    seed = SYNTHETIC_SEEDS[split] + options.subset_seed
    faces = _faces(count, options.size, seed, options.synthetic_classes)
    if not images:
        return faces
    with tqdm(total=count, desc=f"Rendering {split} faces", disable=not progress, leave=False) as bar:
        faces.render(lambda done, total: bar.update(done - bar.n))
    return faces


@lru_cache(maxsize=2)  # a comparison trains several methods on the same faces
def _faces(count: int, size: int, seed: int, num_classes: int) -> SyntheticFaces:
    return SyntheticFaces(count, size=size, seed=seed, num_classes=num_classes)


def split_rows(
    options: DataOptions,
    split: str,
    classes: Sequence[str] | None,
    progress: bool,
    may_lack: bool = False,
    every_class: bool = True,
) -> Manifest:
    """The rows of a split; without a validation split of its own the training rows are shared out.

    A split that the data do not have is an error, or with ``may_lack`` no rows. So is a class without an image in class
    folders, unless ``every_class`` is off.
    """
    root = str(options.root)
    name = canonical_split(split)
    everything: Manifest | None = None
    if options.data == "ferplus":
        # Scored against the most voted class whatever the training labels are.
        labels = (options.labels or "plurality") if split == "train" else "plurality"
        labels = "plurality" if labels == "votes" else labels
        rows = ferplus(root, labels, exclude_duplicates=options.exclude_duplicates, progress=progress)
        if options.labels == "fer2013" and classes is None:
            classes = FER2013_CLASSES
        rows = rows if classes is None else with_classes(rows, classes)
        assert rows.votes is not None
        rows = rows.filter(np.flatnonzero(rows.votes.sum(axis=1)))  # not those whose votes are for other classes
    elif options.data == "diffusionfer":
        rows = diffusionfer(root, options.labels or "sheet")
        # Shared out by the true labels: the sets are then the same ones whatever is trained on.
        rows = replace(rows, label=rows.source_labels["true"])
        rows = rows if classes is None else with_classes(rows, classes)
    elif options.data in CIFAR:
        rows = _cifar(options)
        rows = rows if classes is None else with_classes(rows, classes)
    elif options.data in LISTED:
        rows = listed_faces(options, classes, progress)
        rows = everything = rows if classes is None else with_classes(rows, classes)
        rows = replace(rows, label=rows.source_labels.get("true", rows.label))
    elif options.data in PUBLISHED:
        rows = published_faces(options, classes)
        rows = rows if classes is None else with_classes(rows, classes)
    elif options.data == "folder":
        rows = image_folder(root, classes, every_class)
    else:
        with renamed(path="root", column="labels"):
            rows = everything = Manifest.read(root, classes=classes)
            if options.labels is not None:
                everything = rows.with_labels(rows.labels(options.labels))
        rows = replace(everything, label=best_labels(rows, everything))
        _warn_of_shared(rows)
    if options.folds is not None:
        rows = _fold(rows, options, split)
    else:
        if name in ("train", "valid") and "valid" not in rows.splits:
            rows = _hold_out(rows, options)
            if name not in rows.splits and {"train", "valid"} & {*rows.splits} and not may_lack:
                raise ValueError(
                    f"validation_share: expected one that leaves training and validation images in {root}, got "
                    f"{options.validation_share}"
                )
        if name not in rows.splits and not may_lack:
            raise ValueError(f"split: expected one of {', '.join(rows.splits)} in {root}, got {split!r}")
        rows = rows.filter(rows.split == name)
    if options.data == "diffusionfer" and options.labels == "folder" and split == "train":
        rows = replace(rows, label=rows.source_labels["folder"])
    if everything is not None and split == "train":
        rows = replace(rows, label=learned_labels(rows, everything))
    if options.data in CIFAR and split == "train":
        rows = cifar_labels(rows, options.labels or ("clean" if options.data == "cifar10" else "random_label1"))
    wanted = options.train_images if split == "train" else options.validation_images
    if wanted is not None and wanted < len(rows):
        order = np.random.default_rng([options.subset_seed, SPLITS.index(split)]).permutation(len(rows))
        rows = rows.filter(np.sort(order[:wanted]))
    return rows


def _cifar(options: DataOptions) -> Manifest:
    """All rows, labelled by the truth, by which they are shared out and scored."""
    root = str(options.root)
    if options.data == "cifar10n":
        return cifar10n(root, "clean", download=options.download)
    noise = (0.2, 0.3, 0.4) if options.source_noise is None else options.source_noise
    with renamed(noise="source_noise"):
        return cifar10(root, noise, exclude_true=not options.noise_includes_true, download=options.download)


def _warn_of_shared(rows: Manifest) -> None:
    """Say of images in several splits: who trains on what is scored sees figures that are too good."""
    splits: dict[str, set[str]] = {}
    for image, split in zip(rows.image.tolist(), rows.split.tolist()):
        splits.setdefault(image, set()).add(split)
    shared = [image for image, found in splits.items() if len(found) > 1]
    if shared:
        places = ", ".join(sorted(splits[shared[0]]))
        warnings.warn(
            f"{rows.source}: {len(shared)} images are in several splits, as {shared[0]} in {places}", stacklevel=2
        )


def _fold(rows: Manifest, options: DataOptions, split: str) -> Manifest:
    """The training rows in the chosen fold, or for training those outside it; an image of several rows stays whole."""
    assert options.folds is not None
    if "train" not in rows.splits:
        raise ValueError(f"folds: expected training images in {options.root}, got only {', '.join(rows.splits)}")
    rows = rows.select("train")
    # Which faces FERPlus keeps depends on the labels: those that are scored decide, so that training sees none of them.
    scored = ferplus(str(options.root), "plurality", "train") if options.data == "ferplus" else rows
    images, first = np.unique(scored.image.astype(str), return_index=True)
    folds = stratified_folds(scored.label[first], options.folds, options.subset_seed).numpy()
    held = set(images[folds == options.fold].tolist())
    inside = np.array([str(image) in held for image in rows.image])
    return rows.filter(~inside if split == "train" else inside)


def _hold_out(rows: Manifest, options: DataOptions) -> Manifest:
    """Move ``validation_share`` of the training images of every class to the validation split, all rows of an image."""
    split, training = rows.split.copy(), np.flatnonzero(rows.split == "train")
    images, first, image = np.unique(rows.image[training].astype(str), return_index=True, return_inverse=True)
    labels, held = rows.label[training[first]], np.zeros(len(images), dtype=np.bool_)
    for label in np.unique(labels):
        group = np.sort(first[labels == label])
        order = np.random.default_rng([options.subset_seed, int(label) + 1]).permutation(len(group))
        held[image[group[order[: round(options.validation_share * len(group))]]]] = True
    split[training[held[image]]] = "valid"
    return replace(rows, split=split)
