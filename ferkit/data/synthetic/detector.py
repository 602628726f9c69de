"""What a face-analysis tool would report instead of the truth: its noise, its misses, its floor and ceiling."""

from __future__ import annotations

import numpy as np

from ferkit.data.synthetic.prototypes import VALENCE_AROUSAL, Array
from ferkit.data.synthetic.scene import Scene

__all__ = ["affect", "detect_action_units", "detect_affect", "detect_landmarks"]

FLOOR = 0.4  # weaker responses are reported as exactly zero
MISS_RATE = 0.06
FALSE_ALARM_RATE = 0.05
LOST_RATE = 0.02


def affect(distribution: Array, units: Array) -> Array:
    """Valence and arousal (2,) in [-1, 1]: the viewers' mean, stronger for stronger action units."""
    strength = 1 - np.exp(-np.linalg.norm(units[:-1]) / 3.0)  # without the blink
    position = distribution @ VALENCE_AROUSAL[: len(distribution)] * (0.45 + 0.65 * strength)
    arousal = position[1] + 0.25 * (strength - 0.6)
    result: Array = np.clip([position[0], arousal], -1.0, 1.0)
    return result


def detect_action_units(units: Array, scene: Scene, rng: np.random.Generator) -> Array:
    """(17,) reported intensities: a gain per face, noise that grows with the turn of the head, misses, false alarms."""
    uniform, normal = rng.random((2, 17)), rng.standard_normal(18)
    spread = 0.35 + 0.8 * abs(scene.yaw) + 0.4 * abs(scene.pitch)
    hidden = 1 - scene.visibility()
    value = units * np.exp(0.15 * normal[17]) * (1 - 0.7 * hidden) + spread * normal[:17] - 0.1
    value = np.where(uniform[0] < MISS_RATE + 0.5 * hidden, 0.0, value)
    value = np.where(
        (uniform[1] < FALSE_ALARM_RATE) & (value < FLOOR), 0.7 + 1.5 * uniform[1] / FALSE_ALARM_RATE, value
    )
    result: Array = np.where(value < FLOOR, 0.0, np.minimum(value, 5.0))
    return result


def detect_landmarks(points: Array, scene: Scene, size: int, rng: np.random.Generator) -> Array:
    """(68, 2) reported points: jitter, a common slip of each region, and now and then a mean face put down badly."""
    normal, uniform = rng.standard_normal((68, 2)), rng.random(4)
    slip = rng.standard_normal((6, 2))
    unit = scene.scale * size
    region = np.repeat(np.arange(6), [17, 10, 9, 6, 6, 20])
    loose = np.array([2.5, 1.2, 1.0, 0.7, 0.7, 1.0]) * (1 + 1.5 * abs(scene.yaw))
    hidden = 1 - float(scene.visibility().min())
    loose[5] *= 1 + 2 * hidden * (scene.occlusion in ("mask", "hand"))
    loose[3:5] *= 1 + 2 * hidden * (scene.occlusion == "sunglasses")
    out = points + unit * loose[region, None] * (0.018 * normal + 0.020 * slip[region])
    if uniform[0] < LOST_RATE:
        centre = points.mean(0)
        out = centre + (out - centre) * (0.75 + 0.5 * uniform[1]) + (uniform[2:4] - 0.5) * 0.6 * unit
    result: Array = np.clip(out, 0.0, size - 1.0)
    return result


def detect_affect(exact: Array, rng: np.random.Generator) -> Array:
    """Reported valence and arousal (2,): drawn to the middle, noisy, clipped to [-1, 1]."""
    result: Array = np.clip(0.85 * exact + np.array([0.16, 0.18]) * rng.standard_normal(2), -1.0, 1.0)
    return result
