"""The decoder: parameter counts, the layers as published, where normalisation goes, layouts."""

import copy
import re

import pytest
import torch
from torch import nn

from ferkit.blocks import DeconvDecoder


def test_parameter_counts(golden):
    data = golden("nfer_param_counts")
    for size, inputs in ((32, 130), (64, 109), (128, 109)):
        decoder = DeconvDecoder(size, inputs)
        assert sum(parameter.numel() for parameter in decoder.parameters()) == data[f"decoder_{size}"]


@pytest.mark.parametrize(
    "size, channels",
    [
        (32, [512, 512, 256, 128, 3]),
        (64, [512, 512, 256, 128, 64, 3]),
        (128, [512, 512, 512, 256, 128, 64, 3]),
        (256, [512, 512, 512, 512, 256, 128, 64, 3]),
    ],
)
def test_layers(size, channels):
    with torch.device("meta"):
        decoder = DeconvDecoder(size)
    layers = list(decoder.body)
    deconvolutions = [layer for layer in layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in deconvolutions] == channels
    assert [layer.num_features for layer in layers if isinstance(layer, nn.BatchNorm2d)] == channels[:-1]
    assert layers[-2] is deconvolutions[-1] and isinstance(layers[-1], nn.Tanh)
    for layer in (decoder.input[0], *deconvolutions):
        norm = layer.parametrizations.weight[0]
        assert norm._u.numel() == (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
        assert layer.bias is not None


@pytest.mark.parametrize("size", [32, 64, 128])
def test_images(size):
    decoder = DeconvDecoder(size, 7, width=0.02)
    images = decoder(10 * torch.randn(3, 7))
    assert images.shape == (3, 3, size, size)
    assert images.abs().max() <= 1
    assert decoder.eval()(torch.zeros(0, 7)).shape == (0, 3, size, size)


def test_is_the_formula(close):
    decoder = DeconvDecoder(32, 5, width=0.02).double().eval()
    z = torch.randn(2, 5, dtype=torch.float64)
    x = decoder.input[0](z).clamp_min(0)[:, :, None, None]
    layers = [layer for layer in decoder.body if isinstance(layer, nn.ConvTranspose2d)]
    norms = [layer for layer in decoder.body if isinstance(layer, nn.BatchNorm2d)]
    for layer, norm in zip(layers, norms):
        x = norm(nn.functional.conv_transpose2d(x, layer.weight, layer.bias, 2, 1)).clamp_min(0)
    close(
        decoder(z).detach(), nn.functional.conv_transpose2d(x, layers[-1].weight, layers[-1].bias, 2, 1).tanh().detach()
    )


def test_layouts_and_copies(close):
    decoder = DeconvDecoder(32, 5, width=0.05).double().eval()
    z = torch.randn(2, 5, dtype=torch.float64)
    expected = decoder(z).detach()
    close(copy.deepcopy(decoder).to(memory_format=torch.channels_last)(z).detach(), expected)
    other = DeconvDecoder(32, 5, width=0.05).double().eval()
    other.load_state_dict(decoder.state_dict())
    close(other(z).detach(), expected)


def test_compiles_whole():
    torch._dynamo.reset()
    decoder = DeconvDecoder(32, 5, width=0.05).double()
    twin = copy.deepcopy(decoder)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    z = torch.randn(4, 5, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(compiled(z), decoder(z))
    torch.testing.assert_close(dict(twin.named_buffers()), dict(decoder.named_buffers()))


DECODER = DeconvDecoder(32, 5, width=0.02)
BAD = [
    (lambda: DeconvDecoder(48), ValueError, "size: expected a power of two of 32 or more, got 48"),
    (lambda: DeconvDecoder(32, 0), ValueError, "in_features: expected a value in [1, inf], got 0"),
    (lambda: DeconvDecoder(32, width="1"), TypeError, "width: expected a number, got '1'"),
    (lambda: DECODER(torch.zeros(2, 6)), ValueError, "z: expected shape (N, 5), got (2, 6)"),
    (lambda: DECODER(torch.zeros(2, 5).long()), TypeError, "z: expected a floating-point tensor"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message[:40] for _, _, message in BAD])
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
