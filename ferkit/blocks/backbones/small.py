"""A four-stage ResNet under a million parameters, for 32 to 64 pixel faces on a CPU."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.blocks.backbones.parts import BackboneParts

__all__ = ["BasicBlock", "split_small"]

WIDTHS = (24, 48, 96, 128)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut (He et al., 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


def split_small() -> BackboneParts:
    """Trunk (stem and three blocks), last stage (one block), its width, and the stage's prefix."""
    a, b, c, d = WIDTHS
    trunk = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, a, 3, 2, 1, bias=False),
            bn1=nn.BatchNorm2d(a),
            relu=nn.ReLU(inplace=True),
            layer1=BasicBlock(a, a),
            layer2=BasicBlock(a, b, 2),
            layer3=BasicBlock(b, c, 2),
        )
    )
    stage = nn.Sequential(OrderedDict([("0", BasicBlock(c, d, 2))]))
    return BackboneParts(trunk, stage, d, "layer4.")
