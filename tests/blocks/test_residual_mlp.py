"""Residual and MLP blocks: recorded values, and the cheaper forms against the formulas as they are written."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from ferkit.blocks import MLPBlock, ResidualBlock


def plain_residual(block, x):
    """The block as it is written: 3x3 convolutions, 1x1 shortcut, then the pools."""
    hidden = F.relu(x) if block.preactivation else x
    hidden = F.relu(F.conv2d(hidden, block.conv1.weight, block.conv1.bias, padding=1))
    hidden = F.conv2d(hidden, block.conv2.weight, block.conv2.bias, padding=1)
    short = x if block.shortcut is None else F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
    return F.avg_pool2d(hidden, 2) + F.avg_pool2d(short, 2) if block.downsample else hidden + short


def plain_mlp(block, x):
    h = F.linear(x, block.input.weight, block.input.bias)
    total = h if block.form == "released" else torch.zeros_like(h)
    for first, second in zip(block.first, block.second):
        inner = F.relu(F.linear(F.relu(h), first.weight, first.bias))
        total = total + F.linear(inner, second.weight, second.bias)
    return total


def gradients(block, function, x, upstream):
    x = x.clone().requires_grad_()
    y = function(x)
    return [y.detach(), *torch.autograd.grad((y * upstream(y)).sum(), [x, *block.parameters()])]


def test_residual_golden(golden, close, assign):
    data = golden("nfer_dblock_down")
    block = ResidualBlock(8, 12, bool(data["preactivation"]), bool(data["downsample"])).double().eval()
    for layer, name in ((block.conv1, "conv1"), (block.conv2, "conv2"), (block.shortcut, "conv_sc")):
        assign(layer, data, name)
    x = data["x"].clone().requires_grad_()
    y = block(x)
    close(y.detach(), data["y"])
    (y * data["upstream"]).sum().backward()
    close(x.grad, data["grad_x"])


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize(
    "channels, downsample, size",
    [
        ((3, 5), True, (8, 6)),
        ((5, 5), True, (4, 4)),
        ((5, 5), True, (9, 11)),
        ((5, 5), True, (2, 2)),
        ((5, 4), True, (2, 4)),
        ((5, 5), True, (5, 7)),
        ((5, 5), True, (3, 2)),
        ((5, 4), False, (4, 4)),
        ((5, 5), False, (3, 3)),
        ((5, 5), False, (1, 1)),
        ((5, 4), False, (1, 2)),
    ],
)
def test_residual_is_the_formula(close, preactivation, channels, downsample, size):
    block = ResidualBlock(*channels, preactivation, downsample).double().eval()
    x = torch.randn(2, channels[0], *size, dtype=torch.float64)
    kept = x.clone()
    upstream = torch.randn(2, channels[1], 8, 8, dtype=torch.float64)
    crop = lambda y: upstream[:, :, : y.shape[2], : y.shape[3]]  # noqa: E731
    actual = gradients(block, block, x, crop)
    expected = gradients(block, lambda x: plain_residual(block, x), x, crop)
    assert len(actual) == 2 + (6 if downsample or channels[0] != channels[1] else 4)
    for a, b in zip(actual, expected):
        close(a, b)
    assert torch.equal(x, kept)


def test_residual_differentiates_twice():
    for downsample, size in ((True, 4), (True, 2), (False, 1)):
        block = ResidualBlock(2, 2, downsample=downsample).double().eval()
        x = torch.randn(1, 2, size, size, dtype=torch.float64, requires_grad=True)
        assert gradcheck(block, x)
        assert gradgradcheck(block, x)


def test_residual_layouts_and_precision(close):
    block = ResidualBlock(8, 16, downsample=True).double().eval()
    x = torch.randn(2, 8, 8, 8, dtype=torch.float64)
    expected = block(x).detach()
    close(copy.deepcopy(block).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), expected)
    single = copy.deepcopy(block).float()
    torch.testing.assert_close(single(x.float()).double(), expected, rtol=1e-5, atol=1e-5)
    assert single(x[:0].float()).shape == (0, 16, 4, 4)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("sub_blocks", [1, 4])
def test_mlp_is_the_formula(close, form, sub_blocks):
    block = MLPBlock(5, 8, sub_blocks, form).double().eval()
    x = torch.randn(3, 5, dtype=torch.float64)
    upstream = torch.randn(3, 8, dtype=torch.float64)
    actual = gradients(block, block, x, lambda y: upstream)
    for a, b in zip(actual, gradients(block, lambda x: plain_mlp(block, x), x, lambda y: upstream)):
        close(a, b)
    assert len(actual) == 2 + 2 * (1 + 2 * sub_blocks)


def test_the_forms_differ_by_the_linear_skip(close):
    paper = MLPBlock(5, 8).double().eval()
    released = MLPBlock(5, 8, form="released").double().eval()
    released.load_state_dict(paper.state_dict())
    x = torch.randn(3, 5, dtype=torch.float64)
    close((released(x) - paper(x)).detach(), paper.input(x).detach())


def test_mlp_differentiates_twice():
    block = MLPBlock(3, 4).double().eval()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(block, x)
    assert gradgradcheck(block, x)


def test_each_layer_iterates_once_a_forward():
    """As if every layer had been called once, also where weights are joined."""
    for block, x in (
        (MLPBlock(5, 8), torch.randn(3, 5)),
        (ResidualBlock(4, 8, downsample=True), torch.randn(1, 4, 4, 4)),
    ):
        with torch.no_grad():
            for name, buffer in block.named_buffers():
                if name.endswith("_u"):
                    buffer.copy_(torch.ones_like(buffer) / buffer.numel() ** 0.5)
        twin = copy.deepcopy(block)
        block(x)
        for layer in twin.modules():
            if hasattr(layer, "parametrizations"):
                assert layer.weight is not None
        for (name, a), (_, b) in zip(block.named_buffers(), twin.named_buffers()):
            assert torch.equal(a, b), name


RESIDUAL, MLP = ResidualBlock(4, 8, downsample=True), MLPBlock(5, 8)
BAD = [
    (lambda: ResidualBlock(0, 8), ValueError, "in_channels: expected a value in [1, inf], got 0"),
    (lambda: ResidualBlock(4, 8.0), TypeError, "out_channels: expected an integer, got 8.0"),
    (lambda: RESIDUAL(torch.zeros(2, 3, 4, 4)), ValueError, "x: expected shape (N, 4, H, W), got (2, 3, 4, 4)"),
    (lambda: RESIDUAL(torch.zeros(2, 4, 1, 4)), ValueError, "x: expected H and W of 2 or more to pool by 2"),
    (lambda: RESIDUAL([1]), TypeError, "x: expected a torch.Tensor, got list"),
    (lambda: MLPBlock(5, 8, form="code"), ValueError, "form: expected one of 'paper', 'released', got 'code'"),
    (lambda: MLPBlock(5, 8, 0), ValueError, "sub_blocks: expected a value in [1, inf], got 0"),
    (lambda: MLP(torch.zeros(2, 4)), ValueError, "x: expected shape (N, 5), got (2, 4)"),
    (lambda: MLP(torch.zeros(2, 5, dtype=torch.int64)), TypeError, "x: expected a floating-point tensor"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message[:40] for _, _, message in BAD])
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
