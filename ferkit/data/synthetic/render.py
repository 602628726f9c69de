"""Paints a face: background, skin, features, wrinkles, light, hair, occluders, camera."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ferkit.data.synthetic.draw import Canvas, Pixels, unit_clip
from ferkit.data.synthetic.expression import Expression
from ferkit.data.synthetic.features import paint_features
from ferkit.data.synthetic.geometry import Contours, contours
from ferkit.data.synthetic.occlusion import paint_occluder
from ferkit.data.synthetic.scene import Identity, Scene
from ferkit.data.synthetic.wrinkles import paint_wrinkles

__all__ = ["RENDERER_VERSION", "render"]

# Changes whenever any pixel changes; results on rendered faces are quoted with it.
RENDERER_VERSION = 1

_WHOLE = (slice(None), slice(None))


def _background(canvas: Canvas, scene: Scene) -> None:
    first, second, third = (np.asarray(colour, np.float32) for colour in scene.background)
    ramp = (canvas.v / canvas.size)[..., None]
    canvas.rgb[:] = first * (1 - ramp) + second * ramp
    size = canvas.size
    spot = scene.occluder
    canvas.paint(*canvas.blob(spot[6] * size, spot[7] * size, 0.3 * size, 0.25 * size), third)


class _Head(NamedTuple):
    """Pixels about the head's centre: offsets, radius, and the outline's radius in their direction."""

    du: Pixels
    dv: Pixels
    rho: Pixels
    edge: Pixels
    u: float
    v: float


def _head(canvas: Canvas, outline: NDArray[np.float64]) -> _Head:
    u, v = float(outline[:, 0].mean()), float((outline[:, 1].min() + outline[:, 1].max()) / 2)
    angle = np.arctan2(outline[:, 1] - v, outline[:, 0] - u)
    order = np.argsort(angle)
    angle, radius = angle[order], np.hypot(outline[order, 0] - u, outline[order, 1] - v)
    # Wrapped by hand: interp's own period sorts on every call.
    angle = np.concatenate([angle[-1:] - 2 * np.pi, angle, angle[:1] + 2 * np.pi])
    radius = np.concatenate([radius[-1:], radius, radius[:1]])
    du, dv = canvas.u - np.float32(u), canvas.v - np.float32(v)
    edge = np.interp(np.arctan2(dv, du), angle, radius).astype(np.float32)
    return _Head(du, dv, np.sqrt(du * du + dv * dv), edge, u, v)


def _body(canvas: Canvas, who: Identity, scene: Scene, c: Contours, cu: float, cv: float) -> None:
    size, unit = canvas.size, c.unit
    if who.long_hair:
        reach = unit * (0.35 + 0.75 * who.long_hair)
        where, away = canvas.capsule(cu, cv - 0.25 * unit, cu, cv + reach, unit * (1.12 + 0.1 * who.long_hair))
        canvas.paint(where, unit_clip(0.5 - away), who.hair * 0.8)
    chin = float(c.outline[8, 1])
    rows = np.array([chin - 0.5 * unit, chin + 0.25 * unit, size * 1.5])
    wide = np.array([0.5, 0.5, 0.6]) * unit
    canvas.paint(*canvas.strip(rows, cu - wide, cu + wide, upright=True), who.skin * 0.62)
    line = np.array([-2.2, -0.45, 0.45, 2.2]) * unit + cu
    top = np.array([0.75, 0.28, 0.28, 0.75]) * unit + chin
    canvas.paint(*canvas.strip(line, top, np.full(4, size * 1.6)), scene.occluder[:3] * 0.8)


def _hair(canvas: Canvas, who: Identity, c: Contours, head: _Head, light: Pixels) -> None:
    if who.bald:
        return
    unit = c.unit
    x = np.linspace(-1.15, 1.15, 9)
    line = who.hairline + 0.28 * x**2 + 0.10 * np.abs(x - who.parting)
    line = np.where(np.abs(x) > 0.95, -0.15 + 0.6 * who.long_hair, line)
    points = c.project(x, line, np.where(np.abs(x) > 0.9, 0.3, 0.75) + 0.0 * x)
    under = np.interp(canvas.u, points[:, 0], points[:, 1]).astype(np.float32)
    puff = np.float32((0.05 + 0.06 * who.long_hair) * unit)
    cover = unit_clip(under - canvas.v + 0.5) * unit_clip(head.edge + puff - head.rho + 0.5)
    streak = 1 + 0.10 * np.sin(canvas.u * np.float32(9.0 / unit) + canvas.v * np.float32(4.0 / unit))
    canvas.paint(_WHOLE, cover, who.hair.astype(np.float32) * (streak * (0.6 + 0.4 * light))[..., None])


def _lambert(scene: Scene, head: _Head) -> Pixels:
    """Light on an egg: the normal turns outwards towards the outline."""
    lx, ly, lz = (np.float32(part) for part in scene.light)
    reach = np.maximum(head.edge, head.rho)
    q = head.rho / reach
    facing = (lx * head.du + ly * head.dv) / reach + lz * np.sqrt(1 - np.float32(0.85) * q * q)
    ambient = np.float32(scene.ambient)
    result: Pixels = ambient + (1 - ambient) * np.float32(1.25) * np.maximum(facing, 0)
    return result


def _camera(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    image = canvas.rgb * (np.float32(scene.exposure) * scene.cast.astype(np.float32))
    if scene.saturation != 1.0:
        grey = (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
        image = grey + np.float32(scene.saturation) * (image - grey)
    spread = scene.blur * canvas.size
    if spread > 0.05:
        # Three taps with the variance of a Gaussian of that spread, as often as it takes.
        rounds = max(1, int(np.ceil(spread**2 / 0.5)))
        side = np.float32(spread**2 / rounds / 2)
        for _ in range(rounds):
            for view in (image, image.swapaxes(0, 1)):
                step = side * np.diff(view, axis=0)
                view[:-1] += step
                view[1:] -= step
    image = image + np.float32(scene.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    result: NDArray[np.uint8] = (unit_clip(image) * 255 + 0.5).astype(np.uint8)
    return result


def render(
    who: Identity, expression: Expression, scene: Scene, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Contours]:
    """Image (size, size, 3) uint8 and the contours it was painted from; ``rng`` gives the sensor noise."""
    c = contours(who, expression, scene, size)
    canvas = Canvas(size, scene.roll)
    _background(canvas, scene)
    about = _head(canvas, c.outline)
    _body(canvas, who, scene, c, about.u, about.v)
    head = unit_clip(about.edge - about.rho + 0.5)
    canvas.paint(_WHOLE, head, who.skin)
    paint_features(canvas, who, c, head)
    paint_wrinkles(canvas, who, c)
    light = _lambert(scene, about)
    canvas.rgb *= (1 + head * (canvas.light * light - 1))[..., None]
    _hair(canvas, who, c, about, light)
    paint_occluder(canvas, who, scene, c)
    return _camera(canvas, scene, rng), c
