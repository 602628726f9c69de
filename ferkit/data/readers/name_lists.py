"""Text lists as released beside data sets, ``name value ...`` a line, and how they are joined to images by name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferkit.data.emotions import canonical_emotion
from ferkit.data.manifest import Manifest
from ferkit.data.manifest_table import to_numbers

__all__ = ["ImageNames", "ListFiles", "NameList", "add_lists", "affect_values", "join", "read_list"]

ListFiles = Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None
SHOWN = 5
UNKNOWN = -2.0  # AffectNet's mark of an unknown valence or arousal


@dataclass(frozen=True)
class NameList:
    """The lines of a list: names, their rows (the first is 1), and the cells after the name."""

    source: str
    names: list[str]
    rows: list[int]
    cells: list[list[str]]

    def column(self, index: int, name: str) -> NDArray[np.float64]:
        return to_numbers([line[index] for line in self.cells], self.rows, self.source, name)

    def labels(self, codes: Mapping[str, str], classes: Sequence[str]) -> NDArray[np.int64]:
        """First column as indices into ``classes``, -1 for a class that is not among them.

        Cells are codes, mapped to names by ``codes``, or those names, emotions in any published spelling.
        """
        index = {name: classes.index(name) if name in classes else -1 for name in codes.values()}
        labels = []
        for row, (cell, *_) in zip(self.rows, self.cells):
            name = codes.get(cell) or canonical_emotion(cell) or cell
            if name not in index:
                wanted = f"{', '.join(f'{code} ({name})' for code, name in codes.items())}, or a name of those"
                raise ValueError(f"{self.source}: row {row}: expected one of {wanted}, got {cell!r}")
            labels.append(index[name])
        return np.array(labels, dtype=np.int64)


def read_list(path: str | os.PathLike[str], columns: Sequence[str], argument: str) -> NameList:
    """Read ``name column ...`` lines, separated by blanks; any line end, trailing blanks and blank lines are let pass.

    Raises:
        ValueError, FileNotFoundError: naming argument, or file and row; a name that is there twice is told too.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{argument}: no such file: {path}")
    names: list[str] = []
    rows: list[int] = []
    cells: list[list[str]] = []
    seen: dict[str, int] = {}
    with open(path, encoding="utf-8-sig") as handle:
        for row, line in enumerate(handle, start=1):
            words = line.split()
            if not words:
                continue
            if len(words) != len(columns) + 1:
                wanted = " ".join(["name", *columns])
                raise ValueError(f"{path}: row {row}: expected '{wanted}', got {line.strip()!r}")
            first = seen.setdefault(words[0], row)
            if first != row:
                raise ValueError(f"{path}: row {row}: {words[0]!r} is in row {first} already")
            names.append(words[0])
            rows.append(row)
            cells.append(words[1:])
    if not names:
        raise ValueError(f"{path}: expected lines '{' '.join(['name', *columns])}', got none")
    return NameList(str(path), names, rows, cells)


class ImageNames:
    """Images by their path or the end of it: ``5.jpg`` and ``images/5.jpg`` find ``val_set/images/5.jpg``.

    A name may also have more folders in front than the image's path. Aligned copies (``_aligned``) have the name of
    what they are copies of.
    """

    def __init__(self, images: Sequence[str]) -> None:
        self.images = images
        self._parts = [_parts(name) for name in images]
        self._depth = max(map(len, self._parts), default=0)
        self._ends: dict[int, dict[tuple[str, ...], int]] = {}

    def find(self, name: str) -> int:
        """Position of the image; -1: there is none, -2: there are several."""
        parts = _parts(name)[-self._depth :]
        return self._table(len(parts)).get(parts, -1)

    def _table(self, depth: int) -> dict[tuple[str, ...], int]:
        if depth not in self._ends:
            table: dict[tuple[str, ...], int] = {}
            for position, parts in enumerate(self._parts):
                if table.setdefault(parts[-depth:], position) != position:
                    table[parts[-depth:]] = -2
            self._ends[depth] = table
        return self._ends[depth]


def _parts(name: str) -> tuple[str, ...]:
    path = re.sub(r"_aligned(\.[A-Za-z0-9]+)$", r"\1", name.replace("\\", "/"))
    return tuple(part for part in path.split("/") if part not in ("", "."))


