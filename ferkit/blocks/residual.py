"""The residual block of the discriminator's image stream."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.blocks._spectral import spectral
from ferkit.checks import check_floating, check_number, check_shape

__all__ = ["ResidualBlock"]


class ResidualBlock(nn.Module):
    """Two spectrally normalised 3x3 convolutions and a shortcut, both average-pooled by 2 on request.

    [ReLU,] convolution, ReLU, convolution[, pool]; the shortcut takes the input as it came, through a 1x1 convolution
    where the channels change or the block pools. All convolutions have a bias.

    Args:
        in_channels: of the input.
        out_channels: of the output, and between the convolutions.
        preactivation: whether a ReLU comes first (every block but the first, which sees the image).
        downsample: average pooling by 2, of odd sizes too (rounded down).

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H, W), or H//2, W//2 with ``downsample``.

    Source: noisyFER, supplement, figure 2 (a); the released code, which is BigGAN's (Brock et al., ICLR 2019).

    >>> ResidualBlock(8, 12, downsample=True)(torch.zeros(2, 8, 8, 8)).shape
    torch.Size([2, 12, 4, 4])
    """

    taps: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, preactivation: bool = True, downsample: bool = False
    ) -> None:
        super().__init__()
        check_number(in_channels, "in_channels", 1, integer=True)
        check_number(out_channels, "out_channels", 1, integer=True)
        self.in_channels, self.preactivation, self.downsample = in_channels, preactivation, downsample
        self.conv1 = spectral(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.conv2 = spectral(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut: nn.Conv2d | None = None
        if downsample or in_channels != out_channels:
            self.shortcut = spectral(nn.Conv2d(in_channels, out_channels, 1))

        # what each tap of a 3x3 kernel adds to the 4x4 kernel that also averages 2x2
        taps = F.avg_pool2d(torch.eye(9).view(9, 1, 3, 3), 2, stride=1, padding=1)[:, 0]
        self.register_buffer("taps", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_floating(x, "x")
        check_shape(x, "x", ("N", self.in_channels, "H", "W"))
        if self.downsample and min(x.shape[2:]) < 2:
            raise ValueError(f"x: expected H and W of 2 or more to pool by 2, got {tuple(x.shape)}")
        hidden = F.relu(x) if self.preactivation else x
        hidden = F.relu(_convolve(hidden, self.conv1))
        if self.downsample:
            hidden = self._convolve_and_pool(hidden)
            x = F.avg_pool2d(x, 2)  # it commutes with the 1x1 convolution: a quarter of the work
        else:
            hidden = _convolve(hidden, self.conv2)
        return hidden + (x if self.shortcut is None else self.shortcut(x))

    def _convolve_and_pool(self, x: Tensor) -> Tensor:
        """The average of four shifted 3x3 convolutions is one 4x4 convolution of stride 2: 16 products for 36."""
        single = tuple(x.shape[2:]) == (2, 2)
        if min(x.shape[2:]) < 8 and not single:  # there the strided convolution's backward costs more than is saved
            return F.avg_pool2d(_convolve(x, self.conv2), 2)
        taps = self.taps[:, 1:3, 1:3] if single else self.taps  # the outer ones would meet padding only
        weight = self.conv2.weight.flatten(2) @ taps.flatten(1)
        weight = weight.view(*weight.shape[:2], *taps.shape[1:])
        return F.conv2d(x, weight, self.conv2.bias, stride=2, padding=0 if single else 1)

    def extra_repr(self) -> str:
        return f"preactivation={self.preactivation}, downsample={self.downsample}"


def _convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The 3x3 convolution with padding; of a single pixel the middle tap alone, as the others meet padding only."""
    if tuple(x.shape[2:]) == (1, 1):
        return F.conv2d(x, conv.weight[:, :, 1:2, 1:2], conv.bias)
    convolved: Tensor = conv(x)
    return convolved
