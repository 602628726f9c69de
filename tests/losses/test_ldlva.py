"""LDLVA's loss modules and the centre loss: state, settings, steps, and the same value as the functions."""

import copy
import re

import pytest
import torch

import ferkit.functional as ff
from ferkit.losses import CenterLoss, LabelDistributionLoss, UncertaintyCenterLoss

W = torch.tensor([1.0, 2.0, 0.5])
LABELS = torch.tensor([0, 1, 2, 0, -1, 1])


def batch(seed=0, dim=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, dim, generator=generator), torch.rand(6, generator=generator)


@pytest.mark.parametrize(
    "loss, text",
    [
        (
            LabelDistributionLoss("cross-entropy", "distribution", 1e-10, "samples", W, "sum"),
            "LabelDistributionLoss(divergence='cross-entropy', detach='distribution', eps=1e-10, divisor='samples', "
            "class_weight=[1.0, 2.0, 0.5], reduction='sum')",
        ),
        (
            CenterLoss(3, 4, 0.25),
            "CenterLoss(num_classes=3, dim=4, rate=0.25, class_weight=None, reduction='mean', process_group=None)",
        ),
        (
            UncertaintyCenterLoss(3, 4, spread="sqrt-dim"),
            "UncertaintyCenterLoss(num_classes=3, dim=4, rate=0.5, inter_weight=0.1, spread='sqrt-dim', "
            "per_sample=True, terms='intra', updates='both', detach='certainty', class_weight=None, "
            "reduction='mean', process_group=None)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_repr_prints_every_setting(loss, text):
    assert repr(loss) == text


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_modules_are_the_functions(reduction):
    features, certainty = batch()
    logits, weight = batch(1, 3)
    d = batch(2, 3)[0].softmax(1)
    centers = batch(3)[0][:3]
    shared = {"sample_weight": weight, "class_weight": W, "reduction": reduction}
    towards = LabelDistributionLoss("cross-entropy", None, 1e-3, "samples", W, reduction)
    expected = ff.label_distribution_loss(logits, d, LABELS, "cross-entropy", None, 1e-3, "samples", **shared)
    assert torch.equal(towards(logits, d, LABELS, weight), expected)
    plain = CenterLoss(3, 4, class_weight=W, reduction=reduction)
    plain.centers.copy_(centers)
    assert torch.equal(plain(features, LABELS, weight), ff.center_loss(features, LABELS, centers, **shared))
    certain = UncertaintyCenterLoss(3, 4, class_weight=W, reduction=reduction)
    certain.centers.copy_(centers)
    expected = ff.uncertainty_center_loss(features, LABELS, certainty, centers, **shared)
    assert torch.equal(certain(features, LABELS, certainty, weight), expected)


def test_terms():
    features, certainty = batch()
    values = {}
    for terms in ("intra", "inter", "both"):
        loss = UncertaintyCenterLoss(3, 4, terms=terms, inter_weight=0.3)
        loss.centers.copy_(batch(3)[0][:3])
        values[terms] = loss(features, LABELS, certainty)
    torch.testing.assert_close(values["inter"], 0.3 * ff.inter_class_loss(loss.centers))
    torch.testing.assert_close(values["both"], values["intra"] + values["inter"])


def test_centres_start_at_zero_and_are_state_but_no_parameters():
    for loss in (CenterLoss(3, 4), UncertaintyCenterLoss(3, 4)):
        assert list(loss.parameters()) == []
        assert list(loss.state_dict()) == ["centers"]
        assert torch.equal(loss.centers, torch.zeros(3, 4))
    features, certainty = batch()
    loss.update_centers(features, LABELS, certainty)
    again = UncertaintyCenterLoss(3, 4)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.centers, loss.centers) and loss.centers.abs().sum() > 0
    assert torch.equal(again(features, LABELS, certainty), loss(features, LABELS, certainty))
    assert loss.double().centers.dtype == torch.float64


def released_step(centers, features, labels, certainty):
    """Both updates as the fact sheet has them, by loops."""
    size, (classes, dim) = len(labels), centers.shape
    new = centers.clone()
    for j in range(classes):
        members = [m for m in range(size) if labels[m] == j]
        g = sum((-certainty[m] * (features[m] - centers[j]) for m in members), torch.zeros_like(centers[j]))
        new[j] = centers[j] - 0.5 * g / (len(members) + 1) / size
    new.requires_grad_()
    near = sum(
        torch.exp(-(new[i] - new[j]).square().sum() / dim) for i in range(classes) for j in range(i + 1, classes)
    )
    return (new - 0.5 * 0.1 * torch.autograd.grad(near, new)[0]).detach()


def test_ten_released_steps():
    loss = UncertaintyCenterLoss(3, 4).double()
    centers = torch.zeros(3, 4, dtype=torch.float64)
    for seed in range(10):
        features, certainty = (value.double() for value in batch(seed))
        labels = LABELS.clamp_min(0)
        centers = released_step(centers, features, labels, certainty)
        loss.update_centers(features, labels, certainty)
        torch.testing.assert_close(loss.centers, centers, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("updates", ["intra", "inter", "both"])
def test_updates_are_the_steps(updates):
    features, certainty = batch()
    loss = UncertaintyCenterLoss(3, 4, 0.4, 0.2, "sqrt-dim", per_sample=False, updates=updates)
    start = batch(3)[0][:3]
    loss.centers.copy_(start)
    loss.update_centers(features, LABELS, certainty)
    expected = start
    if updates != "inter":
        expected = ff.intra_class_step(expected, features, LABELS, certainty, 0.4)
    if updates != "intra":
        expected = ff.inter_class_step(expected, 0.4 * 0.2, "sqrt-dim")
    torch.testing.assert_close(loss.centers, expected)


def test_the_step_between_forward_and_backward_changes_no_gradient():
    features, certainty = batch()
    for loss, extra in ((CenterLoss(3, 4), ()), (UncertaintyCenterLoss(3, 4), (certainty,))):
        loss.centers.copy_(batch(3)[0][:3])
        leaf = features.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf, LABELS, *extra), leaf)
        value = loss(leaf, LABELS, *extra)
        before = copy.deepcopy(loss.centers)
        loss.update_centers(leaf, LABELS, *extra)
        assert not torch.equal(loss.centers, before) and not loss.centers.requires_grad
        assert torch.equal(torch.autograd.grad(value, leaf)[0], expected)


def test_centre_loss_settles_on_the_means():
    features, _ = batch()
    loss = CenterLoss(3, 4, reduction="sum")
    for _ in range(200):
        loss.update_centers(features, LABELS)
    means = torch.stack([features[j == LABELS].mean(0) for j in range(3)])
    torch.testing.assert_close(loss.centers, means, rtol=1e-5, atol=1e-5)


def test_modules_compile_whole():
    for loss, extra in ((CenterLoss(3, 4), ()), (UncertaintyCenterLoss(3, 4, terms="both"), (batch()[1],))):
        torch._dynamo.reset()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
        torch.testing.assert_close(compiled(batch()[0], LABELS, *extra), loss(batch()[0], LABELS, *extra))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: CenterLoss(0, 4), ValueError, "num_classes: expected a value in [1, inf], got 0"),
        (lambda: CenterLoss(3, 4.0), TypeError, "dim: expected an integer, got 4.0"),
        (lambda: CenterLoss(3, 4, 1.5), ValueError, "rate: expected a value in [0.0, 1.0], got 1.5"),
        (lambda: CenterLoss(4, 4, class_weight=W), ValueError, "class_weight: expected shape (4,), got (3,)"),
        (lambda: CenterLoss(3, 4, reduction="avg"), ValueError, "reduction: expected one of"),
        (lambda: UncertaintyCenterLoss(3, 4, terms="all"), ValueError, "terms: expected one of 'intra', 'inter'"),
        (lambda: UncertaintyCenterLoss(3, 4, updates="x"), ValueError, "updates: expected one of 'intra', 'inter'"),
        (
            lambda: UncertaintyCenterLoss(3, 4, terms="both", reduction="none"),
            ValueError,
            "terms: expected 'intra' with reduction='none', got 'both'",
        ),
        (lambda: UncertaintyCenterLoss(3, 4, spread="x"), ValueError, "spread: expected one of 'dim', 'sqrt-dim'"),
        (lambda: UncertaintyCenterLoss(3, 4, detach="x"), ValueError, "detach: expected None or 'certainty'"),
        (lambda: UncertaintyCenterLoss(3, 4, inter_weight=-1), ValueError, "inter_weight: expected a value in [0.0"),
        (lambda: LabelDistributionLoss("js"), ValueError, "divergence: expected one of 'kl', 'cross-entropy'"),
        (lambda: LabelDistributionLoss(detach="x"), ValueError, "detach: expected None or 'distribution', got 'x'"),
        (lambda: LabelDistributionLoss(divisor="x"), ValueError, "divisor: expected one of 'weights', 'samples'"),
        (lambda: LabelDistributionLoss(eps=2.0), ValueError, "eps: expected a value in [0.0, 1.0], got 2.0"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
