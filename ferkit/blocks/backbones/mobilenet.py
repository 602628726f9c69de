"""torchvision's MobileNetV2, cut before its last two stages (which DMUE, section 4.2, copies for the branches)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["split_mobilenet_v2"]

FIRST_OF_STAGE = 14  # the stages of 160 and 320 channels and the closing convolution: the last stride of 2 and beyond


def split_mobilenet_v2() -> tuple[nn.Module, nn.Module, int, str]:
    """Trunk (stem to the stage of 96 channels), the rest (to 1280 channels), its width, and the checkpoints' prefix.

    Source: Sandler et al., CVPR 2018, table 2.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError("backbone 'mobilenet_v2' needs torchvision: pip install \"ferkit[train]\"") from error
    model = models.mobilenet_v2(weights=None)
    parts = [(str(number), layer) for number, layer in enumerate(model.features)]
    # Both halves keep the numbers they have in torchvision's state dict, where all keys start with "features.".
    trunk = nn.Sequential(OrderedDict(features=nn.Sequential(OrderedDict(parts[:FIRST_OF_STAGE]))))
    stage = nn.Sequential(OrderedDict(parts[FIRST_OF_STAGE:]))
    return trunk, stage, model.last_channel, "features."
