"""The discriminator's streams: each turns one variable into a feature and a marginal score."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.blocks._spectral import spectral
from ferkit.blocks._width import check_power_of_two, scaled
from ferkit.blocks.attention import SelfAttention2d
from ferkit.blocks.mlp import MLPBlock
from ferkit.blocks.residual import ResidualBlock
from ferkit.checks import check_floating, check_number, check_shape

__all__ = ["FEATURES", "ImageStream", "LabelStream"]

FEATURES = 512


class ImageStream(nn.Module):
    """Residual blocks with one self-attention, summed over the image, and a score.

    Sizes above 32 are average-pooled by 2 first. Then blocks of 64 (no ReLU first), 128, 256, 512, 512 channels, each
    halving the map, self-attention after the first, a last block of 512, a ReLU and the **sum** over H and W.

    Args:
        size: H = W, a power of two of 32 or more; other sizes do not halve down to a last map and are refused.
        in_channels: of the images.
        width: scales every channel count (to a multiple of 8, at least 8).
        explicit: see `SelfAttention2d`.
        score: whether there is a marginal score.

    Shape:
        images (N, in_channels, size, size) -> features (N, F), score (N, 1) or None. ``features`` is F: 512 at width 1.

    Source: noisyFER, supplement, figure 1 (c), and its released code: 14,566,082 parameters at width 1, any size.

    >>> import torch
    >>> features, score = ImageStream(32, width=0.25)(torch.zeros(2, 3, 32, 32))
    >>> features.shape, score.shape
    (torch.Size([2, 128]), torch.Size([2, 1]))
    """

    def __init__(
        self, size: int, in_channels: int = 3, width: float = 1.0, explicit: bool = False, score: bool = True
    ) -> None:
        super().__init__()
        check_power_of_two(size)
        check_number(in_channels, "in_channels", 1, integer=True)
        self.size, self.in_channels = size, in_channels
        a, b, c, d = (scaled(channels, width) for channels in (64, 128, 256, FEATURES))
        self.features = d
        self.body = nn.Sequential(
            ResidualBlock(in_channels, a, preactivation=False, downsample=True),
            SelfAttention2d(a, explicit),
            ResidualBlock(a, b, downsample=True),
            ResidualBlock(b, c, downsample=True),
            ResidualBlock(c, d, downsample=True),
            ResidualBlock(d, d, downsample=True),
            ResidualBlock(d, d),
        )
        self.score = spectral(nn.Linear(d, 1)) if score else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        check_floating(images, "images")
        check_shape(images, "images", ("N", self.in_channels, self.size, self.size))
        if self.size > 32:
            images = F.avg_pool2d(images, 2)
        features = F.relu(self.body(images)).sum((2, 3))
        return features, None if self.score is None else self.score(features)

    def extra_repr(self) -> str:
        return f"size={self.size}, features={self.features}"


class LabelStream(nn.Module):
    """An `MLPBlock` over labels or noise, and a score.

    Args:
        in_features: of the input: noise, a one-hot row or logits, or continuous labels.
        width: scales the 512 features (to a multiple of 8, at least 8).
        form: ``"paper"`` or ``"released"``, see `MLPBlock`.
        score: whether there is a marginal score.

    Shape:
        x (N, in_features) -> features (N, F), score (N, 1) or None. ``features`` is F: 512 at width 1.

    Source: noisyFER, supplement, figures 1 (c) and 2 (c): 2,153,473 parameters for 100 inputs at width 1.

    >>> import torch
    >>> features, score = LabelStream(7)(torch.zeros(2, 7))
    >>> features.shape, score.shape
    (torch.Size([2, 512]), torch.Size([2, 1]))
    """

    def __init__(self, in_features: int, width: float = 1.0, form: str = "paper", score: bool = True) -> None:
        super().__init__()
        self.features = scaled(FEATURES, width)
        self.mlp = MLPBlock(in_features, self.features, form=form)
        self.score = spectral(nn.Linear(self.features, 1)) if score else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.mlp(x)
        return features, None if self.score is None else self.score(features)
