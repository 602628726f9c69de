"""noisyFER's encoder: VGG-16 without batch normalisation, giving labels and the parameters of a latent code."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ferkit.blocks._width import scaled
from ferkit.checks import check_floating, check_number, check_shape

__all__ = ["EncoderOutput", "VGGEncoder"]

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class EncoderOutput(NamedTuple):
    """What the encoder says of a batch; without a latent code the last two are None."""

    labels: Tensor  # (N, outputs): logits and continuous labels, as they are ordered outside
    mean: Tensor | None = None  # (N, latent)
    log_variance: Tensor | None = None  # (N, latent)


class VGGEncoder(nn.Module):
    """Images to labels, and to the mean and log-variance of a Gaussian latent code.

    Five stages of 3x3 convolutions (64, 64; 128, 128; 256 three times; 512 three times; 512 three times), each ended by
    max pooling by 2, rounded up; two fully connected layers with dropout; three linear heads.

    Args:
        size: H = W, 32 or more, any number: the last map is ceil(size/32) wide.
        outputs: width of the label head: the label sets' widths together.
        latent: width of the latent code; 0: none, the plain VGG baseline.
        hidden: width of the fully connected layers (published: 512 for CIFAR-10, 500 for faces).
        width: scales the channels and ``hidden`` (to a multiple of 8, at least 8).
        dropout: after each fully connected layer.

    Shape:
        images (N, 3, size, size) -> `EncoderOutput`.

    Source: Zhang et al., WACV 2021, supplement, figure 1 (a); 15,357,990 parameters as published for 32 pixels and 30
    outputs. Convolutions start from N(0, 2/(k·k·out)) and bias 0, as released.

    >>> encoder = VGGEncoder(32, outputs=9, width=0.25)
    >>> output = encoder(torch.zeros(2, 3, 32, 32))
    >>> output.labels.shape, encoder.sample(output, torch.randn(2, 100)).shape
    (torch.Size([2, 9]), torch.Size([2, 100]))
    """

    def __init__(
        self,
        size: int = 32,
        outputs: int = 30,
        latent: int = 100,
        hidden: int = 512,
        width: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_number(size, "size", 32, integer=True)
        check_number(outputs, "outputs", 1, integer=True)
        check_number(latent, "latent", 0, integer=True)
        check_number(hidden, "hidden", 1, integer=True)
        check_number(dropout, "dropout", 0.0, 1.0)
        self.size, self.latent = size, latent
        layers: list[nn.Module] = []
        channels = 3
        for stage in STAGES:
            for position, out in enumerate(stage):
                conv = nn.Conv2d(channels, scaled(out, width), 3, padding=1)
                channels = conv.out_channels
                nn.init.normal_(conv.weight, std=math.sqrt(2 / (9 * channels)))
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                layers.append(conv)
                if position == len(stage) - 1:  # before the ReLU, with which the maximum commutes: a quarter of it
                    layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
                layers.append(nn.ReLU(inplace=True))
        self.convolutions = nn.Sequential(*layers)
        inner = scaled(hidden, width)
        self.trunk = nn.Sequential(
            nn.Linear(channels * math.ceil(size / 32) ** 2, inner),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(inner, inner),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.labels = nn.Linear(inner, outputs)
        self.mean = nn.Linear(inner, latent) if latent else None
        self.log_variance = nn.Linear(inner, latent) if latent else None

    def forward(self, images: Tensor) -> EncoderOutput:
        return self.heads(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the heads see (N, F) of images (N, 3, size, size)."""
        check_floating(images, "images")
        check_shape(images, "images", ("N", 3, self.size, self.size))
        features: Tensor = self.trunk(self.convolutions(images).flatten(1))
        return features

    def heads(self, features: Tensor) -> EncoderOutput:
        """Labels and code of what ``features`` gave."""
        if self.mean is None or self.log_variance is None:
            return EncoderOutput(self.labels(features))
        return EncoderOutput(self.labels(features), self.mean(features), self.log_variance(features))

    @staticmethod
    def sample(output: EncoderOutput, noise: Tensor) -> Tensor:
        """The latent code (N, latent) for standard normal noise of that shape; its mean for a noise of 0."""
        if output.mean is None or output.log_variance is None:
            raise ValueError("output: expected a mean and a log-variance, got an encoder without a latent code")
        check_floating(noise, "noise")
        check_shape(noise, "noise", output.mean.shape)
        return output.mean + torch.exp(output.log_variance / 2) * noise

    def extra_repr(self) -> str:
        return f"size={self.size}, latent={self.latent}"
