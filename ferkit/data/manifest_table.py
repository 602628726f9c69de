"""Between the columns of a file and a Manifest: names to indices, text to numbers, and what is wrong where."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferkit.data.emotions import class_index, emotion_classes
from ferkit.data.manifest import Manifest

__all__ = ["Table", "build_manifest", "is_known", "is_number", "table_of"]

REQUIRED = ("image", "split", "label")
NUMBERS = ("votes_", "au_", "lm_x_", "lm_y_")
SOURCE = "source_label_"


def is_number(name: str) -> bool:
    return name in ("valence", "arousal") or name.startswith(NUMBERS)


def is_known(name: str) -> bool:
    return name in REQUIRED or name.startswith(SOURCE) or is_number(name)


class Table:
    """Columns as they are read, block by block: text as lists, numbers as float64 with NaN for an empty cell."""

    def __init__(self, source: str, header: Sequence[str]) -> None:
        self.source = source
        self.rows: list[int] = []
        self.classes: tuple[str, ...] | None = None
        missing = [name for name in REQUIRED if name not in header]
        if missing:
            got = f"missing {missing}, got {[*header[:8], *(['...'] if len(header) > 8 else [])]}"
            raise ValueError(f"{source}: row 1: expected the columns {', '.join(REQUIRED)}, {got}")
        doubled = sorted({name for name in header if list(header).count(name) > 1 and is_known(name)})
        if doubled:
            raise ValueError(f"{source}: row 1: expected every column once, got more than one {doubled}")
        self.text: dict[str, list[Any]] = {name: [] for name in header if is_known(name) and not is_number(name)}
        self._blocks: dict[str, list[NDArray[np.float64]]] = {name: [] for name in header if is_number(name)}
        unknown = [name for name in header if not is_known(name)]
        if unknown:
            warnings.warn(f"{source}: columns that mean nothing to a manifest are ignored: {unknown}", stacklevel=2)

    def append(self, name: str, values: Any, rows: Sequence[int]) -> None:
        if is_number(name):
            self._blocks[name].append(to_numbers(values, rows, self.source, name))
        else:
            self.text[name].extend(values)

    def numbers(self, name: str) -> NDArray[np.float64]:
        blocks = self._blocks[name]
        return np.concatenate(blocks) if blocks else np.zeros(0)

    def starting(self, prefix: str) -> list[str]:
        return [name for name in (*self.text, *self._blocks) if name.startswith(prefix)]

    def fail(self, row: int, column: str, expected: str, got: object) -> ValueError:
        return ValueError(f"{self.source}: row {self.rows[row]}, column {column!r}: expected {expected}, got {got!r}")


def to_numbers(values: Any, rows: Sequence[int], source: str, name: str) -> NDArray[np.float64]:
    try:
        array = np.array(values, dtype=np.float64)
    except (ValueError, TypeError):  # an empty cell, or no number: cell by cell
        array = np.empty(len(values))
        for i, value in enumerate(values):
            try:
                blank = value is None or (isinstance(value, str) and not value.strip())
                array[i] = np.nan if blank else float(value)
            except (ValueError, TypeError):
                where = f"{source}: row {rows[i]}, column {name!r}"
                raise ValueError(f"{where}: expected a number, got {value!r}") from None
    if np.isinf(array).any():
        i = int(np.flatnonzero(np.isinf(array))[0])
        raise ValueError(f"{source}: row {rows[i]}, column {name!r}: expected a finite number, got {values[i]!r}")
    return array


def build_manifest(table: Table, root: Path, classes: Sequence[str] | None) -> Manifest:
    given = classes if classes is not None else table.classes
    names = tuple(given) if given is not None else _emotions(table)
    index = class_index(names)
    integers = given is not None
    for name in ("image", "split"):
        for row, value in enumerate(table.text[name]):
            if not isinstance(value, str) or not value.strip():
                raise table.fail(row, name, "a name" if name == "split" else "a path", value)
    numbers = {name: table.numbers(name) for name in ("valence", "arousal") if name in table._blocks}
    return Manifest(
        image=np.array(table.text["image"], dtype=np.object_),
        split=np.array(table.text["split"], dtype=np.object_),
        label=_indices(table, "label", index, names, integers),
        classes=names,
        root=root,
        valence=numbers.get("valence"),
        arousal=numbers.get("arousal"),
        votes=_votes(table, index, names),
        action_units={name.removeprefix("au_"): table.numbers(name) for name in table.starting("au_")},
        landmarks=_landmarks(table),
        source_labels={
            name.removeprefix(SOURCE): _indices(table, name, index, names, integers) for name in table.starting(SOURCE)
        },
        source=table.source,
        rows=np.array(table.rows, dtype=np.int64),
    )


def _emotions(table: Table) -> tuple[str, ...]:
    """Seven or eight emotions, by whether contempt occurs anywhere; names that are none are told by ``_indices``."""
    found = {str(value) for name in ("label", *table.starting(SOURCE)) for value in table.text[name]}
    return emotion_classes(found | {name.removeprefix("votes_") for name in table.starting("votes_")})


def _indices(
    table: Table, column: str, index: dict[str, int], classes: tuple[str, ...], integers: bool
) -> NDArray[np.int64]:
    cache: dict[Any, int] = {None: -1, "": -1}
    values = table.text[column]
    for row, value in enumerate(values):
        if value not in cache:
            cache[value] = _index(table, row, column, value, index, classes, integers)
    return np.array([cache[value] for value in values], dtype=np.int64)


def _index(
    table: Table, row: int, column: str, value: Any, index: dict[str, int], classes: tuple[str, ...], integers: bool
) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what a table program makes of integers beside an empty cell
    word = str(value).strip().casefold()
    if word in index or not word:
        return index.get(word, -1)
    try:
        number = int(word)
    except ValueError:
        hint = "" if integers else " (give classes= for others)"
        raise table.fail(row, column, f"one of {', '.join(classes)}{hint}", value) from None
    if not integers:
        raise table.fail(row, column, "a class name (an integer only with classes= given)", value)
    if not -1 <= number < len(classes):
        raise table.fail(row, column, f"an index in 0..{len(classes) - 1} or -1 (unlabelled)", value)
    return number


def _votes(table: Table, index: dict[str, int], classes: tuple[str, ...]) -> NDArray[np.float64] | None:
    columns = table.starting("votes_")
    if not columns:
        return None
    votes = np.zeros((len(table.rows), len(classes)))
    owner: dict[int, str] = {}
    for name in columns:
        position = index.get(name.removeprefix("votes_").strip().casefold())
        if position is None:
            raise ValueError(f"{table.source}: row 1: expected votes_<class> of {', '.join(classes)}, got {name!r}")
        if position in owner:
            raise ValueError(f"{table.source}: row 1: {owner[position]!r} and {name!r} are one class")
        owner[position] = name
        votes[:, position] = np.nan_to_num(table.numbers(name))  # an empty cell is no vote
    return votes


def _landmarks(table: Table) -> NDArray[np.float64] | None:
    xs, ys = table.starting("lm_x_"), table.starting("lm_y_")
    if not xs and not ys:
        return None
    wanted = {f"lm_{axis}_{i}" for axis in "xy" for i in range(len(xs))}
    if wanted != {*xs, *ys}:
        odd = sorted(wanted ^ {*xs, *ys})[:6]
        raise ValueError(f"{table.source}: row 1: expected lm_x_<i> and lm_y_<i> for i from 0 without gap, see {odd}")
    columns = [np.stack([table.numbers(f"lm_{axis}_{i}") for i in range(len(xs))], axis=1) for axis in "xy"]
    return np.stack(columns, axis=-1)


def table_of(manifest: Manifest, folder: Path) -> dict[str, Any]:
    """The columns to write, image paths starting from ``folder``."""
    names = [*manifest.classes, None]  # -1 takes the last
    columns: dict[str, Any] = {
        "image": _rebased(manifest, folder),
        "split": manifest.split.tolist(),
        "label": [names[i] for i in manifest.label.tolist()],
    }
    for name, values in manifest.source_labels.items():
        columns[SOURCE + name] = [names[i] for i in values.tolist()]
    for name in ("valence", "arousal"):
        if getattr(manifest, name) is not None:
            columns[name] = getattr(manifest, name)
    if manifest.votes is not None:
        columns.update((f"votes_{name}", manifest.votes[:, i]) for i, name in enumerate(manifest.classes))
    columns.update((f"au_{name}", values) for name, values in manifest.action_units.items())
    if manifest.landmarks is not None:
        for axis in (0, 1):
            points = manifest.landmarks[:, :, axis]
            columns.update((f"lm_{'xy'[axis]}_{i}", points[:, i]) for i in range(points.shape[1]))
    return columns


def _rebased(manifest: Manifest, folder: Path) -> list[str]:
    if os.path.abspath(manifest.root) == os.path.abspath(folder):
        return [str(name) for name in manifest.image]
    try:  # a path with .. leads elsewhere from a linked folder
        base = os.path.relpath(os.path.realpath(manifest.root), os.path.realpath(folder))
    except ValueError:  # another drive
        base = os.path.abspath(manifest.root)
    return [name if os.path.isabs(name) else os.path.normpath(os.path.join(base, name)) for name in manifest.image]
