"""torchvision's ResNets, cut before layer4 (DMUE, section 4.2: the last stage is copied for the branches)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from ferkit.blocks.backbones.parts import BackboneParts, torchvision_models

__all__ = ["cut_resnet", "split_resnet"]


def split_resnet(name: str, released_stem: bool = False) -> BackboneParts:
    """Trunk (stem to layer3), last stage (layer4), its width, and the stage's prefix in ImageNet checkpoints.

    Args:
        name: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
        released_stem: the stem of DMUE's released ResNet-18, no ReLU after the first normalisation and a 2x2 pooling
            of stride 2, in place of He et al.'s; parameters, their names and the map's size are the same.

    Source: He et al., CVPR 2016, table 1.
    """
    model = getattr(torchvision_models(name), name)(weights=None)
    if released_stem:
        model.relu, model.maxpool = nn.Identity(), nn.MaxPool2d(2, 2)
    return cut_resnet(model)


def cut_resnet(model: Any) -> BackboneParts:
    """The parts of a network that is built and named as torchvision's ResNets."""
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    trunk = nn.Sequential(OrderedDict((part, getattr(model, part)) for part in names))
    return BackboneParts(trunk, model.layer4, model.fc.in_features, "layer4.")
