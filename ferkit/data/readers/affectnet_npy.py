"""AffectNet's newer release: four one-value ``.npy`` files an image, more than a million of them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferkit.data._progress import progress as progress_line
from ferkit.data.readers.affectnet_files import POINTS, FaceRows, affect_value, expected_code, expression_code
from ferkit.data.readers.folder import SUFFIXES

__all__ = ["find_npy", "load_array", "read_npy"]

FOLDERS = {"train": ("train_set",), "valid": ("val_set", "valid_set")}
BLOCK = 512  # images a task
Face = tuple[int, tuple[float, float], "NDArray[np.float64] | None"]


def find_npy(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split, and what was looked for."""
    found = {}
    for split, folders in FOLDERS.items():
        there = [root / folder for folder in folders if (root / folder / "annotations").is_dir()]
        if there:
            found[split] = there[0]
    return found, [f"{folders[0]}/annotations" for folders in FOLDERS.values()]


def read_npy(
    root: Path, folders: dict[str, Path], classes: int, landmarks: bool, skip: bool, progress: bool
) -> FaceRows:
    """``images/<id>.jpg`` with ``annotations/<id>_{exp,val,aro,lnd}.npy``; ``skip`` passes over incomplete faces."""
    faces = FaceRows(classes)
    points: list[NDArray[np.float64]] = []
    found = {split: _Files(folder) for split, folder in folders.items()}
    # Either none of the faces has landmarks, or one without them is incomplete.
    with_points = landmarks and any(name.endswith("_lnd.npy") for files in found.values() for name in files.annotations)
    kinds = ("exp", "val", "aro", "lnd")[: 3 + with_points]
    for split, files in found.items():
        names = files.complete(kinds, faces, skip)
        read = _read_all(files.folder / "annotations", list(names), classes, with_points, skip)
        lines = progress_line(read, len(names), f"Reading {files.folder.name}/annotations", progress)
        folder = os.path.relpath(files.folder, root).replace(os.sep, "/")
        for row, (face, name) in enumerate(zip(lines, names.values()), start=1):
            image = f"{folder}/images/{name}"
            if face is None:
                faces.count("faces with an unreadable annotation")
                faces.other.append(image)
            elif faces.keeps(face[0], image):
                faces.add(split, image, row, face[0])
                faces.affect.extend(face[1])
                if face[2] is not None:
                    points.append(face[2])
                    if len(points) == BLOCK:
                        faces.points.frombytes(np.concatenate(points).tobytes())
                        points.clear()
    if points:
        faces.points.frombytes(np.concatenate(points).tobytes())
    return faces


class _Files:
    """What is in a split's two folders, asked for once: a look at each of a million names would take minutes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "images").is_dir():
            raise FileNotFoundError(f"root: expected the folder {folder / 'images'}, got none")
        self.images: dict[str, str] = {}
        for name in _names(folder / "images"):
            stem, ending = os.path.splitext(name)
            if ending.lower() not in SUFFIXES or name.startswith("."):
                continue
            if self.images.setdefault(stem, name) != name:
                raise ValueError(f"{folder / 'images'}: {self.images[stem]!r} and {name!r} share their annotations")
        self.annotations = {name for name in _names(folder / "annotations") if name.endswith(".npy")}

    def complete(self, kinds: tuple[str, ...], faces: FaceRows, skip: bool) -> dict[str, str]:
        """Image of each id that has all files, in the order of the ids."""
        ids = sorted(self.images, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
        kept = {}
        lost: list[Path] = []
        for name in ids:
            missing = [f"{name}_{kind}.npy" for kind in kinds if f"{name}_{kind}.npy" not in self.annotations]
            if missing:
                lost.append(self.folder / "annotations" / missing[0])
                faces.other.append(f"{self.folder.name}/images/{self.images[name]}")
            else:
                kept[name] = self.images[name]
        described = (name.removesuffix("_exp.npy") for name in self.annotations if name.endswith("_exp.npy"))
        pictureless = sorted(name for name in described if name not in self.images)
        self._tell(lost, "images without all annotations", faces, skip)
        images = [self.folder / "images" / f"{name}.jpg" for name in pictureless]
        self._tell(images, "annotations without an image", faces, skip)
        return kept

    def _tell(self, missing: list[Path], reason: str, faces: FaceRows, skip: bool) -> None:
        if missing and not skip:
            hint = f"{len(missing)} {reason}; on_error='skip' leaves them out"
            raise FileNotFoundError(f"root: no such file: {missing[0]} ({hint})")
        if missing:
            faces.notes[reason] = faces.notes.get(reason, 0) + len(missing)


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _read_all(folder: Path, ids: list[str], classes: int, points: bool, skip: bool) -> Iterator[Face | None]:
    def block(start: int) -> list[Face | None]:
        return [_face(folder, name, classes, points, skip) for name in ids[start : start + BLOCK]]

    # Threads: what takes time is the disk, or the network it is behind.
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        for faces in pool.map(block, range(0, len(ids), BLOCK)):
            yield from faces


def _face(folder: Path, name: str, classes: int, points: bool, skip: bool) -> Face | None:
    def read(kind: str, convert: Callable[[NDArray[Any], str], Any]) -> Any:
        path = f"{folder}{os.sep}{name}_{kind}.npy"
        return convert(load_array(path), path)

    try:
        expression = read("exp", _expression)
        if expression >= classes:
            return expression, (np.nan, np.nan), None
        affect = read("val", _affect), read("aro", _affect)
        return expression, affect, read("lnd", _landmarks) if points else None
    except (ValueError, OSError):
        if skip:
            return None
        raise


_DTYPES: dict[bytes, np.dtype[Any]] = {}


def load_array(path: str) -> NDArray[Any]:
    """As ``np.load(path, allow_pickle=False)``, but flat; headers that were seen before are not parsed again.

    Raises:
        ValueError: the file is no array of numbers or text, naming it.
    """
    with open(path, "rb") as handle:
        data = handle.read()
    end = 10 + int.from_bytes(data[8:10], "little")
    dtype = _DTYPES.get(data[:end])
    try:
        if dtype is not None and len(data) > end:
            return np.frombuffer(data, dtype, offset=end)
        values: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        if data[6:7] == b"\x01" and values.ndim < 2:  # without rows the order of the bytes is that of the values
            _DTYPES[data[:end]] = values.dtype
        return values.reshape(-1)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: no readable array: {error}") from None


def _text(values: NDArray[Any], path: str) -> str:
    if len(values) != 1:
        raise ValueError(f"{path}: expected one value, got {len(values)}")
    value = values[0]
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()


def _expression(values: NDArray[Any], path: str) -> int:
    text = _text(values, path)
    try:
        return expression_code(text)
    except ValueError:
        raise ValueError(f"{path}: {expected_code(text)}") from None


def _affect(values: NDArray[Any], path: str) -> float:
    return affect_value(_text(values, path), path)


def _landmarks(values: NDArray[Any], path: str) -> NDArray[np.float64]:
    if len(values) != 2 * POINTS:
        raise ValueError(f"{path}: expected {2 * POINTS} numbers, got {len(values)}")
    try:
        return values.astype(np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
