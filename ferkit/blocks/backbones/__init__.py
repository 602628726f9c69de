"""Backbones cut before their last stage: one small adapter a family, and one for any other model."""

from __future__ import annotations

from collections.abc import Callable

from ferkit.blocks.backbones.any_model import split_model, split_named
from ferkit.blocks.backbones.ibn import split_resnet_ibn_a
from ferkit.blocks.backbones.mobilenet import split_mobilenet_v2
from ferkit.blocks.backbones.parts import BackboneParts
from ferkit.blocks.backbones.resnet import split_resnet
from ferkit.blocks.backbones.shufflenet_v1 import split_shufflenet_v1
from ferkit.blocks.backbones.shufflenet_v2 import split_shufflenet_v2
from ferkit.blocks.backbones.small import split_small

__all__ = ["BACKBONES", "BackboneParts", "split_backbone", "split_model"]

# name -> function giving the parts with fresh weights
BACKBONES: dict[str, Callable[[], BackboneParts]] = {
    "small": split_small,
    "resnet18": lambda: split_resnet("resnet18"),
    "resnet18_released": lambda: split_resnet("resnet18", released_stem=True),
    "resnet34": lambda: split_resnet("resnet34"),
    "resnet50": lambda: split_resnet("resnet50"),
    "resnet50_ibn_a": split_resnet_ibn_a,
    "resnet50_ibn_a_released": lambda: split_resnet_ibn_a(stages=3),
    "resnet101": lambda: split_resnet("resnet101"),
    "mobilenet_v2": split_mobilenet_v2,
    "shufflenet_v1": split_shufflenet_v1,
    "shufflenet_v2": lambda: split_shufflenet_v2("shufflenet_v2_x1_0"),
    "shufflenet_v2_x2_0": lambda: split_shufflenet_v2("shufflenet_v2_x2_0"),
}


def split_backbone(name: str) -> BackboneParts:
    """The named backbone in two parts, freshly initialised.

    Args:
        name: of :data:`BACKBONES`; or ``"timm:NAME:STAGE"`` or ``"torchvision:NAME:STAGE"``, a model of that library
            and the first module of its last stage (:func:`split_model`).

    Raises:
        ValueError: for an unknown name.
        ImportError: for a backbone of a library that is not installed.

    >>> split_backbone("small").features
    128
    """
    if name in BACKBONES:
        return BACKBONES[name]()
    if ":" in name:
        return split_named(name)
    names = ", ".join(map(repr, BACKBONES))
    raise ValueError(f"backbone: expected one of {names}, or 'timm:NAME:STAGE', got {name!r}")
