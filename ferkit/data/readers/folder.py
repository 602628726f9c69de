"""A plain folder of class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ferkit.data.emotions import class_index, emotion_classes
from ferkit.data.manifest import SPLIT_ALIASES, Manifest, canonical_split

__all__ = ["image_files", "image_folder", "subfolders"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
SPLITS = {"train", "valid", "test", *SPLIT_ALIASES}


def image_folder(
    root: str | os.PathLike[str], classes: Sequence[str] | None = None, every_class: bool = True
) -> Manifest:
    """Read ``root/<class>/*`` or ``root/<train|val|test>/<class>/*`` (any depth below the class folder).

    Args:
        root: the folder. Hidden files and folders, and files that are no images, are passed over.
        classes: class names in index order. Default: the emotions in the order used everywhere (with contempt if
            there is such a folder); folders are matched by name in any published spelling (``Happiness``, ``angry``),
            never by position.
        every_class: whether a class without any image is an error; not where a model of these classes is scored.

    Returns:
        A manifest; without the level of splits every row is ``train``.

    Raises:
        ValueError: a folder that is no class (all such are listed), a class without any image, no folder or no image.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("Angry", "Happiness"):
        ...     (root / name).mkdir()
        ...     (root / name / "0.png").touch()
        >>> manifest = image_folder(root, classes=("happy", "anger"))
        >>> manifest.image.tolist(), manifest.label.tolist()
        (['Angry/0.png', 'Happiness/0.png'], [1, 0])
    """
    base = Path(root)
    if not base.is_dir():
        raise ValueError(f"root: expected a folder, got {str(base)!r}")
    top = subfolders(base)
    levels = [folder for folder in top if folder.name.casefold() in SPLITS]
    if levels and len(levels) < len(top):
        others = [folder.name for folder in top if folder not in levels]
        raise ValueError(f"root: expected split folders only or class folders only in {base}, got both: {others}")
    splits = [(canonical_split(level.name), folder) for level in levels for folder in subfolders(level)]
    found = splits or [("train", folder) for folder in top]
    if not found:
        raise ValueError(f"root: expected class folders in {base}, got none")
    names = tuple(classes) if classes is not None else emotion_classes(folder.name for _, folder in found)
    index = class_index(names)
    unknown = sorted({folder.name for _, folder in found if folder.name.strip().casefold() not in index})
    if unknown:
        hint = "one of the classes" if classes is not None else "an emotion; give classes= for others"
        raise ValueError(f"root: expected every folder name in {base} to be {hint} ({', '.join(names)}), got {unknown}")
    rows = [
        (path.relative_to(base).as_posix(), split, index[folder.name.strip().casefold()])
        for split, folder in found
        for path in image_files(folder)
    ]
    held = {label for _, _, label in rows}
    empty = [name for position, name in enumerate(names) if position not in held]
    if not rows and not every_class:
        raise ValueError(f"root: expected images of {', '.join(names)} in {base}, got none")
    if empty and every_class:
        hint = "" if classes is not None else "; give classes= to leave it out"
        raise ValueError(f"root: expected an image of each class in {base}, got none of {', '.join(empty)}{hint}")
    image, split, label = zip(*rows)
    return Manifest(
        image=np.array(image, dtype=np.object_),
        split=np.array(split, dtype=np.object_),
        label=np.array(label, dtype=np.int64),
        classes=names,
        root=base,
        source=str(base),
    )


def subfolders(base: Path) -> list[Path]:
    """Its folders, sorted, but for hidden ones and what archives leave behind (``__MACOSX``)."""
    return sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def image_files(folder: Path, deep: bool = True) -> list[Path]:
    """The images below a folder, or with ``deep=False`` in it, sorted; hidden ones (``._a.png``) are passed over.

    A link that leads nowhere is an image, so that it is told and not passed over.
    """
    return sorted(
        path
        for path in (folder.rglob("*") if deep else folder.iterdir())
        if path.suffix.lower() in SUFFIXES
        and not _is_hidden(path.relative_to(folder))
        and (path.is_file() or (path.is_symlink() and not path.exists()))
    )


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or any(folder.startswith((".", "__")) for folder in path.parts[:-1])
