"""From a data set, a detector's table, or both, to the rows that a graph is built on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ferkit.checks import check_choice, check_number, renamed
from ferkit.data import FaceDataset, SyntheticFaces
from ferkit.data.readers.detector_table import DetectorTable
from ferkit.data.readers.tables import read_table
from ferkit.data.synthetic import ACTION_UNITS
from ferkit.graph.spaces import action_unit_points, affect_points, column_points, known_affect, landmark_points
from ferkit.tasks.data import DataOptions, build_dataset

__all__ = ["check_space", "dataset_ids", "read_rows", "space_points", "table_points"]

SPACES = ("au", "landmark", "va")


def check_space(space: str) -> tuple[str, ...]:
    """The columns that a space names itself, none for "au", "landmark" and "va"; ValueError for another space."""
    if space in SPACES:
        return ()
    columns = tuple(name.strip() for name in space.removeprefix("columns:").split(",")) if ":" in space else ()
    if not space.startswith("columns:") or not all(columns):
        raise ValueError(f"space: expected 'au', 'landmark', 'va' or 'columns:<name>,<name>,...', got {space!r}")
    if len(set(columns)) != len(columns):
        raise ValueError(f"space: expected every column once, got {space!r}")
    return columns


def dataset_ids(dataset: Any) -> list[str]:
    """One name an image that stays the same over runs: the manifest's image, or seed/index of a rendered face."""
    if isinstance(dataset, FaceDataset):
        return [str(name) for name in dataset.manifest.image]
    if isinstance(dataset, SyntheticFaces):
        return [f"{dataset.seed}/{index}" for index in range(len(dataset))]
    raise TypeError(f"dataset: expected a FaceDataset or SyntheticFaces, got {type(dataset).__name__}")


def space_points(dataset: Any, space: str, align: str = "none") -> tuple[Tensor, list[str]]:
    """Rows (N, D) of a data set in a space, and the N ids of its images.

    Args:
        dataset: a FaceDataset (whose manifest has the columns) or SyntheticFaces.
        space: "au", "landmark", "va", or "columns:<name>,<name>,..." (``au_<code>``, ``valence``, ``arousal``).
        align: of landmarks: "none" or "procrustes".

    Raises:
        ValueError: for a space of which the data set has no column.

    >>> points, ids = space_points(SyntheticFaces(4), "va")
    >>> points.shape, ids[1]
    (torch.Size([4, 2]), '0/1')
    """
    columns, ids = check_space(space), dataset_ids(dataset)
    source = dataset.manifest if isinstance(dataset, FaceDataset) else dataset
    units = _action_units(source)
    if columns:
        known = {f"au_{name}": values for name, values in units.items()}
        known |= {name: getattr(source, name) for name in ("valence", "arousal") if getattr(source, name) is not None}
        absent = [name for name in columns if name not in known]
        if absent:
            raise ValueError(f"space: expected columns of {', '.join(known) or 'none at all'}, got {', '.join(absent)}")
        return column_points(_known_affect(_columns([known[name] for name in columns]), columns), columns), ids
    if space == "au" and units:
        return action_unit_points(_columns(list(units.values())), list(units)), ids
    if space == "landmark" and source.landmarks is not None:
        return landmark_points(torch.as_tensor(np.array(source.landmarks)), align), ids
    if space == "va" and source.valence is not None and source.arousal is not None:
        return affect_points(np.array(source.valence), np.array(source.arousal)), ids
    wanted = {"au": "au_<code>", "landmark": "lm_x_<i> and lm_y_<i>", "va": "valence and arousal"}[space]
    raise ValueError(
        f"space: {space!r} needs the columns {wanted}, and {getattr(source, 'source', 'the data')} has none: "
        "add them to the manifest, or build a graph from a detector's table (ferkit graph build --table)"
    )


def table_points(table: DetectorTable, space: str, align: str = "none") -> Tensor:
    """Rows (R, D) of a detector's table in a space; failed detections are NaN."""
    if space == "landmark":
        return landmark_points(table.values.reshape(len(table), -1, 2), align)
    if space == "va":
        return affect_points(table.values[:, 0], table.values[:, 1])
    if space == "au":
        return action_unit_points(table.values, table.columns)
    return column_points(_known_affect(torch.from_numpy(table.values), table.columns), table.columns)


def read_rows(
    table: str | None,
    data: DataOptions | None,
    space: str,
    align: str,
    split: str,
    min_confidence: float,
    name_column: str | None,
    seed: int,
    progress: bool,
    images: bool = False,
) -> tuple[Tensor, list[str] | None, Any]:
    """Points, ids and the data set (None: a table alone)."""
    check_choice(align, "align", ("none", "procrustes"))
    check_number(min_confidence, "min_confidence", 0, 1)
    check_number(seed, "seed", 0, integer=True)
    if table is None and data is None:
        raise ValueError("table: expected a detector's table, or --data for the data's own columns, got neither")
    dataset = None if data is None else build_dataset(data, split, seed=seed, progress=progress, images=images)
    if space == "features":
        features = _features(table)
        ids = None if dataset is None else dataset_ids(dataset)
        if ids is not None and len(ids) != len(features):
            raise ValueError(f"table: expected a row for each of {len(ids)} images, got {len(features)} in {table}")
        with renamed(values="table"):
            return column_points(features, None, "features"), ids, dataset
    columns = check_space(space)
    if table is None:
        points, ids = space_points(dataset, space, align)
        return points, ids, dataset
    if isinstance(dataset, SyntheticFaces):  # their ids are no file names, and a number alone fits any
        raise ValueError("table: expected none for rendered faces, which have columns of their own")
    kind = "columns" if columns else space
    rows = read_table(table, kind, columns, min_confidence=min_confidence, name_column=name_column)
    print(repr(rows))
    if dataset is None:
        return table_points(rows, space, align), list(rows.names), None
    ids = dataset_ids(dataset)
    match = rows.match(ids)
    print(match)
    return table_points(rows.take(match), space, align), ids, dataset


def _features(table: str | None) -> Any:
    if table is None or not table.endswith(".npy"):
        raise ValueError(f"table: expected a .npy file of features (N, D) for space 'features', got {table!r}")
    if not Path(table).is_file():
        raise FileNotFoundError(f"table: no such file: {table}")
    try:
        values = np.load(table, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"table: {table!r} is no .npy file that can be read ({error})") from error
    if values.dtype.kind not in "fiub":
        raise ValueError(f"table: expected real numbers, got {values.dtype} in {table!r}")
    return values.astype(values.dtype.newbyteorder("="), copy=False)  # torch takes no other order of bytes


def _action_units(source: Any) -> dict[str, Any]:
    units = source.action_units
    if isinstance(units, Tensor):
        return {f"{code:02d}": column for code, column in zip(ACTION_UNITS, units.unbind(1))}
    return dict(units)


def _known_affect(values: Tensor, columns: Sequence[str]) -> Tensor:
    """Columns of valence and arousal hold marks of what is unknown, whatever they stand beside."""
    values = values.clone()
    for place, name in enumerate(columns):
        if name in ("valence", "arousal"):
            column, rest = values[:, place], torch.zeros_like(values[:, place])
            points = known_affect(column, rest) if name == "valence" else known_affect(rest, column)
            values[:, place] = points[:, 0 if name == "valence" else 1]
    return values


def _columns(columns: Sequence[Any]) -> Tensor:
    return torch.stack([torch.as_tensor(np.array(values)) for values in columns], 1)
