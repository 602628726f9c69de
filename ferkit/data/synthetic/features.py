"""Eyes, brows, nose, mouth and beard."""

from __future__ import annotations

import numpy as np

from ferkit.data.synthetic.draw import Canvas, Pixels, unit_clip
from ferkit.data.synthetic.geometry import Contours
from ferkit.data.synthetic.scene import Identity

__all__ = ["paint_features"]

_DARK = np.array([0.10, 0.06, 0.06])
_BROW_SHAPE = np.array([0.75, 1.0, 0.95, 0.75, 0.25])


def _eye(canvas: Canvas, who: Identity, c: Contours, side: int) -> None:
    upper, lower = c.eyes[side]
    unit = c.unit
    x = upper[:, 0]
    where, white = canvas.strip(x, upper[:, 1], np.maximum(lower[:, 1], upper[:, 1]))
    canvas.paint(where, white, np.array([0.90, 0.88, 0.86]))
    # Iris and pupil stay inside the lids: their coverage is multiplied by the eye's.
    u, v = c.irises[side]
    du, dv = canvas.u[where] - np.float32(u), canvas.v[where] - np.float32(v)
    away = np.sqrt(du * du + dv * dv)
    canvas.paint(where, white * unit_clip(np.float32(0.098 * unit + 0.5) - away), who.iris)
    canvas.paint(where, white * unit_clip(np.float32(0.048 * unit + 0.5) - away), _DARK * 0.4)
    lash = 0.035 * unit
    canvas.paint(*canvas.strip(x, upper[:, 1] - lash * 0.8, upper[:, 1] + lash * 0.2), who.skin * 0.18)
    where, soft = canvas.ridge(x, lower[:, 1] + 0.01 * unit, 0.025 * unit)
    canvas.paint(where, soft * 0.5, who.skin * 0.35)
    where, soft = canvas.ridge(x, upper[:, 1] * 0.93 + 0.07 * c.brows[side][:, 1].mean() - 0.035 * unit, 0.02 * unit)
    canvas.paint(where, soft * 0.55, who.skin * 0.45)


def _brow(canvas: Canvas, who: Identity, c: Contours, side: int) -> None:
    points = c.brows[side]
    shape = _BROW_SHAPE if side else _BROW_SHAPE[::-1]
    x = np.linspace(points[0, 0], points[-1, 0], 9)
    middle = np.interp(x, points[:, 0], points[:, 1])
    thick = np.interp(x, points[:, 0], shape) * who.brow_thick * c.unit
    where, cover = canvas.strip(x, middle - 0.55 * thick, middle + 0.45 * thick)
    canvas.paint(where, cover * 0.9, who.brows)


def _nose(canvas: Canvas, who: Identity, c: Contours) -> None:
    unit = c.unit
    for point in (c.base[1], c.base[3]):
        where, soft = canvas.blob(float(point[0]), float(point[1]) - 0.01 * unit, 0.055 * unit, 0.032 * unit)
        canvas.paint(where, soft * 0.75, who.skin * 0.25)
    where, soft = canvas.ridge(c.base[:, 0], c.base[:, 1] + 0.02 * unit, 0.035 * unit)
    canvas.paint(where, soft * 0.35, who.skin * 0.5)
    for point, way in ((c.base[0], -1.0), (c.base[4], 1.0)):
        rows = np.array([point[1] - 0.12 * unit, point[1] - 0.04 * unit, point[1] + 0.03 * unit])
        where, soft = canvas.ridge(
            rows, point[0] + way * np.array([-0.03, 0.02, -0.02]) * unit, 0.03 * unit, upright=True
        )
        canvas.paint(where, soft * 0.45, who.skin * 0.5)


def _beard(canvas: Canvas, who: Identity, c: Contours, head: Pixels) -> None:
    jaw = c.outline[:17]
    if who.beard:
        x = np.array([jaw[1, 0], c.mouth[0, 0, 0], c.mouth[0, 6, 0], c.mouth[0, 12, 0], jaw[15, 0]])
        low = float(c.mouth[3, 6, 1])
        top = np.array([jaw[2, 1], float(c.mouth[0, 0, 1]), low + 0.03 * c.unit, float(c.mouth[0, 12, 1]), jaw[14, 1]])
        where, cover = canvas.strip(x, top, np.full(5, float(jaw[:, 1].max()) + 1))
        canvas.paint(where, cover * head[where] * np.float32(who.beard), who.hair)
    if who.moustache:
        x, lip = c.mouth[0, 1:12, 0], c.mouth[0, 1:12, 1]
        thick = 0.11 * c.unit * (1 - np.linspace(-1, 1, 11) ** 2) ** 0.5
        where, cover = canvas.strip(x, lip - thick, lip + 0.02 * c.unit)
        canvas.paint(where, cover * np.float32(who.moustache), who.hair)


def _mouth(canvas: Canvas, who: Identity, c: Contours) -> None:
    x = c.mouth[0, :, 0]
    top, up, low, bottom = c.mouth[:, :, 1]
    unit = c.unit
    canvas.paint(*canvas.strip(x, top, np.maximum(up, top)), who.lips * 0.9)
    canvas.paint(*canvas.strip(x, low, np.maximum(bottom, low)), who.lips)
    where, inside = canvas.strip(x, up, np.maximum(low, up))
    canvas.paint(where, inside, _DARK * 1.4)
    gap = low - up
    teeth = np.minimum(gap, (0.025 * unit + 0.6 * gap).clip(max=0.11 * unit)) * (gap > 0.012 * unit)
    where, cover = canvas.strip(x[1:-1], up[1:-1], (up + teeth)[1:-1])
    canvas.paint(where, cover * 0.92, np.array([0.90, 0.87, 0.80]))
    tongue = np.maximum(gap - 0.16 * unit, 0)
    if tongue.max() > 0:
        where, cover = canvas.strip(x[2:-2], (low - 0.6 * tongue)[2:-2], low[2:-2])
        canvas.paint(where, cover * 0.8, np.array([0.55, 0.22, 0.22]))
    # The line where closed lips meet, and the shadow in the corners.
    middle = (up + low) / 2
    where, soft = canvas.strip(x, middle - 0.014 * unit, middle + 0.014 * unit)
    canvas.paint(where, soft * 0.8 * np.float32(gap.max() < 0.08 * unit), who.lips * 0.3)


def paint_features(canvas: Canvas, who: Identity, c: Contours, head: Pixels) -> None:
    """Everything with a colour of its own."""
    _beard(canvas, who, c, head)
    _nose(canvas, who, c)
    for side in (0, 1):
        _eye(canvas, who, c, side)
        _brow(canvas, who, c, side)
    _mouth(canvas, who, c)
