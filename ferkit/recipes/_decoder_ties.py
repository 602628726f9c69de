"""What ties noisyFER's decoder to images and labels beside the game: images put back together, labels read back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ferkit.blocks import VGGEncoder
from ferkit.recipes._game import frozen

__all__ = ["DecoderTies", "decoded_labels", "reconstruction_terms"]


class DecoderTies(NamedTuple):
    """The weights of the terms, by their names among the losses."""

    reconstruction: float = 0.0
    code_divergence: float = 0.0
    label_cycle: float = 0.0

    @property
    def any(self) -> bool:
        return self.reconstruction > 0 or self.label_cycle > 0

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of the terms, each times its weight; one without a weight takes no part, finite or not."""
        weighed = {name: getattr(self, name) for name in terms}
        return torch.stack([weight * terms[name] for name, weight in weighed.items() if weight > 0]).sum()


def reconstruction_terms(
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
    with statistics_kept(decoder):
        reconstructed = decoder(torch.cat([encoder.sample(output, noise), labels], 1))
    if mean.dtype in (torch.float16, torch.bfloat16):  # small differences of numbers near 1
        mean, log_variance = mean.float(), log_variance.float()
    divergence = (mean.square() + torch.expm1(log_variance) - log_variance).sum(1).mean() / 2
    return {"reconstruction": (reconstructed - images).square().mean(), "code_divergence": divergence}


def decoded_labels(encoder: nn.Module, images: Tensor) -> Tensor:
    """The labels (N, L) that the encoder reads off the decoder's images; the gradient is the images' alone."""
    with frozen(encoder), evaluating(encoder):  # without dropout, as it predicts
        labels: Tensor = encoder(images).labels
    return labels


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module and all in it in ``eval()``, each as it was afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch, whose running statistics stay those of other batches: of noise, here."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