def join(
    listing: NameList, images: ImageNames, splits: NDArray[Any], rows: Sequence[int], table: str, skip: bool = False
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Which line each image has, int64 (N,), -1 for none; joined by name, never by position.

    ``images`` may go on after the N rows whose ``splits`` are given: names that are known, but not wanted. A list may
    leave out whole splits. ``skip`` passes over what else does not fit and counts it.

    Raises:
        ValueError: names that are none of the images, or several, naming file and row; images without a line, naming
            the first one's row in ``table``.
    """
    lines = np.full(len(images.images), -1, dtype=np.int64)
    unknown: list[int] = []
    for position, (name, row) in enumerate(zip(listing.names, listing.rows)):
        image = images.find(name)
        if image == -2:
            raise ValueError(f"{listing.source}: row {row}: {name!r} is the name of several images; put folders before")
        if image >= 0 and lines[image] >= 0:
            other = listing.rows[lines[image]]
            raise ValueError(f"{listing.source}: row {row}: {name!r} is the image of row {other} already")
        if image >= 0:
            lines[image] = position
        else:
            unknown.append(position)
    if unknown and not skip:
        row, name = listing.rows[unknown[0]], listing.names[unknown[0]]
        others = _more([f"{listing.names[i]!r} in row {listing.rows[i]}" for i in unknown[1:]])
        raise ValueError(f"{listing.source}: row {row}: {name!r} is no image of {table}{others}")
    lines = lines[: len(splits)]
    covered = set(splits[lines >= 0].tolist())
    missing = np.flatnonzero((lines < 0) & np.isin(splits, list(covered)))
    if len(missing) and not skip:
        first = int(missing[0])
        where = f"{images.images[first]!r} (row {rows[first]} of {table})"
        others = _more([repr(images.images[i]) for i in missing[1:]])
        raise ValueError(f"{listing.source}: expected a line for {where}, got none{others}")
    name = Path(listing.source).name
    counts = {f"{name}: names of no image": len(unknown), f"{name}: images without a line": len(missing)}
    return lines, counts if skip else {}


def _more(others: Sequence[str]) -> str:
    """`` (3 more: ...)``, the first ones by name."""
    shown = ", ".join(others[:SHOWN]) + ", ..." * (len(others) > SHOWN)
    return f" ({len(others)} more: {shown})" if others else ""


def affect_values(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """NaN for -2, what is outside [-1, 1] clipped, and how many values that were."""
    values = np.where(values == UNKNOWN, np.nan, values)
    return np.clip(values, -1, 1), int((np.abs(values) > 1).sum())


def add_lists(
    manifest: Manifest,
    images: ImageNames,
    codes: Mapping[str, str],
    machine_labels: ListFiles,
    affect: str | os.PathLike[str] | None,
    skip: bool = False,
) -> Manifest:
    """The manifest with lists of labels as source labels, and a list of valence and arousal; see ``rafdb``."""
    if machine_labels is None and affect is None:
        return manifest
    given = machine_labels if isinstance(machine_labels, Mapping) else {"machine": machine_labels}
    files = {name: path for name, path in given.items() if path is not None}
    assert manifest.rows is not None
    rows, notes, sources = manifest.rows.tolist(), dict(manifest.notes), dict(manifest.source_labels)
    for name, path in files.items():
        listing = read_list(path, ["label"], "machine_labels")
        labels = np.append(listing.labels(codes, manifest.classes), -1)  # the last serves line -1
        lines, counts = join(listing, images, manifest.split, rows, manifest.source, skip)
        sources[name] = labels[lines]
        notes.update(counts)
    if files:
        sources.setdefault("true", manifest.label)
    manifest = replace(manifest, source_labels=sources, notes=notes)
    if affect is None:
        return manifest
    listing = read_list(affect, ["valence", "arousal"], "affect")
    lines, counts = join(listing, images, manifest.split, rows, manifest.source, skip)
    notes.update(counts)
    columns = {}
    for index, name in enumerate(("valence", "arousal")):
        values, clipped = affect_values(listing.column(index, name))
        columns[name] = np.append(values, np.nan)[lines]
        notes[f"{Path(affect).name}: {name} outside [-1, 1] (clipped)"] = clipped
    return replace(manifest, notes=notes, valence=columns["valence"], arousal=columns["arousal"])
