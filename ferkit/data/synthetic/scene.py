"""Who is seen, and how: identity, pose, light, camera and occlusion, all drawn from one generator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ferkit.data.synthetic.prototypes import ACTION_UNITS, Array

__all__ = ["OCCLUSIONS", "Identity", "Scene", "draw_identity", "draw_scene"]

OCCLUSIONS = ("none", "glasses", "sunglasses", "hand", "hair", "mask", "block")
_OCCLUSION_SHARE = np.cumsum([0.60, 0.13, 0.03, 0.08, 0.05, 0.05, 0.06])

# From very fair to very dark, in linear steps of albedo.
_SKIN = np.array([[0.96, 0.80, 0.71], [0.90, 0.72, 0.58], [0.78, 0.58, 0.43], [0.60, 0.41, 0.29], [0.40, 0.26, 0.18]])
_HAIR = np.array(
    [
        [0.06, 0.05, 0.05],
        [0.20, 0.13, 0.08],
        [0.36, 0.22, 0.12],
        [0.62, 0.46, 0.25],
        [0.50, 0.22, 0.10],
        [0.66, 0.65, 0.64],
    ]
)
_IRIS = np.array([[0.20, 0.12, 0.07], [0.30, 0.20, 0.10], [0.33, 0.40, 0.25], [0.32, 0.48, 0.62]])


@dataclass(frozen=True)
class Identity:
    """Face at rest. Lengths in half face widths; x to the right, y down, origin between nose bridge and mouth."""

    width: float = 1.0
    height: float = 1.18
    jaw: float = 0.82
    eye_spacing: float = 0.43
    eye_y: float = -0.24
    eye_size: float = 0.21
    eye_open: float = 0.10
    eye_tilt: float = 0.0
    brow_y: float = -0.50
    brow_tilt: float = 0.0
    brow_arch: float = 0.05
    brow_thick: float = 0.07
    nose_width: float = 0.17
    nose_y: float = 0.24
    mouth_y: float = 0.62
    mouth_width: float = 0.36
    mouth_rest: float = 0.0
    lip_upper: float = 0.06
    lip_lower: float = 0.085
    crooked: float = 0.0
    skin: Array = field(default_factory=lambda: _SKIN[1])
    lips: Array = field(default_factory=lambda: np.array([0.75, 0.40, 0.38]))
    hair: Array = field(default_factory=lambda: _HAIR[1])
    brows: Array = field(default_factory=lambda: _HAIR[1])
    iris: Array = field(default_factory=lambda: _IRIS[1])
    hairline: float = -0.72
    parting: float = 0.0
    long_hair: float = 0.0
    bald: bool = False
    beard: float = 0.0
    moustache: float = 0.0
    age: float = 0.2


@dataclass(frozen=True)
class Scene:
    """Pose (radians; scale and shift as parts of the image side), light, camera and occlusion."""

    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    scale: float = 0.37
    shift: tuple[float, float] = (0.0, 0.0)
    light: tuple[float, float, float] = (0.0, -0.3, 0.95)
    ambient: float = 0.6
    exposure: float = 1.0
    cast: Array = field(default_factory=lambda: np.ones(3))
    saturation: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    background: Array = field(default_factory=lambda: np.full((3, 3), 0.5))
    occlusion: str = "none"
    occluder: Array = field(default_factory=lambda: np.full(8, 0.5))

    def visibility(self) -> Array:
        """(17,) share of each action unit that the occluder leaves to be seen."""
        mouth, eyes = 1.0, 1.0
        if self.occlusion == "mask":
            mouth = 0.12
        elif self.occlusion == "sunglasses":
            eyes = 0.35
        elif self.occlusion == "hand":
            mouth = 0.4
        return np.array(
            [mouth if 10 <= code <= 26 else eyes if code < 9 or code == 45 else 1.0 for code in ACTION_UNITS]
        )

    def mirrored(self) -> Scene:
        """The scene seen in a mirror (pose and light only)."""
        (x, y), (lx, ly, lz) = self.shift, self.light
        return replace(self, roll=-self.roll, yaw=-self.yaw, shift=(-x, y), light=(-lx, ly, lz))


def _between(uniform: float, low: float, high: float) -> float:
    return float(low + (high - low) * uniform)


def _choose(table: Array, uniform: float) -> Array:
    row: Array = table[min(int(uniform * len(table)), len(table) - 1)]
    return row


def draw_identity(rng: np.random.Generator) -> Identity:
    """Draw a person."""
    u = rng.random(40)
    z = np.clip(rng.standard_normal(24), -2.2, 2.2)
    tone = u[0] * (len(_SKIN) - 1)
    low = min(int(tone), len(_SKIN) - 2)
    skin = _SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low])
    skin = np.clip(skin * (1 + 0.05 * z[0] * np.array([0.3, 0.0, -0.6])), 0.05, 1.0)
    dark = u[0] > 0.55 and u[1] < 0.85
    hair = np.clip(_choose(_HAIR, 0.3 * u[2] if dark else u[2]) * (1 + 0.15 * z[1]), 0.03, 0.95)
    lips = skin * np.array([0.86, 0.60, 0.60]) + 0.06 * np.array([1.0, 0.0, 0.1])
    if u[3] < 0.22:  # lipstick
        lips = lips * 0.45 + 0.55 * np.array([0.62, 0.10 + 0.15 * u[4], 0.18])
    male = u[5] < 0.5
    return Identity(
        width=0.93 + 0.055 * z[2],
        height=1.18 + 0.07 * z[3],
        jaw=_between(u[6], 0.66, 0.98),
        eye_spacing=0.42 + 0.035 * z[4],
        eye_y=-0.24 + 0.03 * z[5],
        eye_size=0.205 + 0.022 * z[6],
        eye_open=_between(u[7], 0.065, 0.125),
        eye_tilt=0.02 * z[7],
        brow_y=-0.50 + 0.025 * z[8],
        brow_tilt=0.025 * z[9],
        brow_arch=0.05 + 0.025 * z[10],
        brow_thick=_between(u[8], 0.04, 0.075) + 0.025 * male,
        nose_width=0.17 + 0.025 * z[11] + 0.03 * tone / 4,
        nose_y=0.25 + 0.035 * z[12],
        mouth_y=0.63 + 0.035 * z[13],
        mouth_width=0.36 + 0.04 * z[14],
        mouth_rest=0.015 * z[15],
        lip_upper=_between(u[9], 0.035, 0.075) + 0.015 * tone / 4,
        lip_lower=_between(u[10], 0.06, 0.11) + 0.015 * tone / 4,
        crooked=0.02 * z[16],
        skin=skin,
        lips=lips,
        hair=hair,
        brows=np.clip(hair * 0.75 + 0.02, 0.02, 0.7) * (0.5 + 0.5 * min(1.0, float(skin[1]) + 0.3)),
        iris=_choose(_IRIS, 0.5 * u[11] if dark else u[11]),
        hairline=_between(u[12], -0.95, -0.62),
        parting=_between(u[13], -0.6, 0.6),
        long_hair=_between(u[14], 0.5, 1.0) if u[15] < (0.08 if male else 0.75) else 0.0,
        bald=bool(male and u[16] < 0.12),
        beard=_between(u[17], 0.25, 0.9) if male and u[18] < 0.3 else 0.0,
        moustache=_between(u[19], 0.3, 0.9) if male and u[20] < 0.25 else 0.0,
        age=float(u[21] ** 2),
    )


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw pose, light, camera and occlusion."""
    u = rng.random(48)
    z = np.clip(rng.standard_normal(8), -2.2, 2.2)
    angle = _between(u[0], -1.3, 1.3)
    harsh = _between(u[1], 0.2, 0.85)
    tilt = _between(u[2], -0.75, 0.35)
    light = np.array([np.sin(angle) * harsh, tilt * harsh, np.cos(angle) * 0.6 + 0.5])
    light /= np.linalg.norm(light)
    grey = 0.1 + 0.75 * u[10]
    tint = 0.35 * (u[11:14] - 0.5) * u[14]
    background = np.clip(grey + tint + 0.3 * (u[13:22].reshape(3, 3) - 0.5), 0.02, 0.98)
    return Scene(
        roll=0.07 * float(z[0]),
        yaw=0.17 * float(z[1]),
        pitch=0.08 * float(z[2]),
        scale=_between(u[3], 0.395, 0.46),
        shift=(0.015 * float(z[3]), 0.015 * float(z[4]) - 0.03),
        light=(float(light[0]), float(light[1]), float(light[2])),
        ambient=_between(u[4], 0.45, 0.8),
        exposure=float(np.exp(0.16 * z[5])),
        cast=np.exp(0.2 * (u[22:25] - 0.5)),
        saturation=0.0 if u[5] < 0.12 else _between(u[6], 0.5, 1.1),
        blur=_between(u[7], 0.0, 0.009),
        noise=0.006 + 0.03 * float(u[8]) ** 2,
        background=background,
        occlusion=OCCLUSIONS[min(int(np.searchsorted(_OCCLUSION_SHARE, u[9], side="right")), len(OCCLUSIONS) - 1)],
        occluder=u[26:34],
    )
