"""The discriminator's streams: recorded values, parameter counts, maps, layouts."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F

from ferkit.blocks import ImageStream, LabelStream


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_label_stream_golden(golden, close, assign):
    data = golden("nfer_label_stream")
    stream = LabelStream(7, width=16 / 512, form="released").double().eval()
    assert stream.features == 16
    assign(stream.mlp.input, data, "z_mlp_linear")
    for number, (first, second) in enumerate(zip(stream.mlp.first, stream.mlp.second)):
        assign(first, data, f"z_mlp_linear{2 * number + 1}")
        assign(second, data, f"z_mlp_linear{2 * number + 2}")
    assign(stream.score, data, "score_z")
    x = data["x"].clone().requires_grad_()
    features, score = stream(x)
    close(features.detach(), data["feat"])
    close(score.detach(), data["score"])
    ((features * data["upstream_feat"]).sum() + (score * data["upstream_score"]).sum()).backward()
    close(x.grad, data["grad_x"])


def test_parameter_counts(golden):
    data = golden("nfer_param_counts")
    for size in (32, 64, 128):
        assert count(ImageStream(size)) == data[f"disc_x_{size}"]
    for inputs in (100, 10, 7, 2):
        for form in ("paper", "released"):
            assert count(LabelStream(inputs, form=form)) == data[f"disc_lbl_{inputs}"]


@pytest.mark.parametrize(
    "size, maps",
    [(32, (16, 16, 8, 4, 2, 1, 1)), (64, (16, 16, 8, 4, 2, 1, 1)), (128, (32, 32, 16, 8, 4, 2, 2))],
)
def test_maps(size, maps):
    stream = ImageStream(size, width=0.125)
    seen = []
    for layer in stream.body:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2]))
    features, score = stream(torch.randn(2, 3, size, size))
    assert tuple(seen) == maps
    assert features.shape == (2, stream.features) == (2, 64) and score.shape == (2, 1)


def test_features_are_a_sum_over_the_map(close):
    stream = ImageStream(128, in_channels=1, width=0.125).double().eval()
    images = torch.randn(2, 1, 128, 128, dtype=torch.float64)
    features, score = stream(images)
    body = stream.body(F.avg_pool2d(images, 2))
    assert body.shape[2:] == (2, 2)
    close(features, body.clamp_min(0).flatten(2).sum(2))
    close(score, stream.score(features))


@pytest.mark.parametrize(
    "make", [lambda **o: ImageStream(32, width=0.125, **o), lambda **o: LabelStream(5, 0.125, **o)]
)
def test_without_a_score(make):
    stream, scored = make(score=False), make()
    x = torch.randn(2, 3, 32, 32) if isinstance(stream, ImageStream) else torch.randn(2, 5)
    features, score = stream(x)
    assert score is None and features.shape == (2, 64)
    assert count(scored) - count(stream) == 65


def test_layouts(close):
    stream = ImageStream(32, width=0.125).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected, _ = stream(images)
    last = copy.deepcopy(stream).to(memory_format=torch.channels_last)
    features, _ = last(images.contiguous(memory_format=torch.channels_last))
    close(features, expected)
    features, score = stream(images[:0])
    assert features.shape == (0, 64) and score.shape == (0, 1)


IMAGE = ImageStream(32, width=0.125)
BAD = [
    (lambda: ImageStream(48), ValueError, "size: expected a power of two of 32 or more, got 48"),
    (lambda: ImageStream(16), ValueError, "size: expected a power of two of 32 or more, got 16"),
    (lambda: ImageStream(32, 0), ValueError, "in_channels: expected a value in [1, inf], got 0"),
    (lambda: ImageStream(32, width=-1.0), ValueError, "width: expected a value in (0.0, inf], got -1.0"),
    (lambda: IMAGE(torch.zeros(2, 3, 64, 64)), ValueError, "images: expected shape (N, 3, 32, 32), got (2, 3, 64, 64)"),
    (lambda: IMAGE(torch.zeros(2, 3, 32, 32).byte()), TypeError, "images: expected a floating-point tensor"),
    (lambda: LabelStream(0), ValueError, "in_features: expected a value in [1, inf], got 0"),
    (lambda: LabelStream(3, form="x"), ValueError, "form: expected one of 'paper', 'released', got 'x'"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message[:40] for _, _, message in BAD])
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
