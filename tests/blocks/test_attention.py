"""Self-attention: recorded values, and both paths against a loop over pixels."""

import copy
import re

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ferkit.blocks import SelfAttention2d


def make(channels=16, gamma=0.7, explicit=False):
    block = SelfAttention2d(channels, explicit).double()
    with torch.no_grad():
        block.gamma.fill_(gamma)
    return block.eval()


def by_loops(block, x):
    """Every query by itself, in plain sums."""
    weights = {name: getattr(block, name).weight.detach()[:, :, 0, 0] for name in ("theta", "phi", "g", "o")}
    result = x.clone()
    for image, out in zip(x, result):
        project = {name: torch.einsum("oc,chw->ohw", weights[name], image) for name in ("theta", "phi", "g")}
        pooled = {name: project[name].unfold(1, 2, 2).unfold(2, 2, 2).amax((3, 4)).flatten(1) for name in ("phi", "g")}
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                logits = project["theta"][:, row, column] @ pooled["phi"]
                share = logits.exp() / logits.exp().sum()
                out[:, row, column] += block.gamma.detach() * (weights["o"] @ (pooled["g"] @ share))
    return result


@pytest.mark.parametrize("explicit", [False, True])
def test_golden(golden, close, assign, explicit):
    data = golden("nfer_attention_c16_8x8")
    block = SelfAttention2d(16, explicit).double().eval()
    for name in ("theta", "phi", "g", "o"):
        assign(getattr(block, name), data, name)
        close(getattr(block, name).weight.detach(), data[f"{name}_w_eff"])
    with torch.no_grad():
        block.gamma.copy_(data["gamma"])
    x = data["x"].clone().requires_grad_()
    y = block(x)
    close(y.detach(), data["y"])
    (y * data["upstream"]).sum().backward()
    close(x.grad, data["grad_x"])
    close(block.gamma.grad, data["grad_gamma"])


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("shape", [(2, 8, 2, 4), (1, 20, 4, 4), (0, 8, 2, 2)])
def test_is_what_loops_give(explicit, shape):
    block = make(shape[1], explicit=explicit)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(block(x).detach(), by_loops(block, x), rtol=1e-11, atol=1e-12)


def test_the_gain_starts_at_zero():
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(SelfAttention2d(16)(x), x)


def test_fused_and_explicit_agree_in_value_and_every_gradient(close):
    fused = make()
    explicit = copy.deepcopy(fused)
    explicit.explicit = True
    upstream = torch.randn(2, 16, 6, 4, dtype=torch.float64)
    results = []
    for block in (fused, explicit):
        x = upstream.cos().requires_grad_()
        y = block(x)
        results.append([y.detach(), *torch.autograd.grad((y * upstream).sum(), [x, *block.parameters()])])
    assert len(results[0]) == 7
    for a, b in zip(*results):
        close(a, b)


def test_the_explicit_formula_differentiates_twice():
    block = make(8, explicit=True)
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(block, x)
    assert gradgradcheck(block, x)


@pytest.mark.parametrize("explicit", [False, True])
def test_layouts_and_inputs_untouched(close, explicit):
    block = make(explicit=explicit)
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64)
    kept = x.clone()
    expected = block(x).detach()
    close(block(x.contiguous(memory_format=torch.channels_last)).detach(), expected)
    close(block(x.transpose(2, 3).contiguous().transpose(2, 3)).detach(), expected)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("explicit", [False, True])
def test_autocast(explicit):
    block = make(64, explicit=explicit).float()
    x = torch.randn(2, 64, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        value = block(x)
    torch.testing.assert_close(value.float(), block(x), rtol=0, atol=0.05)


def test_compiles_whole():
    torch._dynamo.reset()
    block = make()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(compiled(x), block(x))


BLOCK = SelfAttention2d(16)
BAD = [
    (lambda: SelfAttention2d(7), ValueError, "channels: expected a value in [8, inf], got 7"),
    (lambda: SelfAttention2d(16.0), TypeError, "channels: expected an integer, got 16.0"),
    (lambda: BLOCK(torch.zeros(2, 8, 4, 4)), ValueError, "x: expected shape (N, 16, H, W), got (2, 8, 4, 4)"),
    (lambda: BLOCK(torch.zeros(2, 16, 4, 3)), ValueError, "x: expected even H and W"),
    (lambda: BLOCK(torch.zeros(2, 16, 5, 4)), ValueError, "x: expected even H and W"),
    (lambda: BLOCK(torch.zeros(2, 16, 4, 4, dtype=torch.uint8)), TypeError, "x: expected a floating-point tensor"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message[:40] for _, _, message in BAD])
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
