"""What hides part of a face: glasses, a hand, a lock of hair, a mask, an object."""

from __future__ import annotations

import numpy as np

from ferkit.data.synthetic.draw import Canvas, unit_clip
from ferkit.data.synthetic.geometry import Contours
from ferkit.data.synthetic.scene import Identity, Scene

__all__ = ["paint_occluder"]


def _glasses(canvas: Canvas, scene: Scene, c: Contours, dark: bool) -> None:
    p, unit = scene.occluder, c.unit
    colour = p[0] * 0.35 + 0.25 * (p[0:3] - 0.5).clip(0)
    wide, tall, rim = (0.27 + 0.05 * p[3]) * unit, (0.20 + 0.06 * p[4]) * unit, (0.025 + 0.03 * p[5]) * unit
    for u, v in c.irises:
        centre = v + 0.03 * unit
        where = canvas.window(u - wide - 2, centre - tall - 2, u + wide + 2, centre + tall + 2)
        du = np.abs(canvas.u[where] - np.float32(u)) * np.float32(1 / wide)
        dv = np.abs(canvas.v[where] - np.float32(centre)) * np.float32(1 / tall)
        away = ((du**3 + dv**3) ** np.float32(1 / 3) - 1) * np.float32((wide + tall) / 2)
        inside = unit_clip(0.5 - away)
        canvas.paint(where, inside * np.float32(0.85 if dark else 0.12 * p[6]), np.full(3, 0.06 if dark else 0.9))
        canvas.paint(where, unit_clip(np.float32(rim + 0.5) - np.abs(away)) * np.float32(min(1.0, 2 * rim)), colour)
    (ul, vl), (ur, vr) = c.irises
    where, away = canvas.capsule(ul + wide, vl, ur - wide, vr, max(0.4, rim))
    canvas.paint(where, unit_clip(0.5 - away), colour)


def _hand(canvas: Canvas, who: Identity, scene: Scene, c: Contours) -> None:
    p, unit = scene.occluder, c.unit
    way = 1.0 if p[3] < 0.5 else -1.0
    mouth, chin = c.mouth[0, 6], float(c.outline[8, 1])
    # Fingers lie side by side, from a palm below the chin towards the mouth or the cheek.
    knuckle = np.array([mouth[0] + way * (0.35 + 0.5 * p[4]) * unit, chin + 0.15 * unit])
    tip = np.array([mouth[0] + way * 0.75 * (p[5] - 0.25) * unit, mouth[1] + (0.10 - 0.45 * p[6]) * unit])
    along = (tip - knuckle) / np.hypot(*(tip - knuckle))
    beside = np.array([-along[1], along[0]])
    radius = 0.135 * unit
    skin = who.skin.astype(np.float32)
    palm = knuckle - along * 0.3 * unit
    where, away = canvas.capsule(palm[0], palm[1], palm[0] - along[0] * unit, palm[1] - along[1] * unit, 0.5 * unit)
    canvas.paint(where, unit_clip(0.5 - away), skin * 0.72)
    for finger in range(4):
        start = knuckle + beside * (finger - 1.5) * 0.25 * unit
        end = tip + beside * (finger - 1.5) * 0.235 * unit - along * 0.10 * abs(finger - 1.3) * unit
        where, away = canvas.capsule(start[0], start[1], end[0], end[1], radius)
        edge = unit_clip(away / np.float32(radius) + 1)
        canvas.paint(where, unit_clip(0.5 - away), skin * (0.92 - 0.4 * edge**3)[..., None])


def _lock(canvas: Canvas, who: Identity, scene: Scene, c: Contours) -> None:
    p, unit = scene.occluder, c.unit
    side = int(p[3] < 0.5)
    u, v = c.irises[side]
    way = 1.0 if side else -1.0
    rows = np.array([v - 1.0 * unit, v - 0.3 * unit, v + (0.1 + 0.5 * p[4]) * unit])
    middle = u + way * np.array([-0.35, 0.0, 0.12 + 0.2 * p[5]]) * unit
    wide = np.array([0.28, 0.22, 0.03]) * unit
    canvas.paint(*canvas.strip(rows, middle - wide, middle + wide, upright=True), who.hair * 0.9)


def _mask(canvas: Canvas, scene: Scene, c: Contours) -> None:
    p, unit = scene.occluder, c.unit
    colour = np.array([0.75, 0.86, 0.92]) if p[3] < 0.6 else p[0:3] * 0.7 + 0.1
    jaw = c.outline[:17]
    x = jaw[2:15, 0]
    nose = float(c.bridge[2, 1]) - 0.02 * unit
    top = jaw[2:15, 1].min() + (nose - jaw[2:15, 1].min()) * (1 - np.abs(np.linspace(-1, 1, 13)) ** 1.5)
    where, cover = canvas.strip(x, top, np.maximum(jaw[2:15, 1], top))
    pleat = 0.88 + 0.08 * np.sin(canvas.v[where] * np.float32(14 / unit))
    canvas.paint(where, cover, colour.astype(np.float32) * pleat[..., None])


def _block(canvas: Canvas, scene: Scene, c: Contours) -> None:
    p, unit = scene.occluder, c.unit
    u = c.bridge[3, 0] + (p[3] - 0.5) * 1.5 * unit
    v = c.bridge[3, 1] + (p[4] - 0.5) * 1.8 * unit
    where, away = canvas.capsule(u, v, u + (p[5] - 0.5) * 0.9 * unit, v + 0.5 * unit, (0.16 + 0.12 * p[6]) * unit)
    canvas.paint(where, unit_clip(0.5 - away), p[0:3])


def paint_occluder(canvas: Canvas, who: Identity, scene: Scene, c: Contours) -> None:
    """Paint the scene's occluder, if it has one."""
    kind = scene.occlusion
    if kind in ("glasses", "sunglasses"):
        _glasses(canvas, scene, c, kind == "sunglasses")
    elif kind == "hand":
        _hand(canvas, who, scene, c)
    elif kind == "hair":
        _lock(canvas, who, scene, c)
    elif kind == "mask":
        _mask(canvas, scene, c)
    elif kind == "block":
        _block(canvas, scene, c)
