"""From ten votes to a target, by the rules of FERPlus (Barsoum et al. 2016, arXiv:1608.01041, and its release).

Every rule takes votes (N, 10) in FERPlus's column order, emotions first, and gives targets (N, 8) in that order and
a mask of the rows that are kept. Shares are compared as whole numbers, so that no rounding decides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "EMOTION_COLUMNS", "TARGETS"]

Votes = NDArray[np.int64]
Targets = tuple[NDArray[np.float64], NDArray[np.bool_]]

EMOTION_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
COLUMNS = (*EMOTION_COLUMNS, "unknown", "NF")
EMOTIONS = len(EMOTION_COLUMNS)


def _without_outliers(votes: Votes) -> Votes:
    return np.where(votes > 1, votes, 0)


def _winner_is_emotion(votes: Votes) -> NDArray[np.bool_]:
    """Ties go to the column further left, as in the release, hence to an emotion before unknown and no face."""
    wins: NDArray[np.bool_] = (votes.argmax(axis=1) < EMOTIONS) & (votes.sum(axis=1) > 0)
    return wins


def votes(given: Votes) -> Targets:
    """The emotions' votes as they are; only faces without any are dropped."""
    return given[:, :EMOTIONS].astype(np.float64), given[:, :EMOTIONS].sum(axis=1) > 0


def plurality(given: Votes) -> Targets:
    """The votes as they are; dropped where unknown or no face has the most."""
    return given[:, :EMOTIONS].astype(np.float64), _winner_is_emotion(given)


def majority(given: Votes) -> Targets:
    """The votes as they are; kept where one emotion has more than half of the votes left without outliers."""
    left = _without_outliers(given)
    return given[:, :EMOTIONS].astype(np.float64), _winner_is_emotion(left) & (2 * left.max(1) > left.sum(1))


def cross_entropy(given: Votes) -> Targets:
    """The largest classes until they hold 75 % of the votes or are three; dropped at 50 % or less, or above three.

    Classes of equal votes come in together. Where unknown or no face would come in, nothing follows.
    """
    left = _without_outliers(given)
    total = left.sum(axis=1)
    rest, taken = left.copy(), np.zeros_like(left)
    going = total > 0
    while going.any():
        tied = (rest == rest.max(axis=1, keepdims=True)) & (rest > 0) & going[:, None]
        refused = tied[:, EMOTIONS:].any(axis=1)
        rest = np.where(tied, 0, rest)
        tied[:, EMOTIONS:] = False
        taken = np.where(tied, left, taken)
        going = going & ~refused & (4 * taken.sum(axis=1) < 3 * total) & ((taken > 0).sum(axis=1) < 3)
    keep = (2 * taken.sum(axis=1) > total) & ((taken > 0).sum(axis=1) <= 3)
    return taken[:, :EMOTIONS].astype(np.float64), keep


def multi_target(given: Votes) -> Targets:
    """Every class of 30 % or more counts the same; dropped where these hold 50 % of the votes or less."""
    left = _without_outliers(given)
    total = left.sum(axis=1)
    taken = np.where(10 * left >= 3 * total[:, None], left, 0)
    keep = (2 * taken.sum(axis=1) > total) & _winner_is_emotion(taken)
    return (taken[:, :EMOTIONS] > 0).astype(np.float64), keep


TARGETS: dict[str, Callable[[Votes], Targets]] = {
    "votes": votes,
    "plurality": plurality,
    "majority": majority,
    "probability": cross_entropy,  # the same distribution; FERPlus draws one label from it at each use
    "cross_entropy": cross_entropy,
    "multi_target": multi_target,
}
