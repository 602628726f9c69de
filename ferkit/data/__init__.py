"""Data: one manifest format, parsers for published datasets, label noise, rendered faces.

The names are loaded on first use; importing this package needs torch and numpy only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferkit.data.dataset import FaceDataset
    from ferkit.data.emotions import EMOTIONS, canonical_emotion
    from ferkit.data.folds import stratified_folds
    from ferkit.data.images import ImageError
    from ferkit.data.label_sets import LabelSetDataset, label_sets_from_noise, majority_vote
    from ferkit.data.manifest import Manifest
    from ferkit.data.noise import flip_labels
    from ferkit.data.predictions import join_predictions, read_predictions
    from ferkit.data.readers.affectnet import affectnet
    from ferkit.data.readers.cifar10 import cifar10
    from ferkit.data.readers.cifar10n import cifar10n
    from ferkit.data.readers.diffusionfer import diffusionfer
    from ferkit.data.readers.dmue_list import dmue_list
    from ferkit.data.readers.fer2013_pixels import write_ferplus_images
    from ferkit.data.readers.ferplus import ferplus
    from ferkit.data.readers.folder import image_folder
    from ferkit.data.readers.rafdb import rafdb
    from ferkit.data.readers.sfew import sfew
    from ferkit.data.synthetic import SyntheticFaces

__all__ = [
    "EMOTIONS",
    "FaceDataset",
    "ImageError",
    "LabelSetDataset",
    "Manifest",
    "SyntheticFaces",
    "affectnet",
    "canonical_emotion",
    "cifar10",
    "cifar10n",
    "diffusionfer",
    "dmue_list",
    "ferplus",
    "flip_labels",
    "image_folder",
    "join_predictions",
    "label_sets_from_noise",
    "majority_vote",
    "rafdb",
    "read_predictions",
    "sfew",
    "stratified_folds",
    "write_ferplus_images",
]

_MODULES = {
    "EMOTIONS": "emotions",
    "FaceDataset": "dataset",
    "ImageError": "images",
    "LabelSetDataset": "label_sets",
    "Manifest": "manifest",
    "SyntheticFaces": "synthetic",
    "affectnet": "readers.affectnet",
    "canonical_emotion": "emotions",
    "cifar10": "readers.cifar10",
    "cifar10n": "readers.cifar10n",
    "diffusionfer": "readers.diffusionfer",
    "dmue_list": "readers.dmue_list",
    "ferplus": "readers.ferplus",
    "flip_labels": "noise",
    "image_folder": "readers.folder",
    "join_predictions": "predictions",
    "label_sets_from_noise": "label_sets",
    "majority_vote": "label_sets",
    "read_predictions": "predictions",
    "rafdb": "readers.rafdb",
    "sfew": "readers.sfew",
    "stratified_folds": "folds",
    "write_ferplus_images": "readers.fer2013_pixels",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
