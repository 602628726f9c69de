"""SFEW 2.0: stills of films in class folders, as they are or cut out and aligned."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ferkit.checks import check_choice
from ferkit.data.emotions import EMOTIONS, class_index
from ferkit.data.manifest import Manifest, canonical_split
from ferkit.data.readers.folder import SUFFIXES, image_files, subfolders

__all__ = ["sfew"]

CLASSES = EMOTIONS[:7]
EXAMPLES = {"aligned": "{}_Aligned_Faces", "original": "{}"}
NAMES = {"train": "Train", "valid": "Val", "test": "Test"}
SPLIT = re.compile(r"(train|training|val|valid|validation|test|testing)([ _-]aligned[ _-]faces.*)?", re.IGNORECASE)
WRAPPERS = 2  # folders around the splits' own, as archives add them

Row = tuple[str, str, int]


def sfew(root: str | os.PathLike[str], images: str = "aligned") -> Manifest:
    """Read SFEW 2.0 (Dhall, Goecke, Lucey, Gedeon, ICCV Workshops 2011) in its own folders, with seven emotions.

    Args:
        root: folder with ``Train_Aligned_Faces/<class>/*.png`` and ``Val_Aligned_Faces/<class>/*.png``, or with
            ``Train/<class>/*.png`` and ``Val/<class>/*.png``. The aligned ones may be inside the others
            (``Train/Train_Aligned_Faces``), be named with an ending (``Val_Aligned_Faces_new``), and up to two
            folders may be around them. Class folders are matched by name in any published spelling and in any case.
        images: ``"aligned"`` (faces that were found, cut out and aligned) or ``"original"`` (whole stills).

    Returns:
        A manifest with the splits ``train`` and ``valid``, and ``test`` where there are such images: these are
        published without labels (-1); one in a class folder has that label.

    Raises:
        FileNotFoundError: no training or no validation images of that kind, with what is there.
        ValueError: a folder that is no class, a class without a folder or an image, or two folders of one split.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for split in ("Train", "Val"):
        ...     for name in ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"):
        ...         (root / split / f"{split}_Aligned_Faces" / name).mkdir(parents=True)
        ...         (root / split / f"{split}_Aligned_Faces" / name / "0.png").touch()
        >>> manifest = sfew(root)
        >>> manifest.image[0], manifest.splits, manifest.classes[manifest.label[0]]
        ('Train/Train_Aligned_Faces/Angry/0.png', ('train', 'valid'), 'anger')
    """
    check_choice(images, "images", tuple(EXAMPLES))
    base = Path(root)
    if not base.is_dir():
        raise FileNotFoundError(f"root: expected SFEW's folder, got {str(base)!r}, which is none")
    places = list(_places(base, None, False, WRAPPERS))
    rows: list[Row] = []
    for split in NAMES:
        folders = [folder for folder, name, kind in places if (name, kind) == (split, images)]
        if len(folders) > 1:
            raise ValueError(
                f"root: expected one folder of {images} {split} images in {base}, got {_shown(base, folders)}"
            )
        if folders:
            rows += _rows(base, folders[0], split)
        elif split != "test":
            example = EXAMPLES[images].format(NAMES[split])
            found = _shown(base, [folder for folder, _, _ in places]) or "none"
            raise FileNotFoundError(
                f"root: expected {images} {split} images in {base}, such as {example}/<class>/*.png, got {found}"
            )
    image, splits, label = zip(*rows)
    return Manifest(
        image=np.array(image, dtype=np.object_),
        split=np.array(splits, dtype=np.object_),
        label=np.array(label, dtype=np.int64),
        classes=CLASSES,
        root=base,
        source=str(base),
    )


def _places(folder: Path, split: str | None, aligned: bool, depth: int) -> Iterator[tuple[Path, str, str]]:
    """Every folder that holds a split's images or class folders: (folder, split, aligned or original)."""
    others = []
    for child in subfolders(folder):
        match = SPLIT.fullmatch(child.name.strip())
        if match:
            yield from _places(child, canonical_split(match[1]), aligned or match[2] is not None, 0)
        else:
            others.append(child)
    if split is None:
        for child in others if depth else ():
            yield from _places(child, None, aligned, depth - 1)
    elif others or image_files(folder, deep=False):
        yield folder, split, "aligned" if aligned else "original"


def _rows(base: Path, folder: Path, split: str) -> list[Row]:
    index = class_index(CLASSES)
    rows: list[Row] = []
    unknown = []
    for child in subfolders(folder):
        label = index.get(child.name.strip().casefold(), -1)
        if SPLIT.fullmatch(child.name.strip()):
            continue  # the aligned faces, or another split
        if label < 0 and split != "test":
            unknown.append(child.name)
        rows += [(path.relative_to(base).as_posix(), split, label) for path in image_files(child)]
    where = folder.relative_to(base).as_posix()
    if unknown:
        raise ValueError(f"root: expected folders named {', '.join(CLASSES)} in {where}, got {unknown}")
    loose = image_files(folder, deep=False)
    if split == "test":
        return rows + [(path.relative_to(base).as_posix(), split, -1) for path in loose]
    if loose:
        raise ValueError(f"root: expected every image of {where} in a class folder, got {loose[0].name!r}")
    held = {label for _, _, label in rows}
    empty = [name for position, name in enumerate(CLASSES) if position not in held]
    if empty:
        endings = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"root: expected images ({endings}) of each class in {where}, got none of {', '.join(empty)}")
    return rows


def _shown(base: Path, folders: list[Path]) -> str:
    return ", ".join(folder.relative_to(base).as_posix() for folder in folders)
