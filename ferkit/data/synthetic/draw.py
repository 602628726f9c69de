"""Anti-aliased drawing on a small canvas: coverage comes from distances in pixels, no supersampling."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ferkit.data.synthetic.prototypes import Array

__all__ = ["Canvas", "Pixels", "Window", "unit_clip"]

Pixels = NDArray[np.float32]
Window = tuple[slice, slice]

_HALF = np.float32(0.5)


def unit_clip(values: Pixels) -> Pixels:
    """Clip to 0..1; on small arrays several times as fast as ``np.clip``."""
    result: Pixels = np.minimum(np.maximum(values, 0), 1)
    return result


class Canvas:
    """Colour ``rgb`` (H, W, 3), light ``light`` (H, W), and pixel coordinates ``u``, ``v`` with the roll taken out."""

    def __init__(self, size: int, roll: float) -> None:
        self.size = size
        self.cos, self.sin = math.cos(roll), math.sin(roll)
        axis = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
        centre = np.float32((size - 1) / 2)
        self.u: Pixels = axis[None, :] * np.float32(self.cos) + axis[:, None] * np.float32(self.sin) + centre
        self.v: Pixels = axis[:, None] * np.float32(self.cos) - axis[None, :] * np.float32(self.sin) + centre
        self.rgb: Pixels = np.zeros((size, size, 3), np.float32)
        self.light: Pixels = np.ones((size, size), np.float32)

    def window(self, u0: float, v0: float, u1: float, v1: float, margin: float = 1.0) -> Window:
        """Slices that hold the box from (u0, v0) to (u1, v1)."""
        half = (self.size - 1) / 2
        cu, cv = (u0 + u1) / 2 - half, (v0 + v1) / 2 - half
        hu, hv = (u1 - u0) / 2 + margin, (v1 - v0) / 2 + margin
        cx, cy = cu * self.cos - cv * self.sin + half, cu * self.sin + cv * self.cos + half
        hx = hu * abs(self.cos) + hv * abs(self.sin)
        hy = hu * abs(self.sin) + hv * abs(self.cos)
        rows = slice(max(0, math.floor(cy - hy)), max(0, math.ceil(cy + hy) + 1))
        return rows, slice(max(0, math.floor(cx - hx)), max(0, math.ceil(cx + hx) + 1))

    def paint(self, where: Window, coverage: Pixels, colour: Array | Pixels) -> None:
        """Lay ``colour`` over the window with ``coverage`` in 0..1."""
        patch = self.rgb[where]
        patch += coverage[..., None] * (np.asarray(colour, np.float32) - patch)

    def shade(self, where: Window, amount: Pixels) -> None:
        """Darken (amount > 0) or brighten the light in the window."""
        self.light[where] *= 1 - amount

    def strip(self, x: Array, top: Array, bottom: Array, upright: bool = False) -> tuple[Window, Pixels]:
        """Coverage of the region between two curves over increasing ``x``; ``upright`` swaps the two axes.

        Coverage is that of a one-pixel box across the curves, so strips thinner than a pixel fade rather than vanish.
        """
        low, high = float(top.min()), float(bottom.max())
        if upright:
            where = self.window(low, x[0], high, x[-1])
            along, across = self.v[where], self.u[where]
        else:
            where = self.window(x[0], low, x[-1], high)
            along, across = self.u[where], self.v[where]
        above = unit_clip(across - np.interp(along, x, top).astype(np.float32) + _HALF)
        below = unit_clip(np.interp(along, x, bottom).astype(np.float32) - across + _HALF)
        ends = unit_clip(along - np.float32(x[0] - 0.5)) * unit_clip(np.float32(x[-1] + 0.5) - along)
        return where, np.maximum(above + below - 1, 0) * ends

    def ridge(self, x: Array, y: Array, width: float, upright: bool = False) -> tuple[Window, Pixels]:
        """A soft line along y(x): Gaussian across, fading out at both ends. Keeps its mass below a pixel's width."""
        wide = math.sqrt(width * width + 0.16)
        low, high = float(y.min()) - 2 * wide, float(y.max()) + 2 * wide
        if upright:
            where = self.window(low, x[0], high, x[-1], 0.5)
            along, across = self.v[where], self.u[where]
        else:
            where = self.window(x[0], low, x[-1], high, 0.5)
            along, across = self.u[where], self.v[where]
        off = (across - np.interp(along, x, y).astype(np.float32)) * np.float32(1 / wide)
        fade = (along - np.float32(x[0])) * np.float32(1 / max(x[-1] - x[0], 1e-3))
        fade = np.maximum(4 * fade * (1 - fade), 0)
        return where, np.exp(-off * off) * fade * np.float32(width / wide)

    def blob(self, u: float, v: float, ru: float, rv: float) -> tuple[Window, Pixels]:
        """A Gaussian spot of radii (ru, rv)."""
        where = self.window(u - 2 * ru, v - 2 * rv, u + 2 * ru, v + 2 * rv, 0.5)
        du = (self.u[where] - np.float32(u)) * np.float32(1 / max(ru, 0.4))
        dv = (self.v[where] - np.float32(v)) * np.float32(1 / max(rv, 0.4))
        return where, np.exp(-du * du - dv * dv)

    def capsule(self, u0: float, v0: float, u1: float, v1: float, radius: float) -> tuple[Window, Pixels]:
        """Signed distance (negative inside) to a thick segment, in pixels, and its window."""
        where = self.window(min(u0, u1) - radius, min(v0, v1) - radius, max(u0, u1) + radius, max(v0, v1) + radius, 1.5)
        du, dv = u1 - u0, v1 - v0
        pu, pv = self.u[where] - np.float32(u0), self.v[where] - np.float32(v0)
        along = unit_clip((pu * np.float32(du) + pv * np.float32(dv)) / np.float32(du * du + dv * dv + 1e-6))
        return where, np.hypot(pu - along * np.float32(du), pv - along * np.float32(dv)) - np.float32(radius)
