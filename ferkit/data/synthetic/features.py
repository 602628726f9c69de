"""Eyes, brows, nose, mouth and beard, and the wrinkles and bulges that action units press into the skin."""

from __future__ import annotations

import numpy as np

from ferkit.data.synthetic.draw import Canvas, Pixels
from ferkit.data.synthetic.geometry import Contours, surface
from ferkit.data.synthetic.prototypes import AU, Array
from ferkit.data.synthetic.scene import Identity

__all__ = ["paint_features", "paint_wrinkles"]

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
    canvas.paint(where, white * np.clip(np.float32(0.098 * unit + 0.5) - away, 0, 1), who.iris)
    canvas.paint(where, white * np.clip(np.float32(0.048 * unit + 0.5) - away, 0, 1), _DARK * 0.4)
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


def _fold(canvas: Canvas, c: Contours, x: Array, y: Array, width: float, depth: float, upright: bool = True) -> None:
    """A crease along points (x, y) of the face frame, darkening by ``depth``."""
    if depth < 0.03:
        return
    points = c.project(x, y, surface(x, y))
    along, across = (points[:, 1], points[:, 0]) if upright else (points[:, 0], points[:, 1])
    where, soft = canvas.ridge(along, across, width * c.unit, upright)
    canvas.shade(where, soft * np.float32(min(depth, 0.75)))


def _bulge(canvas: Canvas, c: Contours, x: float, y: float, rx: float, ry: float, amount: float) -> None:
    if abs(amount) < 0.015:
        return
    u, v = c.project(np.array(x), np.array(y), surface(np.array(x), np.array(y)))
    where, soft = canvas.blob(float(u), float(v), rx * c.unit, ry * c.unit)
    canvas.shade(where, soft * np.float32(-amount))


def paint_wrinkles(canvas: Canvas, who: Identity, c: Contours) -> None:
    """Creases and bulges; age deepens them and gives some of them to a face at rest."""
    deepen = 0.7 + 0.5 * who.age
    for way, a in ((-1.0, c.sides[0]), (1.0, c.sides[1])):
        eye, mouth = way * who.eye_spacing, way * (who.mouth_width + 0.11 * a[AU[12]])
        wing = way * (who.nose_width + 0.03)
        # Nasolabial fold: from the nose wing round the mouth's corner.
        depth = (
            0.12 + 0.28 * who.age + deepen * (0.40 * a[AU[12]] + 0.50 * a[AU[10]] + 0.40 * a[AU[9]] + 0.15 * a[AU[20]])
        )
        lift = 0.06 * a[AU[9]] + 0.05 * a[AU[10]]
        x = np.array([wing, wing + way * (0.10 + 0.06 * a[AU[12]]), mouth + way * 0.09, mouth + way * 0.08])
        y = np.array([who.nose_y - 0.06 - lift, who.nose_y + 0.10 - lift, who.mouth_y - 0.16, who.mouth_y - 0.02])
        _fold(canvas, c, x, y, 0.035, depth)
        _fold(canvas, c, mouth + way * np.array([0.03, 0.06, 0.05]), who.mouth_y + np.array([0.04, 0.14, 0.26]), 0.03,
              0.15 * who.age + deepen * 0.45 * a[AU[15]])  # fmt: skip
        _bulge(canvas, c, mouth + way * 0.07, who.mouth_y - 0.02, 0.05, 0.06, -deepen * 0.55 * a[AU[14]])
        cheek = 0.04 + 0.10 * a[AU[6]] + 0.08 * a[AU[12]]
        _bulge(canvas, c, way * 0.56, 0.16 - 0.08 * a[AU[6]], 0.20, 0.15, cheek)
        _bulge(canvas, c, eye, who.eye_y - 0.02, 0.26, 0.16, -0.14)
        # Lower lid bag, crow's feet.
        _fold(canvas, c, eye + np.array([-0.18, 0.0, 0.18]), who.eye_y + np.array([0.13, 0.165, 0.13]), 0.03,
              0.10 + 0.15 * who.age + deepen * (0.25 * a[AU[6]] + 0.22 * a[AU[7]]), upright=False)  # fmt: skip
        corner = eye + way * who.eye_size
        for slope in (-0.10, 0.02, 0.12):
            ends = np.sort(corner + way * np.array([0.02, 0.17]))
            rise = who.eye_y + np.array([0.0, slope])[:: int(way)]
            _fold(canvas, c, ends, rise, 0.018, 0.08 * who.age + deepen * 0.38 * a[AU[6]], upright=False)
        furrow = way * (0.055 + 0.01 * a[AU[4]])
        _fold(canvas, c, np.array([furrow, furrow * 1.05, furrow]), who.brow_y + np.array([-0.10, 0.03, 0.13]), 0.022,
              0.10 * who.age + deepen * 0.60 * a[AU[4]])  # fmt: skip
        _fold(canvas, c, way * np.array([0.06, 0.10, 0.15]), np.array([-0.24, -0.16, -0.04]) + who.eye_y + 0.24, 0.025,
              deepen * 0.55 * a[AU[9]])  # fmt: skip
    mean = (c.sides[0] + c.sides[1]) / 2
    for level in (-0.04, -0.14):
        brow = 0.10 * who.age + deepen * (0.35 * mean[AU[1]] + 0.25 * mean[AU[2]]) * (1 - 0.4 * mean[AU[4]])
        wide = 0.35 + 0.35 * mean[AU[2]]
        x = np.array([-wide, 0.0, wide])
        _fold(canvas, c, x, who.brow_y - 0.16 + level + np.array([0.02, 0.0, 0.02]), 0.022, brow, upright=False)
    for level in (-0.17, -0.10):
        x = np.array([-0.09, 0.0, 0.09])
        _fold(
            canvas,
            c,
            x,
            who.eye_y + 0.05 + level + np.array([0.02, 0.0, 0.02]),
            0.02,
            deepen * 0.5 * mean[AU[9]],
            upright=False,
        )
    chin = who.mouth_y + 0.20 + 0.20 * mean[AU[26]]
    x = np.array([-0.20, 0.0, 0.20])
    _fold(canvas, c, x, chin + np.array([0.03, 0.0, 0.03]), 0.04, 0.18 + 0.40 * mean[AU[17]], upright=False)
    for way in (-1.0, 1.0):
        _bulge(canvas, c, way * 0.08, chin + 0.15, 0.04, 0.05, -0.35 * mean[AU[17]])
    _bulge(canvas, c, 0.0, who.nose_y - 0.03, 0.07, 0.07, 0.16)
    _bulge(canvas, c, 0.0, who.nose_y - 0.25, 0.05, 0.20, 0.07)
