"""torchvision's ShuffleNetV2, cut before its last stage; the closing convolution goes with the stage."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from ferkit.blocks.backbones.parts import BackboneParts, torchvision_models

__all__ = ["split_shufflenet_v2"]


def split_shufflenet_v2(name: str) -> BackboneParts:
    """Trunk (stem to stage3), the rest (stage4 and conv5), its width, and the checkpoints' prefix (none).

    Args:
        name: ``"shufflenet_v2_x0_5"``, ``"..._x1_0"``, ``"..._x1_5"`` or ``"..._x2_0"``.

    Source: Ma et al., ECCV 2018, table 5.
    """
    model = getattr(torchvision_models(name), name)(weights=None)
    trunk = OrderedDict((part, getattr(model, part)) for part in ("conv1", "maxpool", "stage2", "stage3"))
    stage = OrderedDict((part, getattr(model, part)) for part in ("stage4", "conv5"))
    return BackboneParts(nn.Sequential(trunk), nn.Sequential(stage), model.fc.in_features, "")
