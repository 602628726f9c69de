"""Past 2^31 numbers: a batch of copies of a small one, whose results are known from it; skipped where memory lacks."""

import pytest
import torch

from ferkit import ops

GIB = 1 << 30


@pytest.fixture(autouse=True)
def room():
    """What this device can hold decides; a test that runs out of memory is skipped, not failed."""
    torch.cuda.empty_cache()
    try:
        yield
    except torch.OutOfMemoryError as problem:
        pytest.skip(f"not enough memory: {str(problem).splitlines()[0]}")
    finally:
        torch.cuda.empty_cache()


def needs(gibibytes):
    free = torch.cuda.mem_get_info()[0] / GIB
    if free < gibibytes:
        pytest.skip(f"needs {gibibytes} GiB of GPU memory, {free:.0f} are free")


def close(got, want, tolerance):
    scale = want.double().abs().max().clamp_min(1e-30)
    assert float((got.double() - want.double()).abs().max() / scale) <= tolerance


def test_class_similarity():
    needs(24)
    base, copies, classes = 1024, 4100, 4
    torch.manual_seed(0)
    features = torch.randn(base, 512, device="cuda", dtype=torch.bfloat16)
    labels = torch.arange(base, device="cuda") % classes
    upstream = torch.randn(base, classes, device="cuda", dtype=torch.bfloat16)
    small = features.double().requires_grad_()
    want = ops.class_similarity(small, labels, classes)[0]
    want_gradient = torch.autograd.grad(want, small, upstream.double())[0]

    large = features.repeat(copies, 1).requires_grad_()
    assert large.numel() > 2**31
    mean = ops.class_similarity(large, labels.repeat(copies), classes)[0]
    gradient = torch.autograd.grad(mean, large, upstream.repeat(copies, 1))[0]
    for start in (0, base * (copies // 2), base * (copies - 1)):
        close(mean[start : start + base], want, 2e-2)
        close(gradient[start : start + base], want_gradient, 2e-2)


def test_scaled_cross_entropy():
    needs(24)
    base, copies = 1 << 16, 4097
    torch.manual_seed(0)
    logits = torch.randn(base, 8, device="cuda", dtype=torch.bfloat16)
    scale, labels = torch.rand(base, device="cuda", dtype=torch.bfloat16), torch.arange(base, device="cuda") % 8
    small = logits.double().requires_grad_()
    want = ops.scaled_cross_entropy(small, scale.double(), labels)
    want_gradient = torch.autograd.grad(want.sum(), small)[0]

    large = logits.repeat(copies, 1).requires_grad_()
    assert large.numel() > 2**31
    loss = ops.scaled_cross_entropy(large, scale.repeat(copies), labels.repeat(copies))
    gradient = torch.autograd.grad(loss, large, torch.ones_like(loss))[0]
    for start in (0, base * (copies - 1)):
        close(loss[start : start + base], want, 2e-2)
        close(gradient[start : start + base], want_gradient, 2e-2)


def test_concordance():
    needs(48)
    base, copies = 1 << 16, 16400
    torch.manual_seed(0)
    prediction, target = (torch.rand(base, 2, device="cuda") for _ in range(2))
    small = prediction.double().requires_grad_()
    want = ops.concordance(small, target.double())
    want_gradient = torch.autograd.grad(want.sum(), small)[0]

    large = prediction.repeat(copies, 1).requires_grad_()
    assert large.numel() > 2**31
    value = ops.concordance(large, target.repeat(copies, 1))
    gradient = torch.autograd.grad(value.sum(), large)[0]
    close(value, want, 1e-4)
    for start in (0, base * (copies - 1)):
        close(gradient[start : start + base] * copies, want_gradient, 1e-3)


def test_neighbor_divergence():
    needs(32)
    base, copies = 1 << 14, 2050
    torch.manual_seed(0)
    logits = torch.randn(base, 8, device="cuda", dtype=torch.bfloat16)
    neighbors = torch.randn(base, 8, 8, device="cuda", dtype=torch.bfloat16)
    weight = torch.rand(base, 8, device="cuda", dtype=torch.bfloat16)
    small = logits.double().requires_grad_()
    want = ops.neighbor_divergence(small, neighbors.double(), weight.double())
    want_gradient = torch.autograd.grad(want.sum(), small)[0]

    many = neighbors.repeat(copies, 1, 1)
    assert many.numel() > 2**31
    large = logits.repeat(copies, 1).requires_grad_()
    loss = ops.neighbor_divergence(large, many, weight.repeat(copies, 1))
    gradient = torch.autograd.grad(loss, large, torch.ones_like(loss))[0]
    for start in (0, base * (copies - 1)):
        close(loss[start : start + base], want, 2e-2)
        close(gradient[start : start + base], want_gradient, 3e-2)


def test_similarity_preserving_branches():
    """Many branches: the offset of a branch passes 2^31, a row's does not."""
    needs(48)
    base, copies, branches, width = 1024, 33, 1025, 64
    torch.manual_seed(0)
    target = torch.randn(base, width, device="cuda", dtype=torch.bfloat16)
    one = torch.randn(base, width, device="cuda", dtype=torch.bfloat16)
    mask = torch.ones(1, base, dtype=torch.bool, device="cuda")
    want = ops.similarity_preserving(target.double(), one.double()[None], mask, form="factored")[0]

    # Copies of every row divide the loss by their number: N_i^2 grows with its square, the sum with the number itself.
    auxiliary = one.repeat(copies, 1).expand(branches, -1, -1).contiguous().requires_grad_()
    assert auxiliary.numel() > 2**31
    every = torch.ones(branches, base * copies, dtype=torch.bool, device="cuda")
    loss = ops.similarity_preserving(target.repeat(copies, 1), auxiliary, every, form="factored")
    close(loss, want.expand(branches) / copies, 2e-2)
    gradient = torch.autograd.grad(loss.sum(), auxiliary)[0]
    assert torch.equal(gradient[0], gradient[-1]) and float(gradient[-1].abs().max()) > 0


def test_similarity_preserving_gram():
    """The N x N matrices themselves pass 2^31."""
    needs(100)
    rows, width = 46350, 16
    torch.manual_seed(0)
    target = torch.randn(rows, width, device="cuda", requires_grad=True)
    auxiliary = torch.randn(1, rows, width, device="cuda", requires_grad=True)
    mask = torch.ones(1, rows, dtype=torch.bool, device="cuda")
    results = []
    for form, dtype in (("gram", torch.float32), ("factored", torch.float64)):
        parts = [part.detach().to(dtype).requires_grad_() for part in (target, auxiliary)]
        loss = ops.similarity_preserving(*parts, mask, form=form)
        results.append([loss.detach(), *torch.autograd.grad(loss, parts, torch.ones_like(loss))])
    for got, want in zip(*results):
        close(got, want, 1e-3)
