"""ShuffleNetV1: pointwise convolutions in groups, with the channels shuffled between them."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.blocks.backbones.parts import BackboneParts
from ferkit.checks import check_number

__all__ = ["ShuffleUnit", "shuffle_channels", "split_shufflenet_v1"]

STAGE_WIDTH = {3: 240, 8: 384}  # groups -> channels of stage 2 at 1x; stages 3 and 4 double them
STEM_WIDTH = 24
REPEATS = (4, 8, 4)


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Channel i*groups + j of (N, C, H, W) becomes channel j*C/groups + i: every group gets some of every other.

    The direction is the released code's, so that its checkpoints fit. Section 3.1 of the paper words the inverse; with
    it the network is the same but for the order of the channels inside a group.

    >>> shuffle_channels(torch.arange(6.0).view(1, 6, 1, 1), groups=3).flatten().tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    n, c, h, w = x.shape
    return x.reshape(n, c // groups, groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """Grouped pointwise, depthwise, shuffle, grouped pointwise, and a shortcut (figure 2b and c).

    With stride 2 the shortcut is a 3x3 average pooling, concatenated in place of added: only the other channels are
    computed. Parameters are named as in the released code.

    Args:
        inputs, outputs: channels; the inner ones are a quarter of ``outputs``.
        stride: 1 (with inputs = outputs) or 2.
        groups: of both pointwise convolutions.
        first: whether the first pointwise convolution is not grouped, as in the first unit of stage 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first: bool = False) -> None:
        super().__init__()
        inner, computed = outputs // 4, outputs - inputs if stride == 2 else outputs
        self.stride, self.groups = stride, groups
        self.branch_main_1 = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, groups=1 if first else groups, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
        )
        self.branch_main_2 = nn.Sequential(
            nn.Conv2d(inner, computed, 1, groups=groups, bias=False), nn.BatchNorm2d(computed)
        )

    def forward(self, x: Tensor) -> Tensor:
        # The depthwise convolution knows no groups: shuffling after it or before it (as drawn) is the same network.
        new = self.branch_main_2(shuffle_channels(self.branch_main_1(x), self.groups))
        if self.stride == 1:
            return F.relu(new + x, inplace=True)
        return F.relu(torch.cat((F.avg_pool2d(x, 3, 2, 1), new), dim=1), inplace=True)


def split_shufflenet_v1(groups: int = 3, width: int = 2) -> BackboneParts:
    """Trunk (stem to stage 3), last stage (four units), its width, and the checkpoints' prefix.

    Args:
        groups: 3 or 8; DMUE has 3.
        width: factor of every width, 1 or more; DMUE has 2: stages of 480, 960 and 1920 channels.

    Raises:
        ValueError: for other groups or widths.

    Source: Zhang et al., CVPR 2018, table 1; She et al., CVPR 2021, table 6.

    >>> split_shufflenet_v1().features
    1920
    """
    if groups not in STAGE_WIDTH:
        raise ValueError(f"groups: expected one of {', '.join(map(str, STAGE_WIDTH))}, got {groups!r}")
    check_number(width, "width", 1, integer=True)
    channels = STEM_WIDTH * width
    stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    units: list[nn.Module] = []
    for stage, repeats in enumerate(REPEATS):
        outputs = STAGE_WIDTH[groups] * width * 2**stage
        for repeat in range(repeats):
            units.append(ShuffleUnit(channels, outputs, 1 if repeat else 2, groups, first=not units))
            channels = outputs
    numbered = [(str(number), unit) for number, unit in enumerate(units)]
    cut = len(units) - REPEATS[-1]
    trunk = nn.Sequential(
        OrderedDict(
            first_conv=stem,
            maxpool=nn.MaxPool2d(3, 2, 1),
            features=nn.Sequential(OrderedDict(numbered[:cut])),
        )
    )
    return BackboneParts(trunk, nn.Sequential(OrderedDict(numbered[cut:])), channels, "features.")
