"""What a face shows: one to three emotions blended into the action units of its two sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ferkit.data.synthetic.prototypes import ACTION_UNITS, AU, CLASSES, EXEMPLARS, Array, vector

__all__ = ["Expression", "draw_expression"]

_VARIANTS = [[vector(units) for units in EXEMPLARS[name]] for name in CLASSES]
_UPPER = np.array([code in (1, 2, 4, 5, 6, 7, 45) for code in ACTION_UNITS])
# Neutral is drawn less often than the others because weak blends are seen as neutral too.
_FREQUENCY = np.array([0.5, 1.15, 1.05, 1.0, 1.0, 1.0, 1.05, 1.0])


@dataclass(frozen=True)
class Expression:
    """Action units (17,) in 0..5 of the image's left and right half of the face."""

    left: Array
    right: Array

    @property
    def action_units(self) -> Array:
        """(17,) the stronger side, as FACS codes a one-sided action."""
        return np.maximum(self.left, self.right)

    def mirrored(self) -> Expression:
        return Expression(self.right, self.left)


def _pick(cumulative: Array, uniform: float) -> int:
    return min(int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right")), len(cumulative) - 1)


def draw_expression(rng: np.random.Generator, num_classes: int = 7) -> Expression:
    """Draw an expression from a generator (only ``random`` and ``standard_normal`` are used)."""
    uniform = rng.random(24)
    normal = rng.standard_normal((3, 17))
    cumulative = np.cumsum(_FREQUENCY[:num_classes])
    count = 1 + (uniform[0] > 0.60) + (uniform[0] > 0.92)
    # Shares are an exponential race; the upper and the lower face may tell different stories.
    base = -np.log1p(-uniform[1 : 1 + count])
    upper = base * np.exp(0.8 * normal[2, :count])
    lower = base * np.exp(0.8 * normal[2, 3 : 3 + count])
    upper, lower = upper / upper.sum(), lower / lower.sum()
    strength = 0.42 + 0.70 * uniform[4] ** 0.8
    left, right = np.zeros(17), np.zeros(17)
    for part in range(count):
        kind = _pick(cumulative, uniform[5 + part])
        variants = _VARIANTS[kind]
        units = variants[min(int(uniform[8 + part] * len(variants)), len(variants) - 1)]
        units = units * np.where(_UPPER, upper[part], lower[part]) * strength
        sided = CLASSES[kind] == "contempt"
        left += units * (not sided or uniform[11] < 0.5)
        right += units * (not sided or uniform[11] >= 0.5)
    # People differ in which parts they use, a little in the two sides, and talk and blink while they feel.
    personal = np.exp(0.22 * normal[0])
    habit = 0.25 * np.abs(normal[1])
    habit[AU[25]] += 2.5 * uniform[12] * (uniform[13] < 0.18)
    habit[AU[26]] += 1.5 * uniform[14] * (uniform[13] < 0.08)
    habit[AU[4]] += 1.6 * uniform[15] * (uniform[16] < 0.12)
    habit[AU[45]] = 5.0 * uniform[17] ** 2 * (uniform[18] < 0.12)
    lean = np.where(uniform[19] < 0.5, 1.0, -1.0) * 0.16 * uniform[20]
    left = np.clip((left * personal + habit) * (1 + lean), 0.0, 5.0)
    right = np.clip((right * personal + habit) * (1 - lean), 0.0, 5.0)
    left[AU[45]] = right[AU[45]] = max(left[AU[45]], right[AU[45]])
    return Expression(left, right)
