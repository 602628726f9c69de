"""RAF-DB and AffectNet with the lists that go with them, and what manifests are learned from and scored by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ferkit.data import Manifest, affectnet, rafdb

if TYPE_CHECKING:
    from ferkit.tasks.data import DataOptions

__all__ = ["LISTED", "best_labels", "check_lists", "learned_labels", "listed_faces"]

LISTED = ("rafdb", "affectnet")


def check_lists(options: DataOptions) -> None:
    """Raise for lists that the data cannot have."""
    for name in ("machine_labels", "affect"):
        if getattr(options, name) is not None and options.data not in LISTED:
            raise ValueError(f"{name}: expected data {' or '.join(map(repr, LISTED))} beside it, got {options.data!r}")


def listed_faces(options: DataOptions, classes: Sequence[str] | None, progress: bool) -> Manifest:
    """All rows; the label is what to learn from, the source label ``true``, where there is one, what to score by."""
    root, lists = str(options.root), options.machine_labels or {}
    if options.data == "rafdb":
        images = options.alignment or "aligned"
        return rafdb(root, images, labels=options.labels, machine_labels=lists, affect=options.affect)
    contempt = classes is None or "contempt" in classes
    return _affectnet(root, 8 if contempt else 7, tuple(lists.items()), options.affect, options.on_error, progress)


@lru_cache(maxsize=1)  # a minute for the whole set, and training asks for two splits of it
def _affectnet(
    root: str, classes: int, lists: tuple[tuple[str, str], ...], affect: str | None, on_error: str, progress: bool
) -> Manifest:
    return affectnet(root, "auto", classes, dict(lists), affect, on_error=on_error, progress=progress)


def learned_labels(rows: Manifest, everything: Manifest) -> NDArray[np.int64]:
    """Of each of ``rows`` its label in ``everything``."""
    label = dict(zip(_keys(everything), everything.label.tolist()))
    return np.array([label[key] for key in _keys(rows)], dtype=np.int64)


def _keys(rows: Manifest) -> list[tuple[str, int]]:
    assert rows.rows is not None
    return list(zip(rows.image.tolist(), rows.rows.tolist()))  # an image may have several rows, of other labels


def best_labels(rows: Manifest, learned: Manifest) -> NDArray[np.int64]:
    """What a manifest is scored by: ``true`` where that is known, else its label, and not what is learned from."""
    best = rows.source_labels.get("true", rows.label)
    best = np.where(best >= 0, best, rows.label)
    return best if (best >= 0).any() else learned.label  # of a manifest without labels that is all there is
