"""msp_loss and similarity_preserving_loss: by loops, weights, absent classes, relabelling, detached sides, accuracy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.functional import msp_loss, similarity_preserving_loss

NORMALIZE = ["batch", "subset"]
FORMS = ["gram", "factored"]


def batch(size, classes, seed=0, wide=6, narrow=4):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(size, wide, generator=generator, dtype=torch.float64)
    auxiliary = torch.randn(classes, size, narrow, generator=generator, dtype=torch.float64)
    return target, auxiliary, torch.randint(-1, classes, (size,), generator=generator)


def normalized(rows):
    """Row-normalised Gram matrix of a list of rows, by loops."""
    gram = [[sum(x * y for x, y in zip(a, b)) for b in rows] for a in rows]
    norms = [sum(value * value for value in row) ** 0.5 for row in gram]
    return [[value / norm if norm > 0 else 0.0 for value in row] for row, norm in zip(gram, norms)]


def by_loops(target, auxiliary, labels, normalize):
    kept = [n for n in range(len(labels)) if labels[n] >= 0]
    target, labels = target[kept].tolist(), labels[kept].tolist()
    losses = []
    for branch, features in enumerate(auxiliary[:, kept].tolist()):
        members = [n for n in range(len(labels)) if labels[n] != branch]
        if normalize == "subset":
            first, second = ([rows[n] for n in members] for rows in (target, features))
            pairs = [(q, p) for q in range(len(members)) for p in range(len(members))]
        else:
            first, second = target, features
            pairs = [(q, p) for q in members for p in members]
        first, second = normalized(first), normalized(second)
        total = sum((first[q][p] - second[q][p]) ** 2 for q, p in pairs)
        losses.append(total / len(members) ** 2 if members else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.integers(0, 9),
    classes=st.integers(1, 5),
    normalize=st.sampled_from(NORMALIZE),
    form=st.sampled_from(FORMS),
)
def test_msp_equals_the_loops(seed, size, classes, normalize, form):
    target, auxiliary, labels = batch(size, classes, seed)
    if size > 1:
        target[1] = 0
    expected = by_loops(target, auxiliary, labels, normalize)
    value = msp_loss(target, auxiliary, labels, normalize, form, reduction="none")
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    mean = msp_loss(target, auxiliary, labels, normalize, form)
    torch.testing.assert_close(mean, expected.mean(), rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), normalize=st.sampled_from(NORMALIZE), form=st.sampled_from(FORMS))
def test_names_of_classes_and_one_scale_per_branch_do_not_matter(seed, normalize, form):
    target, auxiliary, labels = batch(8, 4, seed)
    generator = torch.Generator().manual_seed(seed)
    names = torch.randperm(4, generator=generator)
    renamed = torch.where(labels < 0, labels, names[labels.clamp_min(0)])
    moved = torch.empty_like(auxiliary)
    moved[names] = auxiliary
    scales = torch.rand(4, 1, 1, generator=generator, dtype=torch.float64) * 100 + 0.01
    expected = msp_loss(target, auxiliary, labels, normalize, form, reduction="none")
    value = msp_loss(7 * target, scales * moved, renamed, normalize, form, reduction="none")
    torch.testing.assert_close(value[names], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_branch_without_samples_counts_as_zero(normalize, form):
    target, auxiliary, _ = batch(5, 3)
    labels = torch.full((5,), 1)
    values = msp_loss(target, auxiliary, labels, normalize, form, reduction="none")
    assert values[1] == 0
    torch.testing.assert_close(msp_loss(target, auxiliary, labels, normalize, form), (values[0] + values[2]) / 3)


@pytest.mark.parametrize("form", FORMS)
def test_weights_weigh_pairs(form):
    target, auxiliary, labels = batch(8, 3)
    weight = torch.rand(8, dtype=torch.float64) + 0.1
    value = msp_loss(target, auxiliary, labels, sample_weight=weight, form=form, reduction="none")
    kept = labels >= 0
    first, others, weight, labels = target[kept], auxiliary[:, kept], weight[kept], labels[kept]
    first = torch.tensor(normalized(first.tolist()), dtype=torch.float64)
    for branch in range(3):
        second = torch.tensor(normalized(others[branch].tolist()), dtype=torch.float64)
        w = torch.where(labels != branch, weight, 0)
        expected = (torch.outer(w, w) * (first - second) ** 2).sum() / w.sum() ** 2
        torch.testing.assert_close(value[branch], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_excluded_samples_move_the_batch_norms_only(normalize, form):
    target, auxiliary, _ = batch(6, 3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    auxiliary.requires_grad_()
    (gradient,) = torch.autograd.grad(msp_loss(target, auxiliary, labels, normalize, form), auxiliary)
    own = torch.stack([gradient[j][labels == j] for j in range(3)])
    if normalize == "subset":
        assert torch.equal(own, torch.zeros_like(own))
    else:
        assert (own != 0).all()


@pytest.mark.parametrize("side", ["target", "auxiliary"])
def test_detached_side_gets_no_gradient_and_the_other_its_own(side):
    target, auxiliary, labels = batch(6, 3)
    target.requires_grad_(), auxiliary.requires_grad_()
    both = dict(
        zip(("target", "auxiliary"), torch.autograd.grad(msp_loss(target, auxiliary, labels), (target, auxiliary)))
    )
    value = msp_loss(target, auxiliary, labels, detach=side)
    gradients = torch.autograd.grad(value, (target, auxiliary), allow_unused=True)
    for name, gradient in zip(("target", "auxiliary"), gradients):
        if name == side:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, both[name])
    torch.testing.assert_close(value, msp_loss(target, auxiliary, labels))


@pytest.mark.parametrize("form", FORMS)
def test_tung_mori_equals_the_loops_and_weights_equal_shares(form):
    student, auxiliary, _ = batch(7, 1)
    teacher = auxiliary[0].reshape(7, 2, 2)
    first = torch.tensor(normalized(student.tolist()), dtype=torch.float64)
    second = torch.tensor(normalized(teacher.flatten(1).tolist()), dtype=torch.float64)
    value = similarity_preserving_loss(student, teacher, form=form)
    torch.testing.assert_close(value, (first - second).square().sum() / 49, rtol=1e-9, atol=1e-12)
    weight = torch.rand(7, dtype=torch.float64)
    shares = similarity_preserving_loss(student, teacher, weight, form, reduction="none")
    mean = similarity_preserving_loss(student, teacher, weight, form)
    torch.testing.assert_close(shares.sum() / weight.sum(), mean)
    expected = (torch.outer(weight, weight) * (first - second) ** 2).sum() / weight.sum() ** 2
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-12)


def textbook(target, auxiliary, labels):
    total = 0.0
    gram = target @ target.T
    first = gram / gram.norm(dim=1, keepdim=True)
    for branch, features in enumerate(auxiliary):
        gram = features @ features.T
        second = gram / gram.norm(dim=1, keepdim=True)
        keep = (labels != branch).to(target.dtype)
        total = total + ((first - second).square() * torch.outer(keep, keep)).sum() / keep.sum() ** 2
    return total / len(auxiliary)


@pytest.mark.parametrize("kind", ["equal", "scaled", "rotated", "wider"])
@pytest.mark.parametrize("closeness", [1e-1, 1e-3, 1e-5])
def test_float32_is_no_worse_than_the_textbook_as_branches_converge(kind, closeness):
    generator = torch.Generator().manual_seed(3)
    size, width, classes = 48, 12, 4
    base = torch.randn(size, width, generator=generator, dtype=torch.float64)
    labels = torch.arange(size) % classes
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    branches = []
    for _ in range(classes):
        noisy = base + closeness * torch.randn(size, width, generator=generator, dtype=torch.float64)
        if kind == "scaled":
            noisy = 3.7 * noisy
        if kind == "rotated":
            noisy = noisy @ rotation
        if kind == "wider":
            noisy = torch.cat([noisy @ rotation, torch.zeros(size, 5, dtype=torch.float64)], 1)
        branches.append(noisy)
    target, auxiliary = base.float(), torch.stack(branches).float()

    def run(function, dtype):
        leaves = target.to(dtype).requires_grad_(), auxiliary.to(dtype).requires_grad_()
        value = function(*leaves, labels)
        return value.detach().double(), [part.double() for part in torch.autograd.grad(value, leaves)]

    exact, exact_gradients = run(textbook, torch.float64)
    plain, plain_gradients = run(textbook, torch.float32)
    for form in ["auto", *FORMS]:
        value, gradients = run(lambda t, a, y, form=form: msp_loss(t, a, y, form=form), torch.float32)
        eps = torch.finfo(torch.float32).eps
        assert value >= 0
        # a few units in the last place are granted where the textbook form is right by luck
        assert (value - exact).abs() <= 2 * (plain - exact).abs() + 16 * eps * exact, form
        for gradient, ours, theirs in zip(exact_gradients, gradients, plain_gradients):
            error, bound = (ours - gradient).norm(), (theirs - gradient).norm()
            assert error <= 2 * bound + 16 * eps * gradient.norm(), form


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e10])
def test_shares_add_up_at_any_scale(scale):
    generator = torch.Generator().manual_seed(0)
    target = (torch.randn(6, 4, generator=generator) * scale).requires_grad_()
    other = torch.randn(6, 3, generator=generator)
    shares = similarity_preserving_loss(target, other, reduction="none").sum()
    whole = similarity_preserving_loss(target, other, reduction="sum")
    torch.testing.assert_close(shares, whole)
    one, two = (torch.autograd.grad(value, target)[0] * scale for value in (shares, whole))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
