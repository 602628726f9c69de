"""SFEW and the list of DMUE's release, and the options that say which images are meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ferkit.checks import check_choice
from ferkit.data import EMOTIONS, Manifest, dmue_list, sfew

if TYPE_CHECKING:
    from ferkit.tasks.data import DataOptions

__all__ = ["PUBLISHED", "check_images", "published_faces"]

PUBLISHED = ("sfew", "dmue_list")
OPTIONS = {"alignment": ("rafdb", "sfew"), "image_root": ("dmue_list",), "label_order": ("dmue_list",)}


def check_images(options: DataOptions) -> None:
    """Raise for what the data cannot have."""
    for name, kinds in OPTIONS.items():
        if getattr(options, name) is not None and options.data not in kinds:
            raise ValueError(f"{name}: expected data {' or '.join(map(repr, kinds))} beside it, got {options.data!r}")
    if options.alignment is not None:
        check_choice(options.alignment, "alignment", ("aligned", "original"))
    if options.labels is not None and options.data in PUBLISHED:
        raise ValueError(f"labels: expected none for data {options.data!r}, got {options.labels!r}")


def published_faces(options: DataOptions, classes: Sequence[str] | None) -> Manifest:
    """All rows of all splits."""
    if options.data == "sfew":
        return sfew(str(options.root), options.alignment or "aligned")
    order: Sequence[str] | None = options.label_order
    if order is None and classes is not None and "contempt" in classes:
        order = EMOTIONS  # a run of eight classes may be scored on a list where contempt does not occur
    return dmue_list(str(options.root), options.image_root, order)
