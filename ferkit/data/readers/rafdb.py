"""RAF-DB, the basic set: single-label faces of seven emotions, with released lists of other labels joined by name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferkit.checks import check_choice
from ferkit.data.emotions import EMOTIONS
from ferkit.data.manifest import Manifest
from ferkit.data.readers.name_lists import ImageNames, ListFiles, NameList, add_lists, join, read_list

__all__ = ["rafdb"]

CLASSES = EMOTIONS[:7]  # nobody was asked for contempt
ORDER = ("surprise", "fear", "disgust", "happy", "sad", "anger", "neutral")  # RAF-DB's, counted from 1
CODES = {str(number): name for number, name in enumerate(ORDER, start=1)}
LISTS = ("EmoLabel/list_patition_label.txt", "EmoLabel/list_partition_label.txt")  # the first as published, sic
DISTRIBUTIONS = ("EmoLabel/distribution_basic.txt", "distribution_basic.txt")
FOLDERS = {"aligned": "Image/aligned", "original": "Image/original"}


def rafdb(
    root: str | os.PathLike[str],
    images: str = "aligned",
    labels: str | os.PathLike[str] | None = None,
    machine_labels: ListFiles = None,
    affect: str | os.PathLike[str] | None = None,
    distribution: bool | str | os.PathLike[str] = False,
) -> Manifest:
    """Read RAF-DB's basic set (Li, Deng, Du, CVPR 2017) in its own layout, with seven emotions as classes.

    Lists are text, ``train_00001.jpg 5`` a line: RAF-DB's own codes, 1 to 7 (surprise, fear, disgust, happy, sad,
    anger, neutral), or names of emotions. They are joined by name, whatever their order; a list may leave out all
    training or all test images (noise lists have training images only), and nothing else.

    Args:
        root: folder with ``basic/``, or that folder itself: ``EmoLabel/list_patition_label.txt`` (sic; spelled right
            it is read too) and ``Image/aligned`` or ``Image/original``.
        images: ``"aligned"`` (100 x 100, ``train_00001_aligned.jpg``) or ``"original"`` (whole pictures).
        labels: list to learn from in place of the official labels, such as EAC's ``noise01.txt``: all training images
            have a line. Test images keep the official label, in the list or not. That is the source label ``true`` of
            all images then, and ``notes`` counts the training labels that differ from it.
        machine_labels: a list, or name to list, such as noisyFER's ``list_label_AffectnetModel.txt``: the source
            labels ``machine``, or those names; -1 for a split that is left out. The official one is ``true`` then.
        affect: list ``name valence arousal``. -2 and nan are unknown, values outside [-1, 1] are clipped and counted.
        distribution: read ``distribution_basic.txt`` (name, then seven numbers in RAF-DB's order), from ``EmoLabel``,
            ``basic`` or the given path, as ``votes``.

    Returns:
        A manifest with the splits ``train`` and ``test``, told by the name; ``rows`` are the list's lines.

    Raises:
        ValueError, FileNotFoundError: naming file and row: an unknown code, an image or name without its partner.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp()) / "basic"
        >>> for folder in ("EmoLabel", "Image/aligned"):
        ...     (root / folder).mkdir(parents=True)
        >>> _ = (root / "EmoLabel/list_patition_label.txt").write_text("train_00001.jpg 5\\ntest_0001.jpg 7")
        >>> manifest = rafdb(root.parent)
        >>> manifest.image.tolist(), manifest.split.tolist()
        (['Image/aligned/train_00001_aligned.jpg', 'Image/aligned/test_0001_aligned.jpg'], ['train', 'test'])
        >>> [manifest.classes[label] for label in manifest.label]
        ['sad', 'neutral']
    """
    check_choice(images, "images", tuple(FOLDERS))
    base, path = _find(Path(root))
    if not (base / FOLDERS[images]).is_dir():
        raise FileNotFoundError(f"root: expected the folder {FOLDERS[images]} in {base} for {images} images, got none")
    listing = read_list(path, ["label"], "root")
    manifest = Manifest(
        image=np.array([_image(name, images) for name in listing.names], dtype=np.object_),
        split=np.array(_splits(listing), dtype=np.object_),
        label=listing.labels(CODES, CLASSES),
        classes=CLASSES,
        root=base,
        source=str(path),
        rows=np.array(listing.rows, dtype=np.int64),
    )
    names = ImageNames(listing.names)
    if distribution is not False:
        manifest = replace(manifest, votes=_votes(manifest, names, _distribution(base, distribution)))
    manifest = add_lists(manifest, names, CODES, machine_labels, affect)
    if labels is None:
        return manifest
    return _learned(manifest, names, read_list(labels, ["label"], "labels"))


def _learned(manifest: Manifest, names: ImageNames, listing: NameList) -> Manifest:
    """The training images with the labels of a list; what is scored stays official."""
    assert manifest.rows is not None
    labels = np.append(listing.labels(CODES, CLASSES), -1)  # the last serves line -1
    lines, _ = join(listing, names, manifest.split, manifest.rows.tolist(), manifest.source)
    train, listed = manifest.split == "train", lines >= 0
    if not (train & listed).any():
        raise ValueError(f"{listing.source}: expected lines of training images, got {listing.names[0]!r} and the like")
    learned = np.where(train, labels[lines], manifest.label)
    name = Path(listing.source).name
    notes = {
        f"{name}: training labels other than the official": int((learned != manifest.label).sum()),
        f"{name}: lines of test images (which keep the official label)": int((listed & ~train).sum()),
    }
    return replace(manifest.with_labels(learned), notes={**manifest.notes, **notes})


def _find(root: Path) -> tuple[Path, Path]:
    """``basic/`` and the list of labels in it."""
    places = [(base, base / name) for base in (root, root / "basic") for name in LISTS]
    for base, path in places:
        if path.is_file():
            return base, path
    raise FileNotFoundError(
        f"root: expected RAF-DB's list of labels, looked for {', '.join(str(p) for _, p in places)}"
    )


def _splits(listing: NameList) -> list[str]:
    splits = [name.partition("_")[0] for name in listing.names]
    odd = next((i for i, split in enumerate(splits) if split not in ("train", "test")), None)
    if odd is not None:
        got = listing.names[odd]
        raise ValueError(f"{listing.source}: row {listing.rows[odd]}: expected 'train_...' or 'test_...', got {got!r}")
    return splits


def _image(name: str, images: str) -> str:
    stem, ending = os.path.splitext(name)
    return f"{FOLDERS[images]}/{stem}{'_aligned' * (images == 'aligned')}{ending}"


def _distribution(base: Path, given: bool | str | os.PathLike[str]) -> NameList:
    places = [base / name for name in DISTRIBUTIONS] if given is True else [Path(str(given))]
    found = [path for path in places if path.is_file()]
    if not found:
        raise FileNotFoundError(f"distribution: looked for {', '.join(map(str, places))}, found none")
    return read_list(found[0], ORDER, "distribution")


def _votes(manifest: Manifest, names: ImageNames, listing: NameList) -> NDArray[np.float64]:
    assert manifest.rows is not None
    lines, _ = join(listing, names, manifest.split, manifest.rows.tolist(), manifest.source)
    if (lines < 0).any():
        split = manifest.split[lines < 0][0]
        raise ValueError(f"{listing.source}: expected all images, got none of the split {split!r}")
    votes = np.empty((len(listing.names), len(CLASSES)))
    for position, name in enumerate(ORDER):  # by name, never by position
        votes[:, CLASSES.index(name)] = listing.column(position, name)
    bad = np.flatnonzero(~((votes >= 0).all(axis=1) & (votes.sum(axis=1) > 0)))
    if len(bad):
        row, got = listing.rows[bad[0]], " ".join(listing.cells[bad[0]])
        raise ValueError(f"{listing.source}: row {row}: expected seven numbers of 0 or more, not all 0, got {got!r}")
    return votes[lines]
