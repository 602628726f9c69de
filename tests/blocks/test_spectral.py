"""Spectral normalisation: recorded iterates, convergence, transposed convolutions, what training and eval do."""

import copy

import pytest
import torch
from torch import nn

from ferkit.blocks._spectral import make_orthogonal, spectral
from ferkit.blocks._width import check_power_of_two, scaled


def matrix(layer):
    weight = layer.parametrizations.weight.original.detach()
    return (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(1)


def test_recorded_iterates(golden, close):
    data = golden("nfer_spectral_norm")
    layer = spectral(nn.Linear(6, 5).double())
    norm = layer.parametrizations.weight
    with torch.no_grad():
        norm.original.copy_(data["weight"])
        layer.bias.copy_(data["bias"])
        norm[0]._u.copy_(data["u0"])
        norm[0]._v.copy_(data["v0"])
    for step in range(4):
        close(layer(data["x"]).detach(), data["y_after"][step])
        close(norm[0]._u, data["u_after"][step])
        close(norm[0]._u @ data["weight"] @ norm[0]._v, data["sigma_after"][step])
    for _ in range(200):
        layer(data["x"])
    close(norm[0]._u @ data["weight"] @ norm[0]._v, data["sigma_svd"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(7, 5),
        lambda: nn.Conv2d(3, 6, 3, bias=False),
        lambda: nn.ConvTranspose2d(3, 6, 4, 2, 1),
    ],
)
def test_the_largest_singular_value_becomes_one(make):
    layer = spectral(make().double())
    for _ in range(300):
        assert layer.weight is not None
    normalized = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        normalized = normalized.transpose(0, 1)
    norms = torch.linalg.matrix_norm(normalized.flatten(1), 2)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-6, atol=0)
    assert layer.parametrizations.weight[0]._u.shape == (matrix(layer).shape[0],)


def test_one_iteration_a_training_forward_and_none_in_eval():
    layer = spectral(nn.Linear(6, 5).double())
    norm = layer.parametrizations.weight[0]
    with torch.no_grad():
        norm._u.copy_(torch.ones(5) / 5**0.5)
    start, x = norm._u.clone(), torch.randn(2, 6, dtype=torch.float64)
    layer.eval()(x)
    assert torch.equal(norm._u, start)
    layer.train()(x)
    v = nn.functional.normalize(matrix(layer).T @ start, dim=0)
    torch.testing.assert_close(norm._u, nn.functional.normalize(matrix(layer) @ v, dim=0))


def test_gradient_passes_through_the_estimate():
    layer = spectral(nn.Linear(4, 3).double()).eval()
    original = layer.parametrizations.weight.original
    norm = layer.parametrizations.weight[0]
    upstream = torch.randn(3, 4, dtype=torch.float64)
    (actual,) = torch.autograd.grad((layer.weight * upstream).sum(), original)
    weight = original.detach().requires_grad_()
    (expected,) = torch.autograd.grad((weight / (norm._u @ weight @ norm._v) * upstream).sum(), weight)
    torch.testing.assert_close(actual, expected)


def test_backward_through_two_forwards():
    layer = spectral(nn.Linear(4, 3))
    x = torch.randn(2, 4)
    (layer(x).mean() - layer(2 * x).mean()).backward()
    assert layer.parametrizations.weight.original.grad.abs().sum() > 0


def test_autocast_leaves_the_estimate_in_full_precision():
    plain = spectral(nn.Linear(6, 5))
    cast = copy.deepcopy(plain)
    x = torch.randn(2, 6)
    plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert cast(x).dtype == torch.bfloat16
    assert torch.equal(plain.parametrizations.weight[0]._u, cast.parametrizations.weight[0]._u)


def test_state_dict_has_the_keys_of_torch():
    theirs = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5))
    ours = spectral(nn.Linear(6, 5))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_widths():
    assert [scaled(64, width) for width in (1.0, 0.5, 0.25, 0.01, 1.5)] == [64, 32, 16, 8, 96]
    assert scaled(500, 1.0) == 500 and scaled(500, 0.25) == 128
    with pytest.raises(ValueError, match="width: expected a value in"):
        scaled(64, 0.0)
    for size in (16, 48, 0, -32):
        with pytest.raises(ValueError, match=f"size: expected a power of two of 32 or more, got {size}"):
            check_power_of_two(size)
    with pytest.raises(TypeError, match="size: expected an integer"):
        check_power_of_two(32.0)


@pytest.mark.parametrize(
    "layer", [nn.Linear(64, 64), nn.Conv2d(8, 16, 3), nn.Conv2d(3, 40, 3), nn.ConvTranspose2d(8, 16, 4)]
)
def test_orthogonal_weights_are_normalised_from_the_start(layer):
    torch.manual_seed(0)
    layer = spectral(layer).eval()
    make_orthogonal(layer)
    dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    values = torch.linalg.svdvals(layer.weight.detach().transpose(0, dim).flatten(1).double())
    torch.testing.assert_close(values, torch.ones_like(values), rtol=1e-5, atol=1e-5)
