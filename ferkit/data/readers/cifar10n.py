"""CIFAR-10N: CIFAR-10's training images as three people each labelled them (Wei et al., ICLR 2022)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ferkit.data.manifest import Manifest
from ferkit.data.readers.cifar10 import (
    CIFAR_CLASSES,
    cifar_labels,
    clean_manifest,
    is_labelled_folder,
    with_sources,
)
from ferkit.data.readers.ferplus_votes import read_csv

__all__ = ["cifar10n"]

FILE = "CIFAR-10_human.pt"
# Published name of each set, and its name here.
SETS = {
    "random_label1": "random_label1",
    "random_label2": "random_label2",
    "random_label3": "random_label3",
    "aggre_label": "aggre",
    "worse_label": "worse",
}
Labels = NDArray[np.int64]


def cifar10n(root: str | os.PathLike[str], labels: str = "random_label1", download: bool = False) -> Manifest:
    """Read CIFAR-10N, as published or as a folder of images.

    Args:
        root: either a folder with the published ``CIFAR-10_human.pt`` beside torchvision's ``cifar-10-batches-py``; or
            one with ``labels.csv`` (``image``, a path from the folder; ``split``; ``clean_label``; ``random_label1`` to
            ``3``, ``aggre_label``, ``worse_label``, as names and empty in the test split; ``index`` is not read).
        labels: what ``label`` is in the training split: a set of those below, ``"clean"``, or ``"majority"`` (the vote
            of the three people). Test images have the clean label.
        download: let torchvision download CIFAR-10 where it is not there.

    Returns:
        A manifest with the source labels ``random_label1``, ``random_label2``, ``random_label3``, ``aggre`` (the
        publishers' vote, ties at random), ``worse`` (a wrong one where there is one) and ``true`` (the clean one).

    Raises:
        ValueError, FileNotFoundError: naming file, row and column.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "labels.csv").write_text(
        ...     "image,split,clean_label,random_label1,random_label2,random_label3\\n"
        ...     "train/0.jpg,train,cat,dog,cat,cat\\ntest/0.jpg,test,ship,,,\\n"
        ... )
        >>> manifest = cifar10n(root)
        >>> [manifest.classes[label] for label in manifest.label], manifest.source_labels["random_label2"].tolist()
        (['dog', 'ship'], [3, -1])
    """
    folder = Path(root)
    manifest = _folder(folder / "labels.csv") if is_labelled_folder(folder) else _published(folder, download)
    train = manifest.split == "train"
    chosen = np.where(train, cifar_labels(manifest, labels).label, manifest.label)
    return manifest.with_labels(chosen)


def _folder(path: Path) -> Manifest:
    (_, header), *lines = read_csv(path) or [(1, [])]
    sets = [name for name in SETS if name in header]
    missing = [name for name in ("image", "split", "clean_label") if name not in header]
    if missing or not sets:
        wanted = f"the columns image, split, clean_label and some of {', '.join(SETS)}"
        raise ValueError(f"{path}: row 1: expected {wanted}, got {', '.join(header) or 'none'}")
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: row 1: expected every column once, got {', '.join(header)}")
    for row, line in lines:
        if len(line) != len(header):
            raise ValueError(f"{path}: row {row}: expected {len(header)} cells as in the header, got {len(line)}")
    if not lines:
        raise ValueError(f"{path}: expected rows below the header, got none")
    rows = [row for row, _ in lines]
    columns = {name: [line[i] for _, line in lines] for i, name in enumerate(header)}
    for name in ("image", "split", "clean_label"):
        if "" in columns[name]:
            raise ValueError(f"{path}: row {rows[columns[name].index('')]}, column {name!r}: expected text, got ''")
    clean = _indices(path, rows, "clean_label", columns["clean_label"])
    sources = {SETS[name]: _indices(path, rows, name, columns[name]) for name in sets}
    return Manifest(
        image=np.array(columns["image"], dtype=np.object_),
        split=np.array(columns["split"], dtype=np.object_),
        label=clean,
        classes=CIFAR_CLASSES,
        root=path.parent,
        source_labels={"true": clean, **sources},
        source=str(path),
        rows=np.array(rows, dtype=np.int64),
    )


def _indices(path: Path, rows: list[int], column: str, cells: list[str]) -> Labels:
    index = {"": -1, **{name: i for i, name in enumerate(CIFAR_CLASSES)}}
    for row, cell in zip(rows, cells):
        if cell not in index:
            wanted = f"one of {', '.join(CIFAR_CLASSES)}"
            raise ValueError(f"{path}: row {row}, column {column!r}: expected {wanted}, got {cell!r}")
    return np.array([index[cell] for cell in cells], dtype=np.int64)


def _published(folder: Path, download: bool) -> Manifest:
    path = folder / FILE
    if not path.is_file():
        wanted = f"labels.csv, or {FILE} beside cifar-10-batches-py"
        raise FileNotFoundError(f"root: expected {wanted}, in {folder}, got neither")
    table = _load(path)
    columns = ("clean_label", *SETS)
    missing = [name for name in columns if not isinstance(table, dict) or name not in table]
    if missing:
        raise ValueError(f"{path}: expected a dict with {', '.join(columns)}, missing {', '.join(missing)}")
    manifest = clean_manifest(folder, download)
    clean = manifest.label[manifest.split == "train"]
    sets = {name: np.asarray(table[name]) for name in columns}
    for name, values in sets.items():
        if values.shape != clean.shape or values.dtype.kind not in "iu":
            expected = f"{len(clean)} integers"
            raise ValueError(f"{path}: {name!r}: expected {expected}, got {values.dtype} of shape {values.shape}")
        if values.size and not (int(values.min()) >= 0 and int(values.max()) < len(CIFAR_CLASSES)):
            bounds = f"{values.min()}..{values.max()}"
            raise ValueError(f"{path}: {name!r}: expected values in 0..{len(CIFAR_CLASSES) - 1}, got {bounds}")
    differing = int((sets["clean_label"] != clean).sum())
    if differing:
        raise ValueError(
            f"{path}: 'clean_label': expected CIFAR-10's own labels in torchvision's order, got {differing} others"
        )
    return with_sources(manifest, {SETS[name]: sets[name].astype(np.int64) for name in SETS})


def _load(path: Path) -> Any:
    """The published file: a pickle of numpy arrays, for which ``torch.load`` is to know numpy's own names only."""
    from numpy import dtypes

    try:
        from numpy._core.multiarray import _reconstruct
    except ImportError:  # numpy 1
        from numpy.core.multiarray import _reconstruct  # type: ignore[no-redef, unused-ignore]
    # Under the names of numpy 1 and 2: which of them wrote the file is not known.
    arrays = [(_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*arrays, np.ndarray, np.dtype, dtypes.Int64DType, dtypes.Int32DType]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises several kinds for a file that is none of its own
            wanted = "a dict of numpy arrays in torch's format, as published (nothing else is unpickled)"
            raise ValueError(f"{path}: expected {wanted}, got a file that is not") from error
