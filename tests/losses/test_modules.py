"""The losses as modules: what repr prints, what the constructor refuses, and the same value as the function."""

import re

import pytest
import torch

import ferkit.functional as ff
from ferkit.losses import (
    AuxiliaryCrossEntropy,
    CoTeachingLoss,
    LatentDistributionLoss,
    MSPLoss,
    RankRegularization,
    SimilarityPreservingLoss,
    SymmetricCrossEntropy,
    TraceRegularization,
    TransitionCrossEntropy,
    WeightedLogitCrossEntropy,
)

W = torch.tensor([1.0, 2.0, 0.5])


@pytest.mark.parametrize(
    "loss, text",
    [
        (
            MSPLoss(3, normalize="subset", reduction="none", detach="target"),
            "MSPLoss(num_classes=3, normalize='subset', form='auto', reduction='none', detach='target', "
            "process_group=None)",
        ),
        (SimilarityPreservingLoss("gram"), "SimilarityPreservingLoss(form='gram', reduction='mean')"),
        (
            WeightedLogitCrossEntropy(W, "sum"),
            "WeightedLogitCrossEntropy(class_weight=[1.0, 2.0, 0.5], reduction='sum')",
        ),
        (AuxiliaryCrossEntropy(3), "AuxiliaryCrossEntropy(num_classes=3, class_weight=None, reduction='mean')"),
        (
            LatentDistributionLoss("released"),
            "LatentDistributionLoss(divisor='released', class_weight=None, reduction='mean')",
        ),
        (
            SymmetricCrossEntropy(6.0, 0.1, "released", log_zero=-2.0),
            "SymmetricCrossEntropy(alpha=6.0, beta=0.1, form='released', log_zero=-2.0, class_weight=None, "
            "reduction='mean')",
        ),
        (CoTeachingLoss("released"), "CoTeachingLoss(divisor='released', class_weight=None, reduction='mean')"),
        (TransitionCrossEntropy(), "TransitionCrossEntropy(class_weight=None, reduction='mean')"),
        (TraceRegularization("sum"), "TraceRegularization(reduction='sum')"),
        (RankRegularization(0.5), "RankRegularization(share=0.5, margin=0.15)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_repr_prints_every_setting(loss, text):
    assert repr(loss) == text


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_modules_are_the_functions(reduction):
    generator = torch.Generator().manual_seed(0)
    target, auxiliary = torch.randn(6, 5, generator=generator), torch.randn(3, 6, 4, generator=generator)
    logits, branches = torch.randn(6, 3, generator=generator), torch.randn(3, 6, 2, generator=generator)
    confidence, weight = torch.rand(6, generator=generator), torch.rand(6, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, -1, 1])
    q = ff.latent_distribution(branches, labels)
    shared = {"sample_weight": weight, "reduction": reduction}
    pairs = [
        (
            MSPLoss(3, "subset", "gram", reduction, "auxiliary")(target, auxiliary, labels, weight),
            ff.msp_loss(target, auxiliary, labels, "subset", "gram", detach="auxiliary", **shared),
        ),
        (
            SimilarityPreservingLoss("gram", reduction)(target, auxiliary[0], weight),
            ff.similarity_preserving_loss(target, auxiliary[0], form="gram", **shared),
        ),
        (
            WeightedLogitCrossEntropy(W, reduction)(logits, confidence, labels, weight),
            ff.weighted_logit_cross_entropy(logits, confidence, labels, class_weight=W, **shared),
        ),
        (
            AuxiliaryCrossEntropy(3, W, reduction)(branches, labels, weight),
            ff.auxiliary_cross_entropy(branches, labels, class_weight=W, **shared),
        ),
        (
            LatentDistributionLoss("released", W, reduction)(logits, q, labels, weight),
            ff.latent_distribution_loss(logits, q, labels, "released", class_weight=W, **shared),
        ),
        (
            SymmetricCrossEntropy(6.0, 0.1, "released", -2.0, W, reduction)(logits, labels, weight),
            ff.symmetric_cross_entropy(logits, labels, 6.0, 0.1, "released", -2.0, class_weight=W, **shared),
        ),
        (
            CoTeachingLoss("released", W, reduction)(logits, logits.flip(0), labels, 0.4, weight),
            ff.co_teaching_loss(logits, logits.flip(0), labels, 0.4, "released", class_weight=W, **shared),
        ),
        (
            TransitionCrossEntropy(W, reduction)(logits, q[:3].abs(), labels, weight),
            ff.transition_cross_entropy(logits, q[:3].abs(), labels, class_weight=W, **shared),
        ),
        (TraceRegularization(reduction)(q[:3]), ff.trace_regularization(q[:3], reduction)),
        (RankRegularization(0.5, 1.0)(confidence, weight), ff.rank_regularization(confidence, 0.5, 1.0, weight)),
    ]
    for actual, expected in pairs:
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: MSPLoss(0), ValueError, "num_classes: expected a value in [1, inf], got 0"),
        (lambda: MSPLoss(3, normalize="all"), ValueError, "normalize: expected one of 'batch', 'subset', got 'all'"),
        (lambda: MSPLoss(3, form="x"), ValueError, "form: expected one of"),
        (lambda: MSPLoss(3, detach="x"), ValueError, "detach: expected one of None, 'target', 'auxiliary', got 'x'"),
        (lambda: MSPLoss(3, reduction="avg"), ValueError, "reduction: expected one of"),
        (lambda: AuxiliaryCrossEntropy(1), ValueError, "num_classes: expected a value in [2, inf], got 1"),
        (lambda: AuxiliaryCrossEntropy(4, W), ValueError, "class_weight: expected shape (4,), got (3,)"),
        (lambda: WeightedLogitCrossEntropy([1.0]), TypeError, "class_weight: expected a torch.Tensor, got list"),
        (lambda: LatentDistributionLoss("C"), ValueError, "divisor: expected one of 'paper', 'released', got 'C'"),
        (lambda: SimilarityPreservingLoss("x"), ValueError, "form: expected one of"),
        (lambda: SymmetricCrossEntropy(-1.0), ValueError, "alpha: expected a value in [0.0, inf], got -1.0"),
        (lambda: SymmetricCrossEntropy(log_zero=0.0), ValueError, "log_zero: expected a value in [-inf, 0), got 0.0"),
        (lambda: SymmetricCrossEntropy(form="x"), ValueError, "form: expected one of 'paper', 'released', got 'x'"),
        (lambda: CoTeachingLoss("x"), ValueError, "divisor: expected one of 'kept', 'released', got 'x'"),
        (lambda: RankRegularization(1.0), ValueError, "share: expected a value in (0, 1), got 1.0"),
        (
            lambda: MSPLoss(3)(torch.zeros(4, 2), torch.zeros(2, 4, 2), torch.zeros(4, dtype=torch.int64)),
            ValueError,
            "auxiliary: expected 3 branches in dimension 0, got shape (2, 4, 2)",
        ),
        (
            lambda: AuxiliaryCrossEntropy(3)(torch.zeros(4, 4, 3), torch.zeros(4, dtype=torch.int64)),
            ValueError,
            "auxiliary_logits: expected 3 branches in dimension 0, got shape (4, 4, 3)",
        ),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_class_weights_move_with_the_module_and_are_no_state():
    loss = WeightedLogitCrossEntropy(W)
    assert loss.state_dict() == {}
    assert loss.double().class_weight.dtype == torch.float64
    assert W.dtype == torch.float32


def test_msp_module_compiles_whole():
    torch._dynamo.reset()
    loss = MSPLoss(3)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (5, 8):
        target, auxiliary = torch.randn(size, 4), torch.randn(3, size, 4)
        labels = torch.arange(size) % 3
        torch.testing.assert_close(compiled(target, auxiliary, labels), loss(target, auxiliary, labels))
