"""The encoder: parameter counts, the layers as published, the latent code, layouts."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ferkit.blocks import EncoderOutput, VGGEncoder


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts(golden):
    data = golden("nfer_param_counts")
    for size, hidden, outputs in ((32, 512, 30), (64, 500, 9), (128, 500, 9)):
        assert count(VGGEncoder(size, outputs, hidden=hidden)) == data[f"encoder_{size}"]


@pytest.mark.parametrize("size, last", [(32, 1), (33, 2), (48, 2), (64, 2), (96, 3), (100, 4)])
def test_is_vgg_layer_by_layer(close, size, last):
    encoder = VGGEncoder(size, outputs=4, latent=6, hidden=40, width=0.125).double().eval()
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    convolutions = iter([layer for layer in encoder.convolutions if isinstance(layer, nn.Conv2d)])
    x = images
    for stage in (2, 2, 3, 3, 3):
        for _ in range(stage):
            x = F.relu(next(convolutions)(x))
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
    assert next(convolutions, None) is None and x.shape == (2, 64, last, last)
    linear = [layer for layer in encoder.trunk if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [8, 8]
    x = F.relu(linear[1](F.relu(linear[0](x.flatten(1)))))
    output = encoder(images)
    close(output.labels.detach(), encoder.labels(x).detach())
    close(output.mean.detach(), encoder.mean(x).detach())
    close(output.log_variance.detach(), encoder.log_variance(x).detach())
    assert [value.shape[1] for value in output] == [4, 6, 6]


def test_starts_from_the_released_deviation():
    encoder = VGGEncoder(width=1.0)
    convolutions = [layer for layer in encoder.convolutions if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    for layer in convolutions:
        deviation = math.sqrt(2 / (9 * layer.out_channels))
        spread = 6 * deviation / math.sqrt(2 * layer.weight.numel())  # six standard errors
        assert abs(layer.weight.std().item() - deviation) < spread
        assert layer.bias.count_nonzero() == 0


def test_dropout_is_elementwise_and_rests_in_eval():
    encoder = VGGEncoder(width=0.125, dropout=0.5)
    images = torch.randn(2, 3, 32, 32)
    assert [type(layer).__name__ for layer in encoder.trunk].count("Dropout") == 2
    assert not torch.equal(encoder(images).labels, encoder(images).labels)
    encoder.eval()
    assert torch.equal(encoder(images).labels, encoder(images).labels)


def test_without_a_latent_code():
    baseline = VGGEncoder(outputs=7, latent=0, width=0.125)
    output = baseline(torch.randn(2, 3, 32, 32))
    assert output.labels.shape == (2, 7) and output.mean is None and output.log_variance is None
    assert not any("mean" in name or "variance" in name for name, _ in baseline.named_parameters())
    with pytest.raises(ValueError, match="output: expected a mean and a log-variance"):
        baseline.sample(output, torch.zeros(2, 100))


def test_sample(close):
    mean, log_variance, noise = (torch.randn(3, 4, dtype=torch.float64) for _ in range(3))
    output = EncoderOutput(mean, mean, log_variance)
    close(VGGEncoder.sample(output, noise), mean + log_variance.exp().sqrt() * noise)
    close(VGGEncoder.sample(output, torch.zeros_like(noise)), mean)
    with pytest.raises(ValueError, match=re.escape("noise: expected shape (3, 4), got (3, 5)")):
        VGGEncoder.sample(output, torch.zeros(3, 5))


def test_layouts_and_copies(close):
    encoder = VGGEncoder(width=0.125).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    kept = images.clone()
    expected = encoder(images).labels.detach()
    last = copy.deepcopy(encoder).to(memory_format=torch.channels_last)
    close(last(images.contiguous(memory_format=torch.channels_last)).labels.detach(), expected)
    other = VGGEncoder(width=0.125).double().eval()
    other.load_state_dict(encoder.state_dict())
    close(other(images).labels.detach(), expected)
    assert torch.equal(images, kept)
    assert encoder(images[:0]).mean.shape == (0, 100)


def test_compiles_whole():
    torch._dynamo.reset()
    encoder = VGGEncoder(width=0.125).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(images), encoder(images)):
        torch.testing.assert_close(a, b)


ENCODER = VGGEncoder(width=0.125)
BAD = [
    (lambda: VGGEncoder(31), ValueError, "size: expected a value in [32, inf], got 31"),
    (lambda: VGGEncoder(outputs=0), ValueError, "outputs: expected a value in [1, inf], got 0"),
    (lambda: VGGEncoder(latent=-1), ValueError, "latent: expected a value in [0, inf], got -1"),
    (lambda: VGGEncoder(hidden=0), ValueError, "hidden: expected a value in [1, inf], got 0"),
    (lambda: VGGEncoder(dropout=1.5), ValueError, "dropout: expected a value in [0.0, 1.0], got 1.5"),
    (lambda: VGGEncoder(width=0), ValueError, "width: expected a value in (0.0, inf], got 0"),
    (lambda: ENCODER(torch.zeros(2, 3, 48, 48)), ValueError, "images: expected shape (N, 3, 32, 32)"),
    (lambda: ENCODER(torch.zeros(2, 3, 32, 32).byte()), TypeError, "images: expected a floating-point tensor"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message[:40] for _, _, message in BAD])
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
