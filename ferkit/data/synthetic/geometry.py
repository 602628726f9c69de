"""From identity, action units and pose to the contours of a face and its 68 landmarks, in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ferkit.data.synthetic.expression import Expression
from ferkit.data.synthetic.prototypes import AU, Array
from ferkit.data.synthetic.scene import Identity, Scene

__all__ = ["MIRROR", "Contours", "contours"]

# Landmark i of a mirrored face is landmark MIRROR[i] of the face (iBUG 300-W numbering).
_MIRRORED = {
    "jaw": range(16, -1, -1),
    "brows": range(26, 16, -1),
    "nose": (*range(27, 31), *range(35, 30, -1)),
    "eyes": (45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    "mouth": (*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)),
}
MIRROR = np.concatenate([np.array(part) for part in _MIRRORED.values()])

EYE_T = np.array([-1.0, -0.8, -0.4, -0.2, 0.0, 0.2, 0.4, 0.8, 1.0])
_EYE_UPPER = np.sqrt(1 - EYE_T**2) * (1 - 0.15 * EYE_T**2)
_EYE_LOWER = 1 - np.abs(EYE_T) ** 2.4
MOUTH_T = np.array([-1.0, -0.85, -0.66, -0.45, -0.3, -0.15, 0.0, 0.15, 0.3, 0.45, 0.66, 0.85, 1.0])
_BOW = (1 - MOUTH_T**2) ** 0.65 * (1 - 0.30 * np.exp(-((MOUTH_T / 0.13) ** 2)))
_BELLY = (1 - MOUTH_T**2) ** 0.6
_GAP = (1 - MOUTH_T**2) ** 0.75
_SQUARE = (1 - MOUTH_T**2) ** 0.35
_RIGHT = np.clip(0.5 + MOUTH_T / 0.6, 0.0, 1.0)
_BROW_T = np.linspace(0.0, 1.0, 5)
_JAW = np.linspace(np.pi, 0.0, 17)
_CROWN = np.linspace(0.0, -np.pi, 17)[1:-1]
_PARTS = {
    "outline": 32,
    "brow_l": 5,
    "brow_r": 5,
    "bridge": 4,
    "base": 5,
    "eye_l": 18,
    "eye_r": 18,
    "iris": 2,
    "mouth": 52,
}
_SLICES = dict(zip(_PARTS, (slice(e - n, e) for n, e in zip(_PARTS.values(), np.cumsum(list(_PARTS.values()))))))
_OUTER = np.array([2, 4, 6, 8, 10])
_INNER = np.array([3, 6, 9])
_LIDS = np.array([0, 2, 6, 8, 15, 11])


@dataclass(frozen=True)
class Contours:
    """Contours in pixels with the in-plane rotation taken out, (K, 2) as (u, v), and what moved them.

    ``eyes`` are per side the upper and the lower lid (9 points each), image's left side first; ``mouth`` is outer
    upper, inner upper, inner lower, outer lower (13 points each). ``unit`` is half a face width in pixels.
    """

    outline: Array
    brows: tuple[Array, Array]
    bridge: Array
    base: Array
    eyes: tuple[Array, Array]
    irises: Array
    mouth: Array
    landmarks: Array
    unit: float
    sides: tuple[Array, Array]
    project: Projection


@dataclass(frozen=True)
class Projection:
    """Weak perspective: turn by yaw and pitch, scale and shift; ``rotate`` adds the in-plane rotation."""

    scene: Scene
    size: int

    def __call__(self, x: Array, y: Array, z: Array) -> Array:
        s = self.scene
        unit, centre = s.scale * self.size, (self.size - 1) / 2
        cos, sin = math.cos(s.yaw), math.sin(s.yaw)
        front = z - 0.55
        points = np.empty((*np.shape(x), 2))
        points[..., 0] = (x * cos + front * sin) * unit + (centre + s.shift[0] * self.size)
        depth = front * cos - x * sin
        points[..., 1] = (y * math.cos(s.pitch) - depth * math.sin(s.pitch)) * unit + (centre + s.shift[1] * self.size)
        return points

    def rotate(self, points: Array) -> Array:
        """Image coordinates (x, y) of points (K, 2) in the frame without in-plane rotation."""
        centre = (self.size - 1) / 2
        cos, sin = np.cos(self.scene.roll), np.sin(self.scene.roll)
        u, v = points[..., 0] - centre, points[..., 1] - centre
        return np.stack([u * cos - v * sin + centre, u * sin + v * cos + centre], -1)


def surface(x: Array, y: Array) -> Array:
    """Depth of the face's front, an ellipsoid."""
    result: Array = 0.95 * np.sqrt(np.maximum(1 - (x / 1.25) ** 2 - (y / 1.7) ** 2, 0.02))
    return result


