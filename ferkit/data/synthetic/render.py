"""Paints a face: background, skin, features, wrinkles, light, hair, occluders, camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ferkit.data.synthetic.draw import Canvas, Pixels
from ferkit.data.synthetic.expression import Expression
from ferkit.data.synthetic.features import paint_features, paint_wrinkles
from ferkit.data.synthetic.geometry import Contours, contours
from ferkit.data.synthetic.occlusion import paint_occluder
from ferkit.data.synthetic.scene import Identity, Scene

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


def _polar(canvas: Canvas, outline: NDArray[np.float64]) -> tuple[Pixels, Pixels, Pixels, float, float]:
    """Radius of each pixel and of the outline in its direction, about the head's centre."""
    cu, cv = float(outline[:, 0].mean()), float((outline[:, 1].min() + outline[:, 1].max()) / 2)
    angle = np.arctan2(outline[:, 1] - cv, outline[:, 0] - cu)
    order = np.argsort(angle)
    radius = np.hypot(outline[:, 0] - cu, outline[:, 1] - cv)
    theta = np.arctan2(canvas.v - np.float32(cv), canvas.u - np.float32(cu))
    edge = np.interp(theta, angle[order], radius[order], period=2 * np.pi).astype(np.float32)
    rho = np.hypot(canvas.u - np.float32(cu), canvas.v - np.float32(cv))
    return rho, edge, theta, cu, cv


def _body(canvas: Canvas, who: Identity, scene: Scene, c: Contours, cu: float, cv: float) -> None:
    size, unit = canvas.size, c.unit
    if who.long_hair:
        reach = unit * (0.35 + 0.75 * who.long_hair)
        where, away = canvas.capsule(cu, cv - 0.25 * unit, cu, cv + reach, unit * (1.12 + 0.1 * who.long_hair))
        canvas.paint(where, np.clip(0.5 - away, 0, 1), who.hair * 0.8)
    chin = float(c.outline[8, 1])
    rows = np.array([chin - 0.5 * unit, chin + 0.25 * unit, size * 1.5])
    wide = np.array([0.5, 0.5, 0.6]) * unit
    canvas.paint(*canvas.strip(rows, cu - wide, cu + wide, upright=True), who.skin * 0.62)
    line = np.array([-2.2, -0.45, 0.45, 2.2]) * unit + cu
    top = np.array([0.75, 0.28, 0.28, 0.75]) * unit + chin
    canvas.paint(*canvas.strip(line, top, np.full(4, size * 1.6)), scene.occluder[:3] * 0.8)


def _hair(canvas: Canvas, who: Identity, c: Contours, rho: Pixels, edge: Pixels, light: Pixels) -> None:
    if who.bald:
        return
    unit = c.unit
    x = np.linspace(-1.15, 1.15, 9)
    line = who.hairline + 0.28 * x**2 + 0.10 * np.abs(x - who.parting)
    line = np.where(np.abs(x) > 0.95, -0.15 + 0.6 * who.long_hair, line)
    points = c.project(x, line, np.where(np.abs(x) > 0.9, 0.3, 0.75) + 0.0 * x)
    under = np.interp(canvas.u, points[:, 0], points[:, 1]).astype(np.float32)
    puff = np.float32((0.05 + 0.06 * who.long_hair) * unit)
    cover = np.clip(under - canvas.v + 0.5, 0, 1) * np.clip(edge + puff - rho + 0.5, 0, 1)
    streak = 1 + 0.10 * np.sin(canvas.u * np.float32(9.0 / unit) + canvas.v * np.float32(4.0 / unit))
    canvas.paint(_WHOLE, cover, who.hair.astype(np.float32) * (streak * (0.6 + 0.4 * light))[..., None])


def _lambert(scene: Scene, rho: Pixels, edge: Pixels, theta: Pixels) -> Pixels:
    """Light on an egg: the normal turns outwards towards the outline."""
    q = np.minimum(rho / edge, 1)
    lx, ly, lz = (np.float32(part) for part in scene.light)
    facing = q * (lx * np.cos(theta) + ly * np.sin(theta)) + lz * np.sqrt(1 - 0.85 * q * q)
    ambient = np.float32(scene.ambient)
    result: Pixels = ambient + (1 - ambient) * np.maximum(facing, 0) * np.float32(1.25)
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
            for axis in (0, 1):
                pad = np.take(image, [0, *range(canvas.size), canvas.size - 1], axis=axis)
                low, high = (pad[:-2], pad[2:]) if axis == 0 else (pad[:, :-2], pad[:, 2:])
                image = image + side * (low + high - 2 * image)
    image = image + np.float32(scene.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    result: NDArray[np.uint8] = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return result


def render(
    who: Identity, expression: Expression, scene: Scene, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Contours]:
    """Image (size, size, 3) uint8 and the contours it was painted from; ``rng`` gives the sensor noise."""
    c = contours(who, expression, scene, size)
    canvas = Canvas(size, scene.roll)
    _background(canvas, scene)
    rho, edge, theta, cu, cv = _polar(canvas, c.outline)
    _body(canvas, who, scene, c, cu, cv)
    head = np.clip(edge - rho + 0.5, 0, 1)
    canvas.paint(_WHOLE, head, who.skin)
    paint_features(canvas, who, c, head)
    paint_wrinkles(canvas, who, c)
    light = _lambert(scene, rho, edge, theta)
    canvas.rgb *= (1 + head * (canvas.light * light - 1))[..., None]
    _hair(canvas, who, c, rho, edge, light)
    paint_occluder(canvas, who, scene, c)
    return _camera(canvas, scene, rng), c
