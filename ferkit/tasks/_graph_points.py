"""From a data set, a detector's table, or both, to the rows that a graph is built on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ferkit.data import FaceDataset, SyntheticFaces
from ferkit.data.readers.detector_table import DetectorTable
from ferkit.data.synthetic import ACTION_UNITS
from ferkit.graph.spaces import action_unit_points, affect_points, column_points, landmark_points

__all__ = ["check_space", "dataset_ids", "space_points", "table_points"]

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
        return column_points(_columns([known[name] for name in columns]), columns), ids
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
    make: Callable[..., Tensor] = action_unit_points if space == "au" else column_points
    return make(table.values, table.columns)


def _action_units(source: Any) -> dict[str, Any]:
    units = source.action_units
    if isinstance(units, Tensor):
        return {f"{code:02d}": column for code, column in zip(ACTION_UNITS, units.unbind(1))}
    return dict(units)


def _columns(columns: Sequence[Any]) -> Tensor:
    return torch.stack([torch.as_tensor(np.array(values)) for values in columns], 1)
