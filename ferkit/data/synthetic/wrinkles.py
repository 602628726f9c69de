"""The creases and bulges that action units press into the skin, drawn in the light."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ferkit.data.synthetic.draw import Canvas
from ferkit.data.synthetic.geometry import Contours, surface
from ferkit.data.synthetic.prototypes import AU
from ferkit.data.synthetic.scene import Identity

__all__ = ["paint_wrinkles"]

_LEAST = 0.05  # fainter marks are left out
_1, _2, _4, _6, _7, _9 = (AU[code] for code in (1, 2, 4, 6, 7, 9))
_10, _12, _14, _15, _17, _20, _26 = (AU[code] for code in (10, 12, 14, 15, 17, 20, 26))

Curve = tuple[float, float, float]


class Fold(NamedTuple):
    """A crease through three points of the face frame: ``width`` in half face widths, ``depth`` in shares of light."""

    x: Curve
    y: Curve
    width: float
    depth: float
    upright: bool = True


class Bulge(NamedTuple):
    """A spot of radii (rx, ry), brighter by ``amount``."""

    x: float
    y: float
    rx: float
    ry: float
    amount: float


def _side(who: Identity, a: list[float], way: float, deepen: float) -> tuple[list[Fold], list[Bulge]]:
    eye, mouth = way * who.eye_spacing, way * (who.mouth_width + 0.13 * a[_12])
    wing, lift = way * (who.nose_width + 0.03), 0.06 * a[_9] + 0.05 * a[_10]
    age = who.age
    nasolabial = 0.12 + 0.28 * age + deepen * (0.40 * a[_12] + 0.60 * a[_10] + 0.50 * a[_9] + 0.15 * a[_20])
    bend = wing + way * (0.10 + 0.06 * a[_12])
    corner, out = mouth + way * 0.09, mouth + way * 0.05
    y, brow, bag = who.mouth_y, who.brow_y, 0.10 + 0.15 * age + deepen * (0.25 * a[_6] + 0.22 * a[_7])
    furrow = way * (0.055 + 0.01 * a[_4])
    eyes = who.eye_y
    below, frown, nose = 0.15 * age + deepen * 0.45 * a[_15], 0.10 * age + deepen * 0.8 * a[_4], deepen * 0.8 * a[_9]
    folds = [
        Fold((wing, bend, corner), (who.nose_y - 0.06 - lift, who.nose_y + 0.10 - lift, y - 0.05), 0.035, nasolabial),
        Fold((out - way * 0.02, out + way * 0.01, out), (y + 0.04, y + 0.14, y + 0.26), 0.03, below),
        Fold((eye - 0.18, eye, eye + 0.18), (eyes + 0.13, eyes + 0.165, eyes + 0.13), 0.03, bag, False),
        Fold((furrow, furrow * 1.05, furrow), (brow - 0.10, brow + 0.03, brow + 0.13), 0.022, frown),
        Fold((way * 0.06, way * 0.10, way * 0.15), (eyes, eyes + 0.08, eyes + 0.20), 0.025, nose),
    ]
    feet = 0.08 * age + deepen * 0.38 * a[_6]
    near, far = eye + way * (who.eye_size + 0.02), eye + way * (who.eye_size + 0.17)
    for slope in (-0.10, 0.02, 0.12):
        ends, rise = (near, (near + far) / 2, far), (who.eye_y, who.eye_y + slope / 2, who.eye_y + slope)
        folds.append(
            Fold(ends, rise, 0.018, feet, False) if way > 0 else Fold(ends[::-1], rise[::-1], 0.018, feet, False)
        )
    bulges = [
        Bulge(mouth + way * 0.07, y - 0.02, 0.05, 0.06, -deepen * 0.55 * a[_14]),
        Bulge(way * 0.56, 0.16 - 0.08 * a[_6], 0.20, 0.15, 0.04 + 0.10 * a[_6] + 0.08 * a[_12]),
        Bulge(eye, who.eye_y - 0.02, 0.26, 0.16, -0.14),
    ]
    return folds, bulges


def _middle(who: Identity, a: list[float], deepen: float) -> tuple[list[Fold], list[Bulge]]:
    brow = 0.10 * who.age + deepen * (0.35 * a[_1] + 0.25 * a[_2]) * (1 - 0.4 * a[_4])
    wide, chin = 0.35 + 0.35 * a[_2], who.mouth_y + 0.20 + 0.20 * a[_26]
    folds = []
    for level in (who.brow_y - 0.20, who.brow_y - 0.30):
        folds.append(Fold((-wide, 0.0, wide), (level + 0.02, level, level + 0.02), 0.022, brow, False))
    for level in (who.eye_y - 0.12, who.eye_y - 0.05):
        folds.append(Fold((-0.09, 0.0, 0.09), (level + 0.02, level, level + 0.02), 0.02, deepen * 0.75 * a[_9], False))
    folds.append(Fold((-0.2, 0.0, 0.2), (chin + 0.03, chin, chin + 0.03), 0.04, 0.18 + 0.40 * a[_17], False))
    dimples = [Bulge(way * 0.08, chin + 0.15, 0.04, 0.05, -0.35 * a[_17]) for way in (-1.0, 1.0)]
    nose = [Bulge(0.0, who.nose_y - 0.03, 0.07, 0.07, 0.16), Bulge(0.0, who.nose_y - 0.25, 0.05, 0.20, 0.07)]
    return folds, dimples + nose


def paint_wrinkles(canvas: Canvas, who: Identity, c: Contours) -> None:
    """Shade creases and bulges; age deepens them and gives some of them to a face at rest."""
    deepen = 0.7 + 0.5 * who.age
    folds, bulges = _middle(who, ((c.sides[0] + c.sides[1]) / 2).tolist(), deepen)
    for way, units in ((-1.0, c.sides[0]), (1.0, c.sides[1])):
        more = _side(who, units.tolist(), way, deepen)
        folds, bulges = folds + more[0], bulges + more[1]
    folds = [fold for fold in folds if fold.depth >= _LEAST]
    bulges = [bulge for bulge in bulges if abs(bulge.amount) >= _LEAST / 2]
    # One projection for all points: a call costs as much as a mark.
    x = np.array([value for fold in folds for value in fold.x] + [bulge.x for bulge in bulges])
    y = np.array([value for fold in folds for value in fold.y] + [bulge.y for bulge in bulges])
    points = c.project(x, y, surface(x, y))
    for position, fold in enumerate(folds):
        u, v = points[3 * position : 3 * position + 3].T
        along, across = (v, u) if fold.upright else (u, v)
        where, soft = canvas.ridge(along, across, fold.width * c.unit, fold.upright)
        canvas.shade(where, soft * np.float32(min(fold.depth, 0.8)))
    for bulge, (u, v) in zip(bulges, points[3 * len(folds) :].tolist()):
        where, soft = canvas.blob(u, v, bulge.rx * c.unit, bulge.ry * c.unit)
        canvas.shade(where, soft * np.float32(-bulge.amount))
