"""torchvision's MobileNetV2, cut before its last two stages (which DMUE, appendix, copies for the branches)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from ferkit.blocks.backbones.parts import BackboneParts, torchvision_models

__all__ = ["split_mobilenet_v2"]

FIRST_OF_STAGE = 14  # the stages of 160 and 320 channels and the closing convolution: the last stride of 2 and beyond


def split_mobilenet_v2() -> BackboneParts:
    """Trunk (stem to the stage of 96 channels), the rest (to 1280 channels), its width, and the checkpoints' prefix.

    Source: Sandler et al., CVPR 2018, table 2.
    """
    model = torchvision_models("mobilenet_v2").mobilenet_v2(weights=None)
    parts = [(str(number), layer) for number, layer in enumerate(model.features)]
    # Both halves keep the numbers they have in torchvision's state dict, where all keys start with "features.".
    trunk = nn.Sequential(OrderedDict(features=nn.Sequential(OrderedDict(parts[:FIRST_OF_STAGE]))))
    stage = nn.Sequential(OrderedDict(parts[FIRST_OF_STAGE:]))
    return BackboneParts(trunk, stage, model.last_channel, "features.")
