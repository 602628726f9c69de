"""Points to build graphs on: action units, landmarks, valence and arousal; checked, and put in shape."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ferkit.checks import check_choice, check_shape

__all__ = ["action_unit_points", "affect_points", "column_points", "describe_points", "known_affect", "landmark_points"]

MISSING = (-2.0, -5.0)  # how AffectNet and Aff-Wild2 write an unknown valence or arousal
ROUNDS, SETTLED = 100, 1e-12  # of the mean shape


def action_unit_points(values: Any, names: Sequence[str] | None = None) -> Tensor:
    """Action unit intensities (N, A) as points, in the detector's units (OpenFace: 0 to 5, py-feat: 0 to 1).

    Half of real rows, or more, may be all zeros or copies: ``describe_points`` counts them. A row with a NaN (a failed
    detection) stays as it is; ``knn_graph(..., nonfinite="isolate")`` leaves it out.

    Args:
        values: (N, A), tensor or array; integers become float64.
        names: A names of the columns, for messages.

    Raises:
        ValueError: if no row is whole, or every column is constant. A single constant column is warned of.

    Example:
        >>> action_unit_points([[0, 1.5], [2, 0.5]], ["AU01", "AU12"])
        tensor([[0.0000, 1.5000],
                [2.0000, 0.5000]], dtype=torch.float64)
    """
    return column_points(values, names, "action units")


def column_points(values: Any, names: Sequence[str] | None = None, what: str = "columns") -> Tensor:
    """Any columns (N, A) as points, with the checks of :func:`action_unit_points`; a model's features, for one."""
    points = _floating(values, "values")
    check_shape(points, "values", ("N", "A"))
    n, dim = points.shape
    if names is not None and len(names) != dim:
        raise ValueError(f"names: expected {dim}, one a column, got {len(names)}")
    if not dim:
        raise ValueError("values: expected at least one column, got none")
    labels = [str(i) for i in range(dim)] if names is None else list(names)
    whole = torch.isfinite(points).all(1)
    if n and not whole.any():
        empty = [label for label, known in zip(labels, torch.isfinite(points).any(0).tolist()) if not known]
        more = f"; nothing is known in {', '.join(empty[:6])}" if empty else ""
        raise ValueError(f"values: expected {what} in at least one row, got none that is whole{more}")
    constant = _constant(points[whole]) if int(whole.sum()) > 1 else []
    if len(constant) == dim:
        raise ValueError(f"values: expected {what} that differ, got the same in all {int(whole.sum())} rows")
    if constant:
        listed = ", ".join(labels[i] for i in constant[:6]) + ("..." if len(constant) > 6 else "")
        warnings.warn(f"{what}: the same in every row, so without effect: {listed}", stacklevel=3)
    return points


def describe_points(points: Tensor) -> dict[str, int]:
    """Counts that tell what a graph of these rows can be: rows, missing (not finite), all_zero, copies.

    >>> describe_points(torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, torch.nan], [1.0, 2.0]]))
    {'rows': 4, 'missing': 1, 'all_zero': 2, 'copies': 1}
    """
    whole = torch.isfinite(points).all(1)
    kept = points[whole]
    distinct = len(torch.unique(kept, dim=0)) if len(kept) else 0
    return {
        "rows": len(points),
        "missing": len(points) - len(kept),
        "all_zero": int((kept == 0).all(1).sum()),
        "copies": len(kept) - distinct,
    }


def landmark_points(points: Any, align: str = "none") -> Tensor:
    """Landmarks (N, L, 2) as points (N, 2L): x0, y0, x1, y1, ...

    Args:
        points: (N, L, 2) in pixels. A row with a NaN stays NaN.
        align: "none": pixels as they are, for which LDL-ALSG's sigma of 68 is meant (Chen et al., CVPR 2020).
            "procrustes": generalised Procrustes: position, size and rotation are taken out, each face turned (never
            mirrored) to the mean shape; float64. The unit stays the pixel: every face gets the mean size. A face whose
            points all coincide has no shape and becomes NaN.

    Raises:
        ValueError: if no row is whole or every row is the same.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
        >>> turned = square.flip(1) * torch.tensor([-3.0, 3.0]) + 7
        >>> other = square + torch.tensor([[0.0, 1.0], [0, 0], [0, 0], [0, 0]])
        >>> points = landmark_points(torch.stack([square, turned, other]), "procrustes")
        >>> (points[0] - points[1]).abs().max() < 1e-9, (points[0] - points[2]).abs().max() > 0.1
        (tensor(True), tensor(True))
    """
    check_choice(align, "align", ("none", "procrustes"))
    values = _floating(points, "points")
    check_shape(values, "points", ("N", "L", 2))
    if align == "procrustes":
        values = _procrustes(values.double())
    return column_points(values.flatten(1), None, "landmarks")


