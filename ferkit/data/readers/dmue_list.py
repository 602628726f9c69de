"""The list file of DMUE's release, with its LMDB or the folder of images that this was made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ferkit.data.emotions import EMOTIONS, canonical_emotion, emotion_classes
from ferkit.data.lmdb_images import is_lmdb
from ferkit.data.manifest import SPLIT_ALIASES, Manifest, canonical_split
from ferkit.data.readers.name_lists import NameList, read_list

__all__ = ["dmue_list"]

LIST = "lb2.txt"
SPLITS = {*SPLIT_ALIASES, *SPLIT_ALIASES.values()}


def dmue_list(
    root: str | os.PathLike[str],
    image_root: str | os.PathLike[str] | None = None,
    label_order: Sequence[str] | None = None,
) -> Manifest:
    """Read the list of DMUE's release (She et al., CVPR 2021): ``train_<image> <number>``, ``test_<image> <number>``.

    The split is what is before the first ``_``, whatever else has one: ``train_train_00001_aligned.jpg 4`` is the
    training image ``train_00001_aligned.jpg``. In the LMDB the first word is the key and the value is an RGB image of
    256 x 256 x 3 bytes. Pixels are read when ``FaceDataset`` asks for them, which needs ``ferkit[lmdb]``.

    Args:
        root: the list file, or the folder of ``lb2.txt``.
        image_root: the LMDB (a folder with ``data.mdb``, or a file), or the folder that the images' paths start from.
            Default: the one LMDB that is beside the list.
        label_order: what the numbers mean, from 0, by name. Default: DMUE's order, which is AffectNet's (neutral,
            happy, sad, surprise, fear, disgust, anger, contempt). Numbers may have several digits.

    Returns:
        A manifest; ``rows`` are the list's lines. Emotions are in the order used everywhere, whatever
        ``label_order``: by default seven, or eight where contempt occurs. Other names keep ``label_order``.

    Raises:
        ValueError, FileNotFoundError: naming file and row: another prefix, a number without a name, a line twice; or
            the argument: no list, no images, several LMDBs.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "lb2.txt").write_text("train_689/a_b.jpg 1\\ntest_3/c.jpg 6")
        >>> manifest = dmue_list(root, image_root=root)
        >>> manifest.image.tolist(), manifest.split.tolist(), [manifest.classes[label] for label in manifest.label]
        (['689/a_b.jpg', '3/c.jpg'], ['train', 'test'], ['happy', 'anger'])
    """
    names = _order(label_order)
    path = Path(root) / LIST if Path(root).is_dir() else Path(root)
    listing = read_list(path, ["label"], "root")
    folder = _image_root(path.parent, image_root)
    splits, inside = zip(*(_parts(listing, position) for position in range(len(listing.names))))
    codes = {str(number): name for number, name in enumerate(names)}
    if label_order is None:
        names = emotion_classes(codes.get(cell, cell) for (cell,) in listing.cells)
    classes = tuple(name for name in EMOTIONS if name in names) if set(names) <= set(EMOTIONS) else names
    return Manifest(
        image=np.array(listing.names if is_lmdb(folder) else inside, dtype=np.object_),
        split=np.array(splits, dtype=np.object_),
        label=listing.labels(codes, classes),
        classes=classes,
        root=folder,
        source=str(path),
        rows=np.array(listing.rows, dtype=np.int64),
    )


def _order(label_order: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the numbers, emotions by the names they have everywhere."""
    if label_order is None:
        return EMOTIONS
    if isinstance(label_order, str):
        raise TypeError(f"label_order: expected a list of names, got {label_order!r}")
    names = tuple(canonical_emotion(name) or name for name in label_order)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"label_order: expected each name once, got {', '.join(label_order) or 'none'}")
    return names


def _image_root(beside: Path, given: str | os.PathLike[str] | None) -> Path:
    """The LMDB or the folder."""
    if given is not None:
        if not Path(given).exists():
            raise FileNotFoundError(f"image_root: expected an LMDB or a folder of images, got {str(given)!r}")
        return Path(given)
    found = [folder for folder in (beside, *sorted(beside.iterdir())) if folder.is_dir() and is_lmdb(folder)]
    if len(found) != 1:
        got = ", ".join(map(str, found)) or "none"
        raise FileNotFoundError(
            f"image_root: expected one LMDB (a folder with data.mdb) beside the list in {beside}, got {got}; "
            "give it, or a folder of images"
        )
    return found[0]


def _parts(listing: NameList, position: int) -> tuple[str, str]:
    """Split and path of the image."""
    name, where = listing.names[position], f"{listing.source}: row {listing.rows[position]}"
    split, _, image = name.partition("_")
    if not image or split.casefold() not in SPLITS:
        raise ValueError(f"{where}: expected 'train_<image>' or 'test_<image>', got {name!r}")
    path = PurePosixPath(name)
    if str(path) != name or ".." in path.parts:  # the key must be read off the path again
        raise ValueError(f"{where}: expected a path without '//', '/./' and '/../', got {name!r}")
    return canonical_split(split), image
