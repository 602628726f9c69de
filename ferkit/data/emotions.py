"""Emotion names: the order used everywhere, and the spellings of the published datasets mapped to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["EMOTIONS", "canonical_emotion", "class_index", "emotion_classes"]

#: Order used everywhere (AffectNet's). Sets of seven classes leave out contempt.
EMOTIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")

_ALIASES = {
    "neutrality": "neutral",
    "neutral face": "neutral",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "afraid": "fear",
    "fearful": "fear",
    "disgusted": "disgust",
    "angry": "anger",
    "contemptuous": "contempt",
}


def canonical_emotion(name: str) -> str | None:
    """The emotion a spelling stands for, or None if it is none.

    >>> canonical_emotion("Happiness"), canonical_emotion("angry"), canonical_emotion("cat")
    ('happy', 'anger', None)
    """
    word = name.strip().casefold()
    word = _ALIASES.get(word, word)
    return word if word in EMOTIONS else None


def emotion_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The first seven emotions, or all eight where ``names`` holds contempt."""
    return EMOTIONS if any(canonical_emotion(name) == "contempt" for name in names) else EMOTIONS[:7]


def class_index(classes: Sequence[str]) -> dict[str, int]:
    """Every spelling under which a class of ``classes`` may be written (casefolded) and its index.

    >>> class_index(("neutral", "happy"))["happiness"]
    1
    """
    index: dict[str, int] = {}
    for position, name in enumerate(classes):
        emotion = canonical_emotion(name)
        if emotion is not None:
            spellings = [emotion, *(alias for alias, target in _ALIASES.items() if target == emotion)]
            index.update((spelling, position) for spelling in spellings)
    # A name as written comes last: a class list may hold both "joy" and "happy".
    index.update((name.strip().casefold(), position) for position, name in enumerate(classes))
    return index
