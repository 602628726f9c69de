"""FERPlus's two vote files, and FER2013's own labels, as the same rows."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferkit.data.readers.ferplus_targets import COLUMNS

__all__ = ["FER2013_CLASSES", "FOLDERS", "VoteRows", "fer2013_labels", "read_votes"]

FOLDERS = {"train": "FER2013Train", "valid": "FER2013Valid", "test": "FER2013Test"}
USAGE = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
FER2013_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@dataclass
class VoteRows:
    """One entry a picture: split, file name, row in the source (for messages), ten votes; and what was left out."""

    source: str
    split: list[str]
    name: list[str]
    rows: list[int]
    votes: NDArray[np.int64]
    notes: dict[str, int]


def read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """Rows with their line numbers; blank lines are passed over."""
    if not path.is_file():
        raise FileNotFoundError(f"root: no such file: {path}")
    with open(path, newline="", encoding="utf-8-sig") as handle:
        reader = csv.reader(handle)
        return [(reader.line_num, [cell.strip() for cell in line]) for line in reader if line]


def read_votes(root: Path, votes_file: str, splits: Sequence[str]) -> VoteRows:
    """Votes of the given splits, joined to the pictures by name.

    A picture that is listed twice (the later one of the name overwrote the earlier file) is kept once where all its
    rows agree, and left out where they do not: which votes are its own cannot be known.
    """
    if votes_file == "fer2013new":
        source, entries, unnamed = _whole_table(root / "fer2013new.csv", splits)
    else:
        source, entries, unnamed = str(root), [], 0
        for split in splits:
            entries += _folder_table(root / FOLDERS[split] / "label.csv", split)
    groups: dict[tuple[str, str], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for split, name, row, votes in entries:
        groups[split, name].append((row, votes))
    kept = {key: found[0] for key, found in groups.items() if len({votes for _, votes in found}) == 1}
    notes = {
        "rows without a picture": unnamed,
        "pictures listed twice, votes agree (kept once)": sum(len(groups[key]) > 1 for key in kept),
        "pictures listed twice, votes differ (left out)": len(groups) - len(kept),
    }
    table = np.array([votes for _, votes in kept.values()], dtype=np.int64).reshape(len(kept), len(COLUMNS))
    lists = [split for split, _ in kept], [name for _, name in kept], [row for row, _ in kept.values()]
    return VoteRows(source, *lists, table, notes)


def _whole_table(path: Path, splits: Sequence[str]) -> tuple[str, list[tuple[str, str, int, tuple[int, ...]]], int]:
    """``fer2013new.csv``: Usage, Image name, ten votes. The name's number is not the row's: join by name."""
    lines = read_csv(path)
    header = ["Usage", "Image name", *COLUMNS]
    if not lines or [name.casefold() for name in lines[0][1]] != [name.casefold() for name in header]:
        raise ValueError(f"{path}: row 1: expected the columns {','.join(header)}, got {lines[0][1] if lines else []}")
    entries, unnamed = [], 0
    for row, line in lines[1:]:
        _check_width(path, row, line, len(header))
        if line[0] not in USAGE:
            raise ValueError(f"{path}: row {row}, column 'Usage': expected one of {list(USAGE)}, got {line[0]!r}")
        votes = _votes(path, row, line[2:])
        if USAGE[line[0]] in splits:
            unnamed += not line[1]
            if line[1]:
                entries.append((USAGE[line[0]], line[1], row, votes))
    return str(path), entries, unnamed


def _folder_table(path: Path, split: str) -> list[tuple[str, str, int, tuple[int, ...]]]:
    """``FER2013*/label.csv``: no header; name, a box in quotes (its commas are not separators), ten votes."""
    entries = []
    for row, line in read_csv(path):
        _check_width(path, row, line, len(COLUMNS) + 2)
        entries.append((split, line[0], row, _votes(path, row, line[2:])))
    return entries


def _check_width(path: Path, row: int, line: list[str], width: int) -> None:
    if len(line) != width:
        raise ValueError(f"{path}: row {row}: expected {width} cells, got {len(line)}")


def _votes(path: Path, row: int, cells: list[str]) -> tuple[int, ...]:
    for column, cell in zip(COLUMNS, cells):
        if not cell.isdecimal():
            raise ValueError(f"{path}: row {row}, column {column!r}: expected a number of votes, got {cell!r}")
    return tuple(map(int, cells))


def fer2013_labels(root: Path) -> dict[str, str] | None:
    """FER2013's own class of each picture by file name, or None without a file of them.

    ``fer2013_label.csv`` (Image name, emotion) is joined by name. ``fer2013.csv`` knows no names: its rows are those
    of the whole ``fer2013new.csv`` in the same order.
    """
    path = root / "fer2013_label.csv"
    if path.is_file():
        lines = read_csv(path)
        pairs = [(line[0], row, line[-1]) for row, line in lines[1:]]
    elif (root / "fer2013.csv").is_file() and (root / "fer2013new.csv").is_file():
        path = root / "fer2013.csv"
        pairs = [(name, row, emotion) for _, name, row, emotion, _ in joined_rows(path, root / "fer2013new.csv")]
    else:
        return None
    labels: dict[str, str] = {}
    clashes = set()
    for name, row, cell in pairs:
        if not (cell.isdecimal() and int(cell) < len(FER2013_CLASSES)):
            wanted = f"0..{len(FER2013_CLASSES) - 1}"
            raise ValueError(f"{path}: row {row}, column 'emotion': expected {wanted}, got {cell!r}")
        emotion = FER2013_CLASSES[int(cell)]
        if labels.setdefault(name, emotion) != emotion:
            clashes.add(name)
    return {name: emotion for name, emotion in labels.items() if name not in clashes}


def joined_rows(pixels: Path, votes: Path) -> list[tuple[str, str, int, str, str]]:
    """(split, name, row, emotion, pixels) of ``fer2013.csv`` joined by row order to ``fer2013new.csv``; named rows."""
    left, right = read_csv(pixels), read_csv(votes)
    if len(left) != len(right):
        counts = f"{len(left)} and {len(right)}"
        raise ValueError(f"{pixels}: expected as many rows as {votes.name} (they are joined by order), got {counts}")
    if not left or [name.casefold() for name in left[0][1][:3]] != ["emotion", "pixels", "usage"]:
        raise ValueError(f"{pixels}: row 1: expected the columns emotion,pixels,Usage")
    rows = []
    for (row, line), (_, other) in zip(left[1:], right[1:]):
        _check_width(pixels, row, line, 3)
        if line[2] != other[0] or line[2] not in USAGE:
            wanted = f"{other[0]!r} as in {votes.name}"
            raise ValueError(f"{pixels}: row {row}, column 'Usage': expected {wanted}, got {line[2]!r}")
        if other[1]:
            rows.append((USAGE[line[2]], other[1], row, line[0], line[1]))
    return rows
