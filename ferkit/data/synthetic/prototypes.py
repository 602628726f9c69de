"""Action units of the basic emotions, and what a population of viewers sees in a set of action units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACTION_UNITS", "AU", "CLASSES", "EXEMPLARS", "VALENCE_AROUSAL", "perceive"]

Array = NDArray[np.float64]

CLASSES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")

# The 17 intensities that OpenFace 2 regresses, in its order, on the scale 0 to 5.
ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
AU = {code: position for position, code in enumerate(ACTION_UNITS)}

# EMFACS combinations (Friesen & Ekman 1983), core sets first, as intensities at full strength. AU16, 22, 24 and 27 of
# the tables are not among the 17: AU24 is shown by 23, AU27 by 26, AU16 by 15.
EXEMPLARS: dict[str, tuple[dict[int, float], ...]] = {
    "neutral": ({},),
    "happy": ({6: 3.0, 12: 4.0}, {6: 3.5, 12: 4.5, 25: 3.0, 26: 1.0}, {12: 3.5, 25: 1.5}),
    "sad": ({1: 3.5, 4: 2.5, 15: 3.0}, {1: 3.5, 4: 3.0, 15: 3.5, 17: 3.0}, {1: 2.0, 6: 1.5, 15: 4.0, 17: 2.0}),
    "surprise": (
        {1: 3.5, 2: 3.5, 5: 3.0, 25: 3.0, 26: 4.0},
        {1: 3.0, 2: 3.0, 25: 3.0, 26: 3.5},
        {1: 4.0, 2: 4.0, 5: 3.5},
    ),
    "fear": (
        {1: 3.5, 2: 2.0, 4: 3.0, 5: 4.0, 20: 3.5, 25: 3.0, 26: 1.5},
        {1: 3.5, 2: 2.5, 4: 3.0, 5: 4.0, 7: 2.0, 20: 3.0},
        {1: 3.0, 4: 2.5, 5: 4.0, 20: 4.0, 25: 2.0},
    ),
    "disgust": ({9: 4.0, 15: 2.5, 17: 2.0}, {9: 4.0, 10: 3.5, 25: 2.0, 7: 2.0}, {9: 2.0, 10: 4.0, 17: 3.0}),
    "anger": (
        {4: 4.0, 5: 2.5, 7: 3.5, 23: 4.0},
        {4: 4.0, 5: 2.5, 7: 3.0, 10: 2.0, 25: 3.0, 26: 2.0},
        {4: 4.0, 7: 3.5, 17: 3.0, 23: 3.5},
    ),
    "contempt": ({12: 3.0, 14: 3.5}, {14: 4.0}, {12: 2.5, 14: 2.0}),  # one side only
}

# Circumplex positions (Russell 1980), near the class means that AffectNet reports.
VALENCE_AROUSAL = np.array(
    [[0.0, 0.0], [0.75, 0.25], [-0.65, -0.35], [0.2, 0.75], [-0.5, 0.7], [-0.7, 0.35], [-0.6, 0.65], [-0.5, 0.15]]
)

STRENGTHS = (0.5, 0.85)
TEMPERATURE = 1.45
# How much a unit of each action unit moves a viewer; a parted mouth and a blink say little.
SALIENCE = np.array([1.0, 0.9, 1.0, 0.9, 0.6, 0.7, 1.1, 0.9, 1.1, 0.9, 1.1, 0.7, 1.0, 0.9, 0.45, 0.7, 0.0])
ASYMMETRY_SALIENCE = 1.0
_SIDED = (AU[12], AU[14])


def vector(units: dict[int, float]) -> Array:
    """The 17 intensities of a mapping from code to intensity."""
    values = np.zeros(len(ACTION_UNITS))
    for code, intensity in units.items():
        values[AU[code]] = intensity
    return values


def _features(left: Array, right: Array) -> Array:
    gap = np.abs(left - right)[..., _SIDED]
    return np.concatenate([(left + right) / 2, gap], axis=-1)


def _exemplars() -> tuple[Array, NDArray[np.int64]]:
    points, owners = [], []
    for position, name in enumerate(CLASSES):
        for units in EXEMPLARS[name]:
            for strength in STRENGTHS if units else (0.0, 0.15):
                full = vector(units) * strength
                points.append(_features(full, full * (name != "contempt")))
                owners.append(position)
    return np.stack(points), np.array(owners)


_POINTS, _OWNERS = _exemplars()
_WEIGHTS = np.concatenate([SALIENCE, np.full(len(_SIDED), ASYMMETRY_SALIENCE)])
_MEMBERSHIP = (_OWNERS[:, None] == np.arange(len(CLASSES))) / np.bincount(_OWNERS)[_OWNERS][:, None]


def perceive(left: Array, right: Array, num_classes: int = 7, visibility: Array | None = None) -> Array:
    """Share of viewers who would name each class, from the action units of the two sides.

    An exemplar model (Nosofsky 1986): evidence for a class falls with the squared distance from the shown action
    units to that class's prototypes at half and at nearly full strength, so weak faces lean to neutral and blends lie
    between. It is smooth in the action units.

    Args:
        left, right: (17,) intensities in 0..5 of the two sides of the face.
        num_classes: 7 or 8; with 7, nobody answers contempt.
        visibility: (17,) in 0..1, what occlusion leaves to be seen of each action unit; None means all.

    Returns:
        (num_classes,) probabilities.

    >>> smile = vector({6: 3.0, 12: 4.0})
    >>> CLASSES[int(perceive(smile, smile).argmax())]
    'happy'
    """
    weights = _WEIGHTS
    if visibility is not None:
        weights = weights * np.concatenate([visibility, visibility[list(_SIDED)]])
    distance = (((_features(left, right) - _POINTS) * weights) ** 2).sum(-1) / (2 * TEMPERATURE**2)
    evidence = np.exp(distance.min() - distance) @ _MEMBERSHIP[:, :num_classes]
    result: Array = evidence / evidence.sum()
    return result
