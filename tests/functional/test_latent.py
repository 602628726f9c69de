"""The latent distribution, its loss and the sharpening."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.functional import latent_distribution, latent_distribution_loss, sharpen


def mined(logits, labels, temperature):
    """Softmax, power, renormalise, insert: as the paper writes it."""
    classes, size, _ = logits.shape
    result = torch.zeros(size, classes, dtype=torch.float64)
    for n in range(size):
        label = int(labels[n])
        if label < 0:
            continue
        row = logits[label, n].tolist()
        p = [math.exp(value) for value in row]
        p = [value / sum(p) for value in p]
        q = [value ** (1 / temperature) for value in p]
        q = [value / sum(q) for value in q]
        q.insert(label, 0.0)
        result[n] = torch.tensor(q, dtype=torch.float64)
    return result


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(0, 8), classes=st.integers(2, 6), temperature=st.floats(0.3, 5.0))
def test_distribution_and_loss_equal_the_loops(seed, size, classes, temperature):
    generator = torch.Generator().manual_seed(seed)
    auxiliary = torch.randn(classes, size, classes - 1, generator=generator, dtype=torch.float64)
    logits = torch.randn(size, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, classes, (size,), generator=generator)
    q = latent_distribution(auxiliary, labels, temperature)
    torch.testing.assert_close(q, mined(auxiliary, labels, temperature), rtol=1e-9, atol=1e-12)
    for divisor, count in (("paper", classes - 1), ("released", classes)):
        values = []
        for n in range(size):
            p = logits[n].softmax(0)
            others = [k for k in range(classes) if k != labels[n]]
            values.append(sum((q[n, k] - p[k]) ** 2 for k in others) / count if labels[n] >= 0 else torch.tensor(0.0))
        expected = torch.stack([v.double() for v in values]) if values else torch.zeros(0, dtype=torch.float64)
        actual = latent_distribution_loss(logits, q, labels, divisor, reduction="none")
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
        labelled = max(int((labels >= 0).sum()), 1)
        mean = latent_distribution_loss(logits, q, labels, divisor)
        torch.testing.assert_close(mean, expected.sum() / labelled, rtol=1e-9, atol=1e-12)


def test_distribution_is_detached_and_reads_its_own_branch_only():
    logits = torch.randn(3, 4, 2, requires_grad=True)
    labels = torch.tensor([0, 1, 2, -1])
    q = latent_distribution(logits, labels)
    assert not q.requires_grad
    assert torch.equal(q[3], torch.zeros(3))
    assert torch.equal(q[torch.arange(3), labels[:3]], torch.zeros(3))
    torch.testing.assert_close(q[:3].sum(1), torch.ones(3))
    poisoned = torch.full((3, 4, 2), torch.nan)
    poisoned[labels[:3], torch.arange(3)] = logits.detach()[labels[:3], torch.arange(3)]
    assert torch.equal(latent_distribution(poisoned, labels), q)


def test_distribution_shows_nan():
    logits = torch.zeros(3, 2, 2)
    logits[1, 0] = torch.nan
    q = latent_distribution(logits, torch.tensor([1, 0]))
    assert q[0].isnan().sum() == 2
    assert q[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32(dtype):
    logits = torch.randn(3, 4, 2).to(dtype)
    labels = torch.tensor([0, 1, 2, 1])
    with torch.autocast("cpu", torch.bfloat16):
        q = latent_distribution(logits, labels)
        p = sharpen(logits, 0.5)
    assert q.dtype == p.dtype == torch.float32
    torch.testing.assert_close(q, latent_distribution(logits.float(), labels))


def test_class_weights():
    logits, q = torch.randn(6, 3, dtype=torch.float64), torch.rand(6, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, -1])
    by_class = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    plain = latent_distribution_loss(logits, q, labels, reduction="none")
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    expected = (plain * weight).sum() / weight.sum()
    torch.testing.assert_close(latent_distribution_loss(logits, q, labels, class_weight=by_class), expected)


def test_sharpen_flattens_above_one_along_any_dimension():
    logits = torch.randn(4, 5, dtype=torch.float64)
    for dim in (0, 1):
        torch.testing.assert_close(sharpen(logits, 1.0, dim), logits.softmax(dim))
        assert (sharpen(logits, 2.0, dim).amax(dim) < sharpen(logits, 1.0, dim).amax(dim)).all()
    torch.testing.assert_close(sharpen(torch.tensor([-2000.0, 0.0]), 0.1), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("dynamic", [True])
def test_compiles_whole_once_for_all_batch_sizes(dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(latent_distribution, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for size in (11, 17, 23):
        logits = torch.randn(4, size, 3)
        labels = torch.randint(-1, 4, (size,))
        with torch._dynamo.config.patch(error_on_recompile=size > 11):
            torch.testing.assert_close(compiled(logits, labels), latent_distribution(logits, labels))
