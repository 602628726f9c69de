"""torchvision's ResNets, cut before layer4 (DMUE, section 4.2: the last stage is copied for the branches)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["split_resnet"]


def split_resnet(name: str) -> tuple[nn.Module, nn.Module, int, str]:
    """Trunk (stem to layer3), last stage (layer4), its width, and the stage's prefix in ImageNet checkpoints."""
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(f'backbone {name!r} needs torchvision: pip install "ferkit[train]"') from error
    model = getattr(models, name)(weights=None)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    trunk = nn.Sequential(OrderedDict((part, getattr(model, part)) for part in names))
    return trunk, model.layer4, model.fc.in_features, "layer4."
