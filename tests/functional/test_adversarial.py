"""The hinge losses: recorded values, the switches and weights, sums, the generators' side, bad input."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

import ferkit.functional as ff
from ferkit.losses import HingeDiscriminatorLoss, HingeGeneratorLoss

E = 2 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
D = 2 * torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
W = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
S = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 0.3], dtype=torch.float64)
LOSSES = (ff.hinge_discriminator_loss, ff.hinge_generator_loss)
FORMS = ("elementwise", "sum")


def by_loops(kind, encoder, decoder, weight, form):
    """(N,): the formula, score by score."""
    result = []
    for e, d in zip(encoder.tolist(), decoder.tolist()):
        pairs = [(w * a, w * b) for w, a, b in zip(weight.tolist(), e, d)]
        if form == "sum":
            pairs = [(sum(a for a, _ in pairs), sum(b for _, b in pairs))]
        if kind is ff.hinge_discriminator_loss:
            terms = [max(0.0, 1 - a) + max(0.0, 1 + b) for a, b in pairs]
        else:
            terms = [a - b for a, b in pairs]
        result.append(sum(terms) / len(terms))
    return torch.tensor(result, dtype=torch.float64)


def test_golden(golden, close):
    data = golden("nfer_hinge_5scores")
    for kind, name in ((HingeDiscriminatorLoss, "D"), (HingeGeneratorLoss, "G")):
        encoder, decoder = (data[f"scores_{side}"].clone().requires_grad_() for side in ("enc", "dec"))
        value = kind(data["weights"])(encoder, decoder)
        close(value, data[f"loss_{name}"])
        value.backward()
        close(encoder.grad, data[f"grad_{name}_enc"])
        close(decoder.grad, data[f"grad_{name}_dec"])
        close(kind()(encoder, decoder), data[f"loss_{name}"])
    close(HingeDiscriminatorLoss(form="sum")(encoder, decoder), data["loss_D_hinge_of_sum"])
    close(-HingeDiscriminatorLoss()(encoder, decoder), data["paper_objective_max_D"])
    low = torch.full_like(decoder, -1.0)  # where the other hinge ends
    close(HingeDiscriminatorLoss()(encoder, low), data["loss_D_real"])
    close(HingeDiscriminatorLoss()(-low, decoder), data["loss_D_fake"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(1, 6), columns=st.integers(1, 6), form=st.sampled_from(FORMS))
@pytest.mark.parametrize("loss", LOSSES)
def test_is_the_formula(loss, seed, size, columns, form):
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (torch.randn(size, columns, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(columns, generator=generator, dtype=torch.float64)
    values = loss(encoder, decoder, weight, form=form, reduction="none")
    torch.testing.assert_close(values, by_loops(loss, encoder, decoder, weight, form))
    torch.testing.assert_close(loss(encoder, decoder, weight, form=form), values.mean())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), columns=st.integers(2, 6), form=st.sampled_from(FORMS), weighted=st.booleans())
@pytest.mark.parametrize("loss", LOSSES)
def test_a_dropped_score_is_one_that_was_never_there(loss, seed, columns, form, weighted):
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (torch.randn(3, columns, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(columns, generator=generator, dtype=torch.float64) if weighted else None
    part = lambda rows, kept: None if rows is None else rows[..., kept]  # noqa: E731
    for options, kept in (({"joint": False}, slice(None, -1)), ({"marginal": False}, slice(-1, None))):
        poisoned = encoder.clone()
        poisoned[:, torch.ones(columns, dtype=torch.bool).index_fill(0, torch.arange(columns)[kept], False)] = torch.nan
        actual = loss(poisoned, decoder, weight, form=form, **options)
        expected = loss(encoder[:, kept], decoder[:, kept], part(weight, kept), form=form)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_dropped_score_reaches_no_weight(loss):
    poisoned, weight = E.index_fill(1, torch.tensor([3]), torch.nan), W.clone().requires_grad_()
    loss(poisoned, D, weight, joint=False).backward()
    assert weight.grad[3] == 0 and weight.grad.isfinite().all() and weight.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_are_inside_the_hinge(close, loss):
    close(loss(E, D, W), loss(E * W, D * W))
    constant = ff.hinge_discriminator_loss(E, D, W, reduction="none") - 2 / 4  # of the score weighted 0
    close(constant * 4 / 3, ff.hinge_discriminator_loss(E[:, :3], D[:, :3], W[:3], reduction="none"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss, form):
    leaves = tuple(value.clone().requires_grad_() for value in (E, D, W))
    assert gradcheck(lambda e, d, w: loss(e, d, w, sample_weight=S, form=form), leaves)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), gone=st.sets(st.integers(0, 5)), form=st.sampled_from(FORMS))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_sample_of_weight_0_is_removed(loss, reduction, seed, gone, form):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(6, generator=generator, dtype=torch.float64) + 0.1
    kept = torch.tensor([row for row in range(6) if row not in gone], dtype=torch.int64)
    rows = torch.tensor(sorted(gone), dtype=torch.int64)
    marked = weight.index_fill(0, rows, 0)
    leaves = [value.index_fill(0, rows, torch.nan).requires_grad_() for value in (E, D)]
    scale = W.clone().requires_grad_()
    value = loss(*leaves, scale, sample_weight=marked, form=form, reduction=reduction)
    gradients = torch.autograd.grad(value, [*leaves, scale])
    rest = [value[kept].requires_grad_() for value in (E, D)]
    other = W.clone().requires_grad_()
    expected = loss(*rest, other, sample_weight=weight[kept], form=form, reduction=reduction)
    torch.testing.assert_close(value, expected)
    wanted = torch.autograd.grad(expected, [*rest, other])
    for gradient, part in zip(gradients[:2], wanted[:2]):
        torch.testing.assert_close(gradient[kept], part)
        assert gradient[rows].count_nonzero() == 0
    torch.testing.assert_close(gradients[2], wanted[2])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_empty_set_is_a_connected_zero(loss, form, size, reduction):
    leaves = [torch.full((size, 4), torch.nan, requires_grad=True) for _ in range(2)]
    weight = torch.zeros(size) if size else None
    value = loss(*leaves, sample_weight=weight, form=form, reduction=reduction)
    assert value.requires_grad and torch.equal(value, torch.zeros_like(value))
    for gradient in torch.autograd.grad(value.sum(), leaves):
        assert torch.equal(gradient, torch.zeros(size, 4))


def test_the_generators_without_a_decoder(close):
    both = HingeGeneratorLoss()(E, D)
    alone = HingeGeneratorLoss(decoder=False)
    close(alone(E), both + D.mean())
    close(alone(E, torch.full_like(D, torch.nan)), alone(E))
    close(alone(E, sample_weight=S), (S * E.mean(1)).sum() / S.sum())
    with pytest.raises(TypeError, match=re.escape("decoder_scores: expected a torch.Tensor (or decoder=False)")):
        HingeGeneratorLoss()(E)


def test_the_generators_side_in_half_precision_and_compiled():
    value = ff.hinge_generator_loss(E.half(), D.half(), W)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), ff.hinge_generator_loss(E.half().double(), D.half().double(), W))
    torch._dynamo.reset()
    compiled = torch.compile(HingeGeneratorLoss(W, joint=False), backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (6, 5):
        expected = HingeGeneratorLoss(W, joint=False)(E[:rows], D[:rows])
        torch.testing.assert_close(compiled(E[:rows], D[:rows]), expected)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_modules_are_the_functions(reduction):
    options = {"joint": False, "form": "sum", "reduction": reduction}
    for kind, function in zip((HingeDiscriminatorLoss, HingeGeneratorLoss), LOSSES):
        assert torch.equal(kind(W, **options)(E, D, S), function(E, D, W, sample_weight=S, **options))
    assert HingeDiscriminatorLoss(W).state_dict() == {}
    assert HingeDiscriminatorLoss(W).float().score_weight.dtype == torch.float32 and W.dtype == torch.float64


def test_repr_prints_every_setting():
    assert repr(HingeDiscriminatorLoss(W, joint=False, form="sum", reduction="none")) == (
        "HingeDiscriminatorLoss(score_weight=[1.0, 0.5, 2.0, 0.0], joint=False, marginal=True, form='sum', "
        "reduction='none')"
    )
    assert repr(HingeGeneratorLoss(marginal=False, decoder=False)) == (
        "HingeGeneratorLoss(score_weight=None, joint=True, marginal=False, form='elementwise', reduction='mean', "
        "decoder=False)"
    )


META = torch.zeros(6, 4, device="meta")
DISC, GEN = LOSSES
BAD = [
    (lambda: DISC([1.0], D), TypeError, "encoder_scores: expected a torch.Tensor, got list"),
    (lambda: DISC(E.long(), D), TypeError, "encoder_scores: expected a floating-point tensor"),
    (lambda: DISC(E[:, 0], D), ValueError, "encoder_scores: expected shape (N, S), got (6,)"),
    (lambda: DISC(E, D[:3]), ValueError, "decoder_scores: expected shape (6, 4), got (3, 4)"),
    (lambda: DISC(E, None), TypeError, "decoder_scores: expected a torch.Tensor, got NoneType"),
    (lambda: DISC(E, META), ValueError, "decoder_scores: expected device cpu, got meta"),
    (lambda: DISC(E, D, W[:2]), ValueError, "score_weight: expected shape (4,), got (2,)"),
    (lambda: DISC(E, D, W.long()), TypeError, "score_weight: expected a floating-point tensor"),
    (lambda: GEN(E, D, sample_weight=S[:2]), ValueError, "sample_weight: expected shape (6,), got (2,)"),
    (lambda: GEN(E, D, form="row"), ValueError, "form: expected one of 'elementwise', 'sum', got 'row'"),
    (lambda: GEN(E, D, reduction="avg"), ValueError, "reduction: expected one of 'none', 'mean', 'sum', got 'avg'"),
    (lambda: GEN(E, D, joint=1), TypeError, "joint: expected a bool, got 1"),
    (lambda: GEN(E, D, joint=False, marginal=False), ValueError, "marginal: expected True without the joint score"),
    (lambda: DISC(E[:, :1], D[:, :1], joint=False), ValueError, "encoder_scores: expected a score to be left"),
    (lambda: DISC(E[:, :0], D[:, :0]), ValueError, "encoder_scores: expected a score to be left"),
    (lambda: HingeDiscriminatorLoss(E), ValueError, "score_weight: expected shape (S,), got (6, 4)"),
    (lambda: HingeDiscriminatorLoss(form="x"), ValueError, "form: expected one of 'elementwise', 'sum', got 'x'"),
    (lambda: HingeGeneratorLoss(joint=False, marginal=False), ValueError, "marginal: expected True without the joint"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message[:50] for _, _, message in BAD])
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
