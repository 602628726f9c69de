"""Backbones cut before their last stage: one small adapter a family."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from ferkit.blocks.backbones.mobilenet import split_mobilenet_v2
from ferkit.blocks.backbones.resnet import split_resnet
from ferkit.blocks.backbones.small import split_small

__all__ = ["BACKBONES", "BackboneParts", "split_backbone"]


class BackboneParts(NamedTuple):
    """A backbone in two: ``stage(trunk(images))`` is its last feature map (N, features, h, w)."""

    trunk: nn.Module
    stage: nn.Module
    features: int
    stage_prefix: str  # what the stage's keys start with in a checkpoint of the whole backbone


# name -> function giving (trunk, stage, features, stage_prefix) with fresh weights
BACKBONES: dict[str, Callable[[], tuple[nn.Module, nn.Module, int, str]]] = {
    "small": split_small,
    "resnet18": lambda: split_resnet("resnet18"),
    "resnet34": lambda: split_resnet("resnet34"),
    "resnet50": lambda: split_resnet("resnet50"),
    "mobilenet_v2": split_mobilenet_v2,
}


def split_backbone(name: str) -> BackboneParts:
    """The named backbone in two parts, freshly initialised.

    Raises:
        ValueError: for an unknown name.
        ImportError: for a torchvision backbone without torchvision.

    >>> split_backbone("small").features
    128
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone: expected one of {', '.join(map(repr, BACKBONES))}, got {name!r}")
    return BackboneParts(*BACKBONES[name]())
