"""Take a manifest to fewer or reordered classes, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ferkit.data.manifest import Manifest

__all__ = ["with_classes"]


def with_classes(manifest: Manifest, classes: Sequence[str]) -> Manifest:
    """The same rows under other classes, matched by name.

    Labels of a class that is left out become -1 and its votes are dropped: a face then counts by its other votes.

    Raises:
        ValueError: if a class is not among the manifest's, or none is given.

    >>> from pathlib import Path
    >>> manifest = Manifest(["a.png", "b.png"], ["train"] * 2, [0, 2], ("neutral", "happy", "contempt"), Path())
    >>> with_classes(manifest, ("happy", "neutral")).label.tolist()
    [1, -1]
    """
    unknown = [name for name in classes if name not in manifest.classes]
    if unknown or not classes:
        raise ValueError(f"classes: expected some of {', '.join(manifest.classes)}, got {', '.join(unknown) or 'none'}")
    kept = [manifest.classes.index(name) for name in classes]
    position = np.full(len(manifest.classes) + 1, -1)  # the last entry serves label -1
    position[kept] = np.arange(len(kept))

    def moved(labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return position[labels]

    return replace(
        manifest,
        classes=tuple(classes),
        label=moved(manifest.label),
        votes=None if manifest.votes is None else manifest.votes[:, kept],
        source_labels={name: moved(labels) for name, labels in manifest.source_labels.items()},
    )