def _brow(who: Identity, a: Array, side: float) -> Array:
    inner = 0.18 * a[AU[1]] - 0.16 * a[AU[4]] * (1 - 0.5 * a[AU[1]]) - 0.05 * a[AU[9]]
    middle = 0.07 * a[AU[1]] + 0.15 * a[AU[2]] - 0.11 * a[AU[4]] - 0.02 * a[AU[9]]
    outer = 0.19 * a[AU[2]] - 0.03 * a[AU[4]] - 0.03 * a[AU[6]]
    lift = inner * (1 - _BROW_T) ** 2 + 2 * middle * _BROW_T * (1 - _BROW_T) + outer * _BROW_T**2
    near = who.eye_spacing - 0.27 - 0.05 * a[AU[4]]
    x = near + (who.eye_spacing + 0.27 - near) * _BROW_T
    arch = who.brow_arch * 4 * _BROW_T * (1 - _BROW_T) * (1 - 0.5 * a[AU[4]])
    y = who.brow_y - arch - lift + who.brow_tilt * (0.5 - _BROW_T) + side * who.crooked * 0.5
    return np.stack([side * x, y], -1)


def _eye(who: Identity, a: Array, side: float) -> Array:
    top = (who.eye_open + 0.10 * a[AU[5]] - 0.055 * a[AU[7]] - 0.01 * a[AU[6]] - 0.02 * a[AU[4]]) * (1 - a[AU[45]])
    bottom = who.eye_open * 0.6 - 0.045 * a[AU[6]] - 0.06 * a[AU[7]] - 0.02 * a[AU[9]]
    # A closed upper lid rests on the lower one.
    top = max(top + a[AU[45]] * (0.012 - bottom), 0.012 - bottom)
    centre = who.eye_y + side * who.crooked * 0.5
    x = side * who.eye_spacing + EYE_T * who.eye_size
    tilt = -who.eye_tilt * EYE_T * side
    return np.stack(
        [
            np.concatenate([x, x]),
            np.concatenate([centre + tilt - top * _EYE_UPPER, centre + tilt + bottom * _EYE_LOWER]),
        ],
        -1,
    )


def _mouth(who: Identity, left: Array, right: Array) -> Array:
    mean = (left + right) / 2
    corners = []
    for side, a in ((-1.0, left), (1.0, right)):
        out = who.mouth_width + 0.13 * a[AU[12]] + 0.19 * a[AU[20]] + 0.03 * a[AU[14]] - 0.03 * a[AU[15]]
        out += -0.07 * a[AU[23]] - 0.05 * mean[AU[26]] - 0.02 * a[AU[17]]
        down = (
            who.mouth_rest
            - 0.25 * a[AU[12]]
            + 0.21 * a[AU[15]]
            + 0.03 * a[AU[20]]
            - 0.03 * a[AU[14]]
            + 0.07 * mean[AU[26]]
        )
        corners.append((side * out, down))
    share = (MOUTH_T + 1) / 2
    x = corners[0][0] * (1 - share) + corners[1][0] * share
    bend = np.abs(MOUTH_T) ** 1.7
    line = bend * np.where(MOUTH_T < 0, corners[0][1], corners[1][1])
    line = (
        who.mouth_y + line - (0.05 * mean[AU[17]] + 0.02 * mean[AU[9]]) * (1 - bend) + 0.03 * mean[AU[12]] * (1 - bend)
    )
    line = line + who.crooked * 0.6 * MOUTH_T
    # The upper lip is raised a side at a time; the jaw takes the lower lip with it.
    raised = (left[AU[10]] * (1 - _RIGHT) + right[AU[10]] * _RIGHT) * 0.10 + 0.05 * mean[AU[9]]
    parted = 0.065 * mean[AU[25]]
    drop = 0.30 * mean[AU[26]]
    up = line - parted * _GAP - raised * _SQUARE * (0.5 + 0.5 * mean[AU[25]]) - 0.06 * mean[AU[26]] * _GAP
    low = line + (parted + drop) * _GAP + 0.03 * mean[AU[20]] * mean[AU[25]] * _SQUARE
    thin = (1 - 0.6 * mean[AU[23]]) * (1 - 0.25 * mean[AU[12]]) * (1 - 0.2 * mean[AU[20]])
    upper = who.lip_upper * thin * _BOW + raised * 0.3 * _SQUARE
    lower = who.lip_lower * thin * (1 + 0.25 * mean[AU[17]]) * (1 - 0.2 * mean[AU[26]]) * _BELLY
    return np.stack([np.tile(x, 4), np.concatenate([up - upper, up, low, low + lower])], -1)


