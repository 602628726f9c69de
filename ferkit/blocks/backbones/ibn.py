"""ResNet-50-IBN-a: instance normalisation on half of the channels in the shallow stages, batch on the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ferkit.blocks.backbones.parts import BackboneParts, torchvision_models
from ferkit.blocks.backbones.resnet import cut_resnet
from ferkit.checks import check_number

__all__ = ["InstanceBatchNorm", "split_resnet_ibn_a"]


class InstanceBatchNorm(nn.Module):
    r"""Instance normalisation of the first half of the channels, batch normalisation of the second.

    As many parameters as ``BatchNorm2d(channels)``; the first half keeps no running statistics and does the same in
    training and in evaluation.

    Args:
        channels: C.

    Shape:
        (N, C, H, W) -> the same; H and W not both 1.

    Source: Pan et al., ECCV 2018 (IBN-a); parameters are named as in its released code.

    >>> InstanceBatchNorm(6)(torch.zeros(2, 6, 4, 4)).shape
    torch.Size([2, 6, 4, 4])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_number(channels, "channels", 2, integer=True)
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        half = self.IN.num_features
        return torch.cat((self.IN(x[:, :half]), self.BN(x[:, half:])), dim=1)


def split_resnet_ibn_a(stages: int = 2) -> BackboneParts:
    """ResNet-50 whose blocks normalise so after their first convolution, in the first ``stages`` stages.

    Args:
        stages: how many of layer1 to layer4. 2 by default; 3 in the released code of Pan et al. and of DMUE, and needed
            for their checkpoints. The parameters are as many either way, and as many as ResNet-50's.

    Raises:
        ValueError: unless ``stages`` is 0 to 4.
        ImportError: without torchvision.

    Source: Pan et al., ECCV 2018 (IBN-a); She et al., CVPR 2021, table 3 ("Res-50IBN").
    """
    check_number(stages, "stages", 0, 4, integer=True)
    model = torchvision_models("resnet50_ibn_a").resnet50(weights=None)
    for number in range(1, stages + 1):
        for block in getattr(model, f"layer{number}"):
            block.bn1 = InstanceBatchNorm(block.bn1.num_features)
    return cut_resnet(model)
