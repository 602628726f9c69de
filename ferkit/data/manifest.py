"""The one table every data set is turned into: an image, its split and label, and what else is known of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Manifest"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SPLIT_ALIASES = {"training": "train", "val": "valid", "validation": "valid", "testing": "test"}


def canonical_split(name: str) -> str:
    """``val`` and ``validation`` are ``valid``, ``training`` is ``train``, ``testing`` is ``test``; others stay."""
    word = name.strip()
    folded = word.casefold()
    return folded if folded in SPLIT_ALIASES.values() else SPLIT_ALIASES.get(folded, word)


@dataclass(frozen=True, eq=False, repr=False)
class Manifest:
    """Images with split and label, and optionally votes, valence and arousal, action units, landmarks, other labels.

    Every array has one entry a row; they are read-only. Made by ``Manifest.read``, by a reader such as
    ``ferkit.data.ferplus``, or directly. Columns of the file in brackets.

    Args:
        image: paths of the images relative to ``root``, or absolute (``image``).
        split: ``train``, ``valid``, ``test`` or any other name (``split``).
        label: int64 index into ``classes``, -1 for unlabelled (``label``, written as a name).
        classes: names of the classes in index order.
        root: folder that relative paths start from.
        valence, arousal: float64, NaN where unknown (``valence``, ``arousal``).
        votes: float64 (N, C), votes or any non-negative weight for each class (``votes_<class>``).
        action_units: name to float64 (N,), NaN where unknown (``au_<code>``).
        landmarks: float64 (N, L, 2), x and y (``lm_x_<i>``, ``lm_y_<i>``).
        source_labels: name to int64 (N,), further label sets (``source_label_<name>``). The one named ``true`` is the
            best-known label: ``FaceDataset`` takes it as ``true_labels``.
        source: what to call the table in messages.
        rows: row numbers to name in messages; the default counts as a spreadsheet does (header 1, first row 2).
        notes: counts of what a reader left out, by reason. Not written to files.

    Raises:
        ValueError: columns of unequal length, a label outside the classes, a negative vote, naming row and column.

    Example:
        >>> manifest = Manifest(["a.png", "b.png"], ["train", "val"], [1, -1], ("neutral", "happy"))
        >>> manifest.splits, manifest.select("validation").image.tolist()
        (('train', 'valid'), ['b.png'])
        >>> manifest.labels()
        tensor([ 1, -1])
    """

    image: NDArray[np.object_]
    split: NDArray[np.object_]
    label: IntArray
    classes: tuple[str, ...]
    root: Path = Path(".")
    valence: FloatArray | None = None
    arousal: FloatArray | None = None
    votes: FloatArray | None = None
    action_units: Mapping[str, FloatArray] = field(default_factory=dict)
    landmarks: FloatArray | None = None
    source_labels: Mapping[str, IntArray] = field(default_factory=dict)
    source: str = "manifest"
    rows: IntArray | None = None
    notes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.image)
        self._set("classes", tuple(self.classes))
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(f"classes: expected distinct names, got {self.classes}")
        self._set("root", Path(self.root))
        rows = np.arange(size) + 2 if self.rows is None else self.rows
        self._set("rows", self._column("rows", rows, np.int64, (size,)))
        self._set("image", self._column("image", self.image, np.object_, (size,)))
        splits = np.array([canonical_split(str(name)) for name in self.split], dtype=np.object_)
        self._set("split", self._column("split", splits, np.object_, (size,)))
        self._set("label", self._labels("label", self.label))
        for name in ("valence", "arousal"):
            if getattr(self, name) is not None:
                self._set(name, self._column(name, getattr(self, name), np.float64, (size,)))
        if self.votes is not None:
            votes = self._column("votes", self.votes, np.float64, (size, len(self.classes)))
            bad = np.argwhere(~(np.isfinite(votes) & (votes >= 0)))
            if len(bad):
                row, column = bad[0]
                self._fail(row, f"votes_{self.classes[column]}", "0 or more votes", float(votes[row, column]))
            self._set("votes", votes)
        if self.landmarks is not None:
            points = np.asarray(self.landmarks, dtype=np.float64)
            points_shape = (size, points.shape[1] if points.ndim == 3 else 68, 2)
            self._set("landmarks", self._column("landmarks", points, np.float64, points_shape))
        units = {k: self._column(f"au_{k}", v, np.float64, (size,)) for k, v in self.action_units.items()}
        self._set("action_units", units)
        others = {k: self._labels(f"source_label_{k}", v) for k, v in self.source_labels.items()}
        self._set("source_labels", others)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _column(self, name: str, values: Any, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        array: NDArray[Any] = np.asarray(values, dtype=dtype).view()
        if array.shape != shape:
            raise ValueError(f"{self.source}: column {name!r}: expected shape {shape}, got {array.shape}")
        array.flags.writeable = False
        return array

    def _labels(self, name: str, values: Any) -> IntArray:
        given = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if given.size and given.dtype.kind not in "iu":
            raise TypeError(f"{self.source}: column {name!r}: expected integers, got dtype {given.dtype}")
        labels = self._column(name, given, np.int64, (len(self.image),))
        bad = np.flatnonzero((labels < -1) | (labels >= len(self.classes)))
        if len(bad):
            wanted = f"an index in 0..{len(self.classes) - 1} or -1 (unlabelled)"
            self._fail(bad[0], name, wanted, int(labels[bad[0]]))
        return labels

    def _fail(self, row: int, column: str, expected: str, got: object) -> None:
        assert self.rows is not None
        raise ValueError(f"{self.source}: row {self.rows[row]}, column {column!r}: expected {expected}, got {got!r}")

    def __len__(self) -> int:
        return len(self.image)

    def __repr__(self) -> str:
        held = [name for name in ("valence", "arousal", "votes", "landmarks") if getattr(self, name) is not None]
        held += [f"{len(self.action_units)} action units"] * bool(self.action_units)
        held += [f"source_label_{name}" for name in self.source_labels]
        return f"Manifest({len(self)} rows of {self.source}, splits={self.splits}, classes={self.classes}, with={held})"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that occur, in order of first appearance."""
        return tuple(dict.fromkeys(self.split.tolist()))

    def labels(self, column: str = "label") -> Tensor:
        """One label set as an int64 tensor (N,): ``label``, or the name of a source label with or without prefix."""
        name = column.removeprefix("source_label_")
        if column == "label":
            return torch.from_numpy(self.label.copy())
        if name not in self.source_labels:
            raise ValueError(f"column: expected 'label' or one of {sorted(self.source_labels)}, got {column!r}")
        return torch.from_numpy(self.source_labels[name].copy())

    def counts(self, column: str = "label") -> dict[str, int]:
        """Number of rows of each class, by name."""
        labels = self.labels(column)
        found = torch.bincount(labels[labels >= 0], minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found))

    def distributions(self) -> Tensor | None:
        """Votes as shares, float32 (N, C), or None without votes.

        Raises:
            ValueError: a row without any vote, which has no distribution, naming it.
        """
        if self.votes is None:
            return None
        total = self.votes.sum(axis=1, keepdims=True)
        empty = np.flatnonzero(total[:, 0] == 0)
        if len(empty):
            self._fail(empty[0], "votes_...", f"at least one vote ({len(empty)} row(s) have none; filter them)", 0)
        return torch.from_numpy((self.votes / total).astype(np.float32))

    def paths(self, root: str | Path | None = None) -> list[Path]:
        """Full path of each image; ``root`` takes the place of the manifest's own."""
        base = self.root if root is None else Path(root)
        return [base / name for name in self.image]

    def select(self, split: str) -> Manifest:
        """The rows of one split.

        Raises:
            ValueError: no row is of that split, with those that occur.
        """
        mask = self.split == canonical_split(split)
        if not mask.any():
            raise ValueError(f"split: expected one of {self.splits} (the splits of {self.source}), got {split!r}")
        return self.filter(mask)

    def filter(self, rows: Tensor | NDArray[Any] | Sequence[int]) -> Manifest:
        """The rows of a boolean mask (N,), or rows by position, in that order."""
        chosen = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        if chosen.dtype == np.bool_ and chosen.shape != (len(self),):
            raise ValueError(f"rows: expected a mask of shape ({len(self)},), got {chosen.shape}")
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "biu"):
            raise TypeError(f"rows: expected a mask or positions, got dtype {chosen.dtype} of shape {chosen.shape}")
        chosen = chosen if chosen.size else chosen.astype(np.int64)
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                changed[item.name] = value[chosen]
        changed["action_units"] = {name: value[chosen] for name, value in self.action_units.items()}
        changed["source_labels"] = {name: value[chosen] for name, value in self.source_labels.items()}
        return replace(self, **changed)

    def with_labels(self, labels: Tensor | NDArray[Any] | Sequence[int], keep: str = "true") -> Manifest:
        """The same rows with other labels; the old ones become the source label ``keep`` unless that exists."""
        changed: Any = labels
        return replace(self, label=changed, source_labels={keep: self.label, **self.source_labels})

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], root: str | Path | None = None, classes: Sequence[str] | None = None
    ) -> Manifest:
        """Read a CSV or Parquet file with the columns named above; ``image``, ``split`` and ``label`` must be there.

        Args:
            path: ``.csv`` (UTF-8, comma, header) or ``.parquet`` (needs pyarrow).
            root: folder of the images; the default is the file's own.
            classes: class names in index order. Default: those kept in a Parquet file, else the emotions (seven, or
                eight where contempt occurs). Labels are names in any published spelling (``happiness`` is ``happy``);
                integers are accepted only with ``classes`` given, so that an order is never guessed.

        Raises:
            ValueError: naming file, row (header 1, first row 2) and column.
        """
        from ferkit.data.manifest_files import read_manifest

        return read_manifest(Path(path), None if root is None else Path(root), classes)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.csv`` or ``.parquet`` file: under a temporary name first, so a failure loses nothing.

        Relative image paths are rewritten to start from the new file's folder. A CSV file does not hold the class
        list: give ``classes`` on reading where they are not the emotions.
        """
        from ferkit.data.manifest_files import write_manifest

        write_manifest(self, Path(path))