def affect_points(valence: Any, arousal: Any) -> Tensor:
    """Valence and arousal (N,) as points (N, 2).

    -2 (AffectNet) and -5 (Aff-Wild2) mean unknown and become NaN, as does a row of which only one is known.

    Raises:
        ValueError: for other values outside [-1, 1], with the first rows that have them; if no row is known, or all
            known ones are the same.

    Example:
        >>> affect_points([0.5, -2.0], [-0.1, 0.3])
        tensor([[ 0.5000, -0.1000],
                [    nan,     nan]], dtype=torch.float64)
    """
    return column_points(known_affect(valence, arousal), ("valence", "arousal"), "valence and arousal")


def known_affect(valence: Any, arousal: Any) -> Tensor:
    """As `affect_points`, but the columns may be constant, or unknown altogether."""
    columns = [_floating(valence, "valence"), _floating(arousal, "arousal")]
    check_shape(columns[0], "valence", ("N",))
    check_shape(columns[1], "arousal", (len(columns[0]),))
    points = torch.stack(columns, 1)
    unknown = torch.isin(points, torch.tensor(MISSING, dtype=points.dtype, device="cpu")) | points.isnan()
    points[unknown.any(1)] = torch.nan
    for column, name in enumerate(("valence", "arousal")):
        bad = (points[:, column].abs() > 1 + 1e-6).nonzero()[:, 0]
        if len(bad):
            rows = ", ".join(str(row) for row in bad[:5].tolist()) + (", ..." if len(bad) > 5 else "")
            have = float(points[bad[0], column])
            raise ValueError(
                f"{name}: expected values in [-1, 1], or -2 or -5 for unknown, got {have:g} "
                f"({len(bad)} of {len(points)} rows: {rows}). Divide by the scale's maximum first"
            )
    return points


def _floating(values: Any, name: str) -> Tensor:
    """A copy-free float32 or float64 CPU tensor."""
    try:
        tensor = torch.as_tensor(values, device="cpu").detach()
        if not tensor.is_floating_point() or (not isinstance(values, Tensor) and not hasattr(values, "dtype")):
            tensor = torch.as_tensor(values, dtype=torch.float64, device="cpu")  # integers, and lists: no digit is lost
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected a tensor or an array of numbers, got {type(values).__name__}") from error
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _constant(rows: Tensor) -> list[int]:
    return [i for i, same in enumerate((rows == rows[:1]).all(0).tolist()) if same]


def _procrustes(points: Tensor) -> Tensor:
    """Generalised Procrustes in the complex plane, where turning is a product: a mirror image cannot come out."""
    if not len(points):
        return points
    shape = torch.complex(points[..., 0], points[..., 1])
    shape = shape - shape.mean(1, keepdim=True)
    size = torch.linalg.vector_norm(shape, dim=1, keepdim=True)
    scale = size / points.abs().amax((1, 2)).clamp(min=1.0)[:, None]
    whole = torch.isfinite(scale[:, 0]) & (scale[:, 0] > 1e-9)
    result = torch.full_like(points, torch.nan)
    if not whole.any():
        return result
    unit = shape[whole] / size[whole]
    mean = start = _unit(unit.mean(0)) if float(torch.linalg.vector_norm(unit.mean(0))) > 1e-6 else unit[0]
    for _ in range(ROUNDS):
        following = _unit(_turned(unit, mean).mean(0))
        following = _turned(following[None], start)[0]  # the whole set may drift round otherwise
        moved = float((following - mean).abs().max())
        mean = following
        if moved < SETTLED:
            break
    result[whole] = torch.view_as_real(_turned(unit, mean) * size[whole].mean())
    return result


def _turned(shapes: Tensor, mean: Tensor) -> Tensor:
    """Shapes (N, L) each turned to lie nearest to ``mean`` (L,)."""
    turn = (shapes.conj() * mean).sum(1, keepdim=True)
    size = turn.abs()
    return shapes * torch.where(size > 0, turn / size.clamp(min=1e-300), torch.ones_like(turn))


def _unit(shape: Tensor) -> Tensor:
    unit: Tensor = shape / torch.linalg.vector_norm(shape)
    return unit
