"""Manifests to and from CSV (standard library) and Parquet (pyarrow, imported when used)."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from ferkit.data.manifest import Manifest
from ferkit.data.manifest_table import Table, build_manifest, is_known, is_number, table_of

__all__ = ["read_manifest", "replace_file", "write_manifest"]

CHUNK = 8192  # rows held as Python strings at a time


def read_manifest(path: Path, root: Path | None, classes: Sequence[str] | None) -> Manifest:
    read = {".csv": _read_csv, ".parquet": _read_parquet}.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"path: expected a .csv or .parquet file, got {str(path)!r}")
    if not path.is_file():
        raise FileNotFoundError(f"path: no such manifest: {path}")
    table = read(path)
    return build_manifest(table, path.parent if root is None else root, classes)


def write_manifest(manifest: Manifest, path: Path) -> None:
    write = {".csv": _write_csv, ".parquet": _write_parquet}.get(path.suffix.lower())
    if write is None:
        raise ValueError(f"path: expected a .csv or .parquet file, got {str(path)!r}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"path: expected a file in an existing folder, got {str(path)!r}")
    columns = table_of(manifest, path.parent)
    replace_file(path, lambda handle: write(handle, columns, manifest.classes))


def replace_file(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write beside ``path`` and rename: whatever goes wrong, the old file stays whole and no half file remains."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_csv(path: Path) -> Table:
    source = str(path)
    with open(path, newline="", encoding="utf-8-sig") as handle:  # -sig: spreadsheets put a mark in front
        reader = csv.reader(handle, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            table = Table(source, header)
            known = [(i, name) for i, name in enumerate(header) if is_known(name)]
            for numbers, lines in _chunks(reader, source, len(header)):
                columns = list(zip(*lines))
                table.rows.extend(numbers)
                for i, name in known:
                    table.append(name, columns[i], numbers)
        except csv.Error as error:
            raise ValueError(f"{source}: row {reader.line_num}: {error}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}: expected UTF-8 text: {error}") from None
    return table


def _chunks(reader: Any, source: str, width: int) -> Iterator[tuple[list[int], list[list[str]]]]:
    while block := [(reader.line_num, line) for line in islice(reader, CHUNK)]:
        numbers, lines = [], []
        for number, line in block:
            if not line:
                continue  # a blank line, as at the end of many files
            if len(line) != width:
                raise ValueError(f"{source}: row {number}: expected {width} cells as in the header, got {len(line)}")
            numbers.append(number)
            lines.append(line)
        if lines:
            yield numbers, lines


def _write_csv(handle: IO[bytes], columns: dict[str, Any], classes: tuple[str, ...]) -> None:
    import io

    text = io.TextIOWrapper(handle, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(_cells(values) for values in columns.values())))
    text.flush()
    text.detach()


def _cells(values: Any) -> list[str]:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        # repr keeps every bit; whole numbers (votes) are written without a point, NaN as an empty cell.
        return ["" if v != v else str(int(v)) if v.is_integer() else repr(v) for v in values.tolist()]
    return ["" if value is None else str(value) for value in values]


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet manifests need pyarrow: pip install "ferkit[train]"') from error
    return pyarrow


def _read_parquet(path: Path) -> Table:
    arrow = _pyarrow()
    try:
        data = arrow.parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: no readable Parquet file: {error}") from None
    table = Table(str(path), data.column_names)
    numbers = list(range(2, data.num_rows + 2))
    table.rows.extend(numbers)
    for name in data.column_names:
        if is_known(name):
            column = data.column(name)
            numeric = is_number(name) and (arrow.types.is_floating(column.type) or arrow.types.is_integer(column.type))
            values = column.cast("float64").to_numpy() if numeric else column.to_pylist()
            table.append(name, values, numbers)
    stored = (data.schema.metadata or {}).get(b"ferkit.classes")
    table.classes = None if stored is None else tuple(json.loads(stored))
    return table


def _write_parquet(handle: IO[bytes], columns: dict[str, Any], classes: tuple[str, ...]) -> None:
    arrow = _pyarrow()
    data = arrow.table({name: arrow.array(values, from_pandas=True) for name, values in columns.items()})
    data = data.replace_schema_metadata({b"ferkit.classes": json.dumps(classes).encode()})
    arrow.parquet.write_table(data, handle)
