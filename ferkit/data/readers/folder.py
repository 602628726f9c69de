"""A plain folder of class folders."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ferkit.data.emotions import class_index, emotion_classes
from ferkit.data.manifest import SPLIT_ALIASES, Manifest, canonical_split

__all__ = ["image_files", "image_folder", "is_text", "subfolders"]

SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif"),
    *(".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"),
}
# Images that Pillow does not read, or not as installed everywhere: told, not passed over.
UNREAD = {
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".tga", ".pnm", ".pbm", ".pcx", ".apng", ".ico", ".svg"),
    *(".psd", ".exr", ".dcm", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
}
SPLITS = {"train", "valid", "test", *SPLIT_ALIASES}


def image_folder(
    root: str | os.PathLike[str], classes: Sequence[str] | None = None, every_class: bool = True
) -> Manifest:
    """Read ``root/<class>/*`` or ``root/<train|val|test>/<class>/*`` (any depth below the class folder).

    Args:
        root: the folder. Linked folders are followed. Hidden files and folders, and files that are no images, are
            passed over; images of kinds that are not read (``.heic``) are counted in a warning.
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
    unread: Counter[str] = Counter()
    rows = [
        (path.relative_to(base).as_posix(), split, index[folder.name.strip().casefold()])
        for split, folder in found
        for path in image_files(folder, unread=unread)
    ]
    if unread:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in unread.most_common())
        warnings.warn(
            f"{base}: {unread.total()} images are left out, of kinds that are not read: {kinds}", stacklevel=2
        )
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
    return sorted(
        path
        for path in base.iterdir()
        if path.is_dir()
        and not path.name.startswith((".", "__"))
        and not (path.is_symlink() and _leads_back(path, [os.path.realpath(base)]))
    )


def image_files(folder: Path, deep: bool = True, unread: Counter[str] | None = None) -> list[Path]:
    """The images below a folder, or with ``deep=False`` in it, sorted; hidden ones (``._a.png``) are passed over.

    Linked folders are followed. A link that leads nowhere is an image, so that it is told and not passed over. Images
    of kinds that are not read are counted in ``unread`` by their suffixes.
    """
    found = []
    for path in _files(str(folder), deep, [os.path.realpath(folder.parent)]):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in SUFFIXES:
            if not is_text(path):
                raise ValueError(f"root: expected file names in UTF-8, got {path!a}: rename it")
            found.append(path.split(os.sep))
        elif unread is not None and suffix in UNREAD:
            unread[suffix] += 1
    return [Path(os.sep.join(parts)) for parts in sorted(found)]  # by folder and name, as paths sort but faster


def is_text(path: str) -> bool:
    """Whether a name can be written into a table."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(folder: str, deep: bool, way: list[str]) -> Iterator[str]:
    """The files, one call of the system a folder; ``way``: the real folders in which the links here were found."""
    with os.scandir(folder) as entries:
        for entry in entries:
            linked = entry.is_symlink()
            if entry.name.startswith("."):
                continue
            if not (os.path.isdir(entry.path) if linked else entry.is_dir()):
                if linked or entry.is_file():
                    yield entry.path
            elif deep and not entry.name.startswith("__"):
                here = [*way, os.path.realpath(folder)] if linked else way
                if not linked or not _leads_back(entry.path, here):
                    yield from _files(entry.path, deep, here)


def _leads_back(link: str | Path, way: Sequence[str]) -> bool:
    """Whether a link leads to a folder that one has come through: following it would never end."""
    target = os.path.realpath(link)
    return any(Path(folder).is_relative_to(target) for folder in way)
