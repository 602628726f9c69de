"""Which row of a table belongs to which image, told by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Match", "match_rows"]

SHOWN = 5


@dataclass(frozen=True, eq=False)
class Match:
    """Which row each image has, int64 (N,), -1 for none."""

    rows: NDArray[np.int64]
    images: tuple[str, ...]
    names: tuple[str, ...]
    source: str

    @property
    def missing(self) -> list[str]:
        """Images without a row."""
        return [self.images[i] for i in np.flatnonzero(self.rows < 0)]

    @property
    def unused(self) -> list[str]:
        """Rows without an image."""
        left = set(range(len(self.names))) - set(self.rows.tolist())
        return [self.names[i] for i in sorted(left)]

    def __str__(self) -> str:
        text = f"{self.source}: {int((self.rows >= 0).sum())} of {len(self.images)} images have a row"
        if self.missing:
            text += f"; {len(self.missing)} have none: {_first(self.missing)}"
        if self.unused:
            text += f"; {len(self.unused)} rows have no image: {_first(self.unused)}"
        return text


def match_rows(names: Sequence[str], images: Sequence[str], source: str) -> Match:
    """See ``DetectorTable.match``."""
    rows = np.full(len(images), -1, dtype=np.int64)
    folders = False  # whether folders have told images apart
    for number, key in enumerate(KEYS):
        if (rows >= 0).all():
            break
        held = [key(name) for name in names]
        once = {name for name, count in Counter(held).items() if count == 1}
        place = {name: row for row, name in enumerate(held) if name in once}
        used, before = set(rows.tolist()), rows.copy()
        for i, name in enumerate(images):
            row = place.get(key(name), -1) if before[i] < 0 else -1
            if row < 0 or row in used:
                continue
            if number >= FOLDERLESS and (
                _is_frame(names[row]) or (folders and _foldered(name) and _foldered(names[row]))
            ):
                continue
            rows[i] = row
        if number < FOLDERLESS:
            folders = folders or any(_foldered(images[int(i)]) for i in np.flatnonzero(rows >= 0))
    match = Match(rows, tuple(images), tuple(names), source)
    if len(images) and not (rows >= 0).any():
        raise ValueError(
            f"{source}: no row belongs to any of the {len(images)} images: "
            f"rows are named {_first(names)}, images {_first(images)}"
        )
    times = Counter(rows[rows >= 0].tolist())
    doubled = next((row for row, count in times.items() if count > 1), None)
    if doubled is not None:
        both = [images[int(i)] for i in np.flatnonzero(rows == doubled)]
        raise ValueError(f"{source}: row {names[doubled]!r} fits {len(both)} images: {_first(both)}")
    return match


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _slashes(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _stem(name: str) -> str:
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", _slashes(name)).rsplit("/", 1)[-1]
    return stem.removesuffix("_aligned")


def _frame(name: str) -> str:
    """``video/00012.jpg`` and ``video/12`` as one key; others keep their path."""
    parts = _slashes(name).split("/")
    stem = _stem(name)
    if len(parts) < 2 or not stem.isdigit():
        return _slashes(name)
    return f"{parts[-2]}/{int(stem)}"


def _foldered(name: str) -> bool:
    return "/" in _slashes(name)


def _is_frame(name: str) -> bool:
    """``video/12``: the number of a frame or a row, which says nothing without what comes before it."""
    parts = _slashes(name).split("/")
    return len(parts) > 1 and parts[-1].isdigit()


KEYS: tuple[Callable[[str], str], ...] = (
    _slashes,
    lambda name: "/".join(_slashes(name).split("/")[-2:]),
    _frame,
    lambda name: _slashes(name).rsplit("/", 1)[-1],
    _stem,
)
FOLDERLESS = 3  # the keys from here on look at no folder
