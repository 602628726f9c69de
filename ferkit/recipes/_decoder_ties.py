"""What ties noisyFER's decoder to images and labels beside the game: images put back together, labels read back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ferkit.blocks import VGGEncoder
from ferkit.recipes._game import frozen

__all__ = ["DecoderTies", "put_back", "read_back"]


class DecoderTies(NamedTuple):
    """The weights of the terms, by their names among the losses."""

    reconstruction: float = 0.0
    code_divergence: float = 0.0
    label_cycle: float = 0.0

    @property
    def hold(self) -> bool:
        return self.reconstruction > 0 or self.label_cycle > 0

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of the terms, each times its weight."""
        return torch.stack([getattr(self, name) * value for name, value in terms.items()]).sum()


def put_back(
    decoder: nn.Module, encoder: VGGEncoder, features: Tensor, noise: Tensor, labels: Tensor, images: Tensor
) -> dict[str, Tensor]:
    """How far the decoder's image of each code and labels is from the image they are of, and the code from noise.

    Args:
        features: (N, F) the encoder's of ``images``; no gradient goes into them, for what puts an image back is not
            what tells its labels.
        noise: (N, D) of the code.
        labels: (N, L).
        images: (N, 3, H, W) in [-1, 1].
    """
    output = encoder.heads(features.detach())
    mean, log_variance = output.mean, output.log_variance
    assert mean is not None and log_variance is not None
    again = decoder(torch.cat([encoder.sample(output, noise), labels], 1))
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
    return {"reconstruction": (again - images).square().mean(), "code_divergence": divergence}


def read_back(encoder: nn.Module, images: Tensor) -> Tensor:
    """The labels (N, L) that the encoder reads off the decoder's images; the gradient is the images' alone."""
    training = encoder.training
    encoder.eval()  # the decoder is to please the encoder that predicts, without dropout
    with frozen(encoder):
        labels: Tensor = encoder(images).labels
    encoder.train(training)
    return labels