def _outline(who: Identity, mean: Array) -> Array:
    cos, sin = np.cos(_JAW), np.sin(_JAW)
    narrow = 1 - (1 - who.jaw) * sin**2 * 1.1
    drop = 0.16 * mean[AU[26]] - 0.02 * mean[AU[17]]
    jaw_x = who.width * np.sign(cos) * np.abs(cos) ** 0.85 * narrow
    jaw_y = -0.15 + (who.height + 0.13) * sin**0.95 + drop * sin**4
    crown_x = who.width * 1.02 * np.cos(_CROWN)
    crown_y = -0.15 + 1.08 * np.sin(_CROWN)
    return np.stack([np.concatenate([jaw_x, crown_x]), np.concatenate([jaw_y, crown_y])], -1)


def contours(who: Identity, expression: Expression, scene: Scene, size: int) -> Contours:
    """Contours and landmarks of a face, in pixels of an image of ``size``."""
    left, right = expression.left / 5, expression.right / 5
    mean = (left + right) / 2
    wing, rise = (
        who.nose_width * (1 + 0.12 * mean[AU[9]] + 0.12 * mean[AU[12]]),
        0.08 * mean[AU[9]] + 0.03 * mean[AU[10]],
    )
    bridge_y = np.linspace(who.eye_y + 0.02, who.nose_y - 0.02 - rise, 4)
    bridge = np.stack([np.full(4, 0.5 * who.crooked), bridge_y], -1)
    base_y = who.nose_y + np.array([0.0, 0.05, 0.07, 0.05, 0.0]) - rise * np.array([1.3, 0.6, 0.3, 0.6, 1.3])
    base = np.stack([np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) * wing + 0.5 * who.crooked, base_y], -1)
    irises = np.array([[side * who.eye_spacing, who.eye_y + side * who.crooked * 0.5] for side in (-1.0, 1.0)])
    brows = _brow(who, left, -1.0)[::-1], _brow(who, right, 1.0)
    eyes = _eye(who, left, -1.0), _eye(who, right, 1.0)
    points = np.concatenate([_outline(who, mean), *brows, bridge, base, *eyes, irises, _mouth(who, left, right)])
    x, y = points[:, 0], points[:, 1]
    depth = surface(x, y)
    depth[_SLICES["outline"]] = 0.3
    depth[_SLICES["bridge"]] += np.array([0.05, 0.13, 0.22, 0.30])
    depth[_SLICES["base"]] += np.array([0.06, 0.13, 0.18, 0.13, 0.06])
    project = Projection(scene, size)
    flat = project(x, y, depth)
    part = {name: flat[where] for name, where in _SLICES.items()}
    mouth = part["mouth"].reshape(4, 13, 2)
    face = [part["outline"][:17], part["brow_l"], part["brow_r"], part["bridge"], part["base"]]
    eye = [part["eye_l"][_LIDS], part["eye_r"][_LIDS]]
    outer = [mouth[0, [0]], mouth[0, _OUTER], mouth[0, [12]], mouth[3, _OUTER[::-1]]]
    inner = [mouth[1:3, 1].mean(0)[None], mouth[1, _INNER], mouth[1:3, 11].mean(0)[None], mouth[2, _INNER[::-1]]]
    landmarks = np.concatenate([*face, *eye, *outer, *inner])
    return Contours(
        outline=part["outline"],
        brows=(part["brow_l"], part["brow_r"]),
        bridge=part["bridge"],
        base=part["base"],
        eyes=(part["eye_l"].reshape(2, 9, 2), part["eye_r"].reshape(2, 9, 2)),
        irises=part["iris"],
        mouth=mouth,
        landmarks=project.rotate(landmarks),
        unit=scene.scale * size,
        sides=(left, right),
        project=project,
    )
