"""noisyFER's decoder: noise and labels to an image."""

from __future__ import annotations

from torch import Tensor, nn

from ferkit.blocks._spectral import spectral
from ferkit.blocks._width import check_power_of_two, scaled
from ferkit.checks import check_floating, check_number, check_shape

__all__ = ["DeconvDecoder"]


class DeconvDecoder(nn.Module):
    """A linear layer, then transposed convolutions that double the map, from 1x1 up to the image.

    Each is 4x4 of stride 2, with batch normalisation and ReLU after all but the last, which ends in tanh. The linear
    layer and every transposed convolution have a bias and are spectrally normalised.

    Args:
        size: H = W of the image, a power of two of 32 or more. Above 128, which is the largest published, the channels
            go on as from 64 to 128: one more layer of 512.
        in_features: width of the input, [noise, label blocks] in this order.
        width: scales every channel count (to a multiple of 8, at least 8).

    Shape:
        z (N, in_features) -> images (N, 3, size, size) in [-1, 1].

    Source: Zhang et al., WACV 2021, supplement, figure 1 (b), and its released code; with 130 inputs 11,087,491
    parameters for 32 pixels.

    >>> import torch
    >>> DeconvDecoder(32, in_features=109, width=0.25)(torch.randn(2, 109)).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(self, size: int = 32, in_features: int = 130, width: float = 1.0) -> None:
        super().__init__()
        check_power_of_two(size)
        check_number(in_features, "in_features", 1, integer=True)
        self.size, self.in_features = size, in_features
        channels = scaled(512, width)
        self.input = nn.Sequential(spectral(nn.Linear(in_features, channels)), nn.ReLU(inplace=True))
        layers: list[nn.Module] = []
        for outputs in _hidden_channels(size):
            outputs = scaled(outputs, width)
            layers += [_double(channels, outputs), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            channels = outputs
        self.body = nn.Sequential(*layers, _double(channels, 3), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        check_floating(z, "z")
        check_shape(z, "z", ("N", self.in_features))
        images: Tensor = self.body(self.input(z).unflatten(1, (-1, 1, 1)))
        return images

    def extra_repr(self) -> str:
        return f"size={self.size}, in_features={self.in_features}"


def _double(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return spectral(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1))


def _hidden_channels(size: int) -> list[int]:
    """Of all layers but the last, in the order of the layers.

    >>> _hidden_channels(32), _hidden_channels(64)
    ([512, 512, 256, 128], [512, 512, 256, 128, 64])
    """
    doublings = size.bit_length() - 1
    tail = [256, 128] if doublings == 5 else [256, 128, 64]
    return [512] * (doublings - 1 - len(tail)) + tail
