"""concordance, concordance_loss and CCCLoss: recorded values, reductions, weights, the empty set, bad input."""

import re

import pytest
import torch
from torch.autograd import gradcheck

import ferkit.functional as ff
from ferkit.losses import CCCLoss

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X + 0.5 * torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
W = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 0.3], dtype=torch.float64)
CONVENTIONS = ("population", "released")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_goldens(golden, close, convention):
    data = golden("nfer_ccc")
    prediction = data["pred"].clone().requires_grad_()
    ccc = ff.concordance(prediction, data["label"], convention=convention)
    close(ccc[0], data[f"ccc_valence_{convention}"])
    close(ccc[1], data[f"ccc_arousal_{convention}"])
    loss = CCCLoss(convention)(prediction, data["label"])
    close(loss, data[f"loss_{convention}"])
    loss.backward()
    close(prediction.grad, data[f"grad_{convention}"])
    close((1 - ccc.mean()).detach(), data[f"loss_{convention}"])


def test_identical_columns(golden, close):
    data = golden("nfer_ccc")
    same = ff.concordance(data["label"], data["label"], convention="released")
    close(same, data["ccc_released_of_identical"].expand(2))
    assert CCCLoss()(data["label"], data["label"]) == 0


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_reductions_agree(close, convention):
    values = CCCLoss(convention, "none")(X, Y, W)
    assert values.shape == (2,)
    close(CCCLoss(convention, "mean")(X, Y, W), values.mean())
    close(CCCLoss(convention, "sum")(X, Y, W), values.sum())
    close(1 - ff.concordance(X, Y, W, convention), values)
    close(ff.concordance(X, Y, W[:, None], convention), ff.concordance(X, Y, W, convention))
    kept = W != 0
    close(CCCLoss(convention)(X[kept], Y[kept], W[kept]), values.mean())


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("size", [0, 3])
def test_the_empty_set_is_a_connected_zero(reduction, size):
    x = torch.full((size, 2), torch.nan, requires_grad=True)
    y = torch.zeros(size, 2)
    value = CCCLoss(reduction=reduction)(x, y, torch.zeros(size) if size else None)
    assert value.requires_grad and torch.equal(value, torch.zeros_like(value))
    assert torch.equal(torch.autograd.grad(value.sum(), x)[0], torch.zeros(size, 2))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gradients_of_both_sides(reduction):
    def loss(x, y):
        return ff.concordance_loss(x, y, W, "released", reduction)

    assert gradcheck(loss, (X.clone().requires_grad_(), Y.clone().requires_grad_()))


def test_weights_get_no_gradient():
    weight = W.clone().requires_grad_()
    assert not ff.concordance_loss(X, Y, weight).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_gives_float32(dtype, autocast):
    x, y = X.to(dtype).requires_grad_(), Y.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = ff.concordance_loss(x, y, W.float())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), ff.concordance_loss(x.double(), y.double(), W), rtol=1e-5, atol=1e-6)
    assert torch.autograd.grad(value, x)[0].dtype == dtype
    assert ff.concordance(x.detach(), Y).dtype == torch.float64


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of PyTorch (no GPU)")
def test_reads_no_value_on_the_host_of_an_accelerator():
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(9, 2, device="cuda", requires_grad=True)
        for reduction in ("none", "mean", "sum"):
            value = ff.concordance_loss(x, x.detach(), torch.empty(9, device="cuda"), reduction=reduction)
            assert value.device.type == "cuda" and value.requires_grad


def test_repr_prints_every_setting():
    assert repr(CCCLoss("released", "sum")) == "CCCLoss(convention='released', reduction='sum')"


META = torch.zeros(6, 2, device="meta")
BAD = [
    (lambda: ff.concordance([1.0], Y), TypeError, "prediction: expected a torch.Tensor, got list"),
    (lambda: ff.concordance(X.long(), Y), TypeError, "prediction: expected a floating-point tensor"),
    (lambda: ff.concordance(X[:, 0], Y), ValueError, "prediction: expected shape (N, T), got (6,)"),
    (lambda: ff.concordance(X, Y[:3]), ValueError, "target: expected shape (6, 2), got (3, 2)"),
    (lambda: ff.concordance(X, META), ValueError, "target: expected device cpu, got meta"),
    (lambda: ff.concordance(X, Y, W[:2]), ValueError, "weight: expected shape (6,), got (2,)"),
    (lambda: ff.concordance(X, Y, META[:, 0]), ValueError, "weight: expected device cpu, got meta"),
    (lambda: ff.concordance(X, Y, W - 1), ValueError, "weight: expected values of 0 or more, got -1.0"),
    (lambda: ff.concordance(X, Y, W.long()), TypeError, "weight: expected a floating-point tensor"),
    (lambda: ff.concordance_loss(X, Y, W - 1), ValueError, "sample_weight: expected values of 0 or more, got -1.0"),
    (lambda: CCCLoss("paper"), ValueError, "convention: expected one of 'population', 'released', got 'paper'"),
    (lambda: CCCLoss(reduction="avg"), ValueError, "reduction: expected one of 'none', 'mean', 'sum', got 'avg'"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message[:40] for _, _, message in BAD])
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
