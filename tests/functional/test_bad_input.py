"""Wrong arguments are refused by name, with what was expected and what came, before any work."""

import re

import pytest
import torch

import ferkit.functional as ff

N, C = 6, 4
X = torch.randn(N, 5)
A = torch.randn(C, N, 3)
Z = torch.randn(N, C)
L = torch.randn(C, N, C - 1)
Q = torch.rand(N, C)
S = torch.rand(N)
Y = torch.tensor([0, 1, 2, 3, 0, 1])
META = torch.zeros(N, dtype=torch.int64, device="meta")

BAD = [
    (lambda: ff.class_similarity([1.0], Y, C), TypeError, "features: expected a torch.Tensor, got list"),
    (lambda: ff.class_similarity(Y, Y, C), TypeError, "features: expected a floating-point tensor"),
    (lambda: ff.class_similarity(X[0], Y, C), ValueError, "features: expected shape (N, D), got (5,)"),
    (lambda: ff.class_similarity(X, Y[:3], C), ValueError, "labels: expected shape (6,), got (3,)"),
    (lambda: ff.class_similarity(X, Y.int(), C), TypeError, "labels: expected dtype torch.int64, got torch.int32"),
    (lambda: ff.class_similarity(X, Y, 3), ValueError, "labels: expected values in 0..2 or -1 (unlabelled), got 0..3"),
    (lambda: ff.class_similarity(X, Y - 2, C), ValueError, "labels: expected values in 0..3 or -1"),
    (lambda: ff.class_similarity(X, Y, 4.0), TypeError, "num_classes: expected an integer, got 4.0"),
    (lambda: ff.class_similarity(X, Y, 0), ValueError, "num_classes: expected a value in"),
    (lambda: ff.class_similarity(X, META, C), ValueError, "labels: expected device cpu, got meta"),
    (lambda: ff.class_similarity(X, Y, C, scale="max"), ValueError, "scale: expected one of 'none', 'minmax'"),
    (lambda: ff.msp_loss(X[0], A, Y), ValueError, "target: expected shape (N, Dt), got (5,)"),
    (lambda: ff.msp_loss(X, A[:, :2], Y), ValueError, "auxiliary: expected shape (C, 6, Da), got (4, 2, 3)"),
    (lambda: ff.msp_loss(X, A[0], Y), ValueError, "auxiliary: expected shape (C, 6, Da), got (6, 3)"),
    (lambda: ff.msp_loss(X, A[:3], Y), ValueError, "labels: expected values in 0..2"),
    (lambda: ff.msp_loss(X, A, Y, normalize="rows"), ValueError, "normalize: expected one of 'batch', 'subset'"),
    (lambda: ff.msp_loss(X, A, Y, form="fast"), ValueError, "form: expected one of 'auto', 'gram', 'factored'"),
    (lambda: ff.msp_loss(X, A, Y, reduction="avg"), ValueError, "reduction: expected one of 'none', 'mean', 'sum'"),
    (lambda: ff.msp_loss(X, A, Y, detach="both"), ValueError, "detach: expected one of None, 'target', 'auxiliary'"),
    (lambda: ff.msp_loss(X, A, Y, sample_weight=S[:2]), ValueError, "sample_weight: expected shape (6,), got (2,)"),
    (lambda: ff.msp_loss(X, A, Y, sample_weight=Y), TypeError, "sample_weight: expected a floating-point tensor"),
    (
        lambda: ff.msp_loss(X, A, Y, sample_weight=S - 2),
        ValueError,
        "sample_weight: expected values of 0 or more, got -",
    ),
    (lambda: ff.similarity_preserving_loss(X, X[:3]), ValueError, "teacher: expected 6 samples as in student, got 3"),
    (lambda: ff.similarity_preserving_loss(S, X), ValueError, "student: expected shape (N, ...) with features"),
    (lambda: ff.weighted_logit_cross_entropy(Z, S[:2], Y), ValueError, "confidence: expected shape (6,), got (2,)"),
    (lambda: ff.weighted_logit_cross_entropy(Z, Q, Y), ValueError, "confidence: expected shape (6,), got (6, 4)"),
    (lambda: ff.weighted_logit_cross_entropy(Z, 1.0, Y), TypeError, "confidence: expected a torch.Tensor, got float"),
    (lambda: ff.weighted_logit_cross_entropy(Z[:, :3], S, Y), ValueError, "labels: expected values in 0..2"),
    (
        lambda: ff.weighted_logit_cross_entropy(Z, S, Y, class_weight=S),
        ValueError,
        "class_weight: expected shape (4,), got (6,)",
    ),
    (
        lambda: ff.auxiliary_cross_entropy(A[:, :, :2], Y),
        ValueError,
        "auxiliary_logits: expected shape (C, N, C-1) with C of 2 or more, got (4, 6, 2)",
    ),
    (lambda: ff.auxiliary_cross_entropy(Z, Y), ValueError, "auxiliary_logits: expected shape (C, N, C-1), got (6, 4)"),
    (lambda: ff.latent_distribution(L, Y[:2]), ValueError, "labels: expected shape (6,), got (2,)"),
    (lambda: ff.latent_distribution(L, Y, temperature=0), ValueError, "temperature: expected a value in (0.0, inf]"),
    (lambda: ff.sharpen(Z, -1.0), ValueError, "temperature: expected a value in (0.0, inf], got -1.0"),
    (lambda: ff.sharpen(Z, "1"), TypeError, "temperature: expected a number, got '1'"),
    (lambda: ff.sharpen(Y, 1.0), TypeError, "logits: expected a floating-point tensor"),
    (
        lambda: ff.latent_distribution_loss(Z, Q[:, :2], Y),
        ValueError,
        "distribution: expected shape (6, 4), got (6, 2)",
    ),
    (
        lambda: ff.latent_distribution_loss(Z, Q, Y, divisor="N"),
        ValueError,
        "divisor: expected one of 'paper', 'released'",
    ),
    (
        lambda: ff.latent_distribution_loss(Z[:, :1], Q[:, :1], Y * 0),
        ValueError,
        "logits: expected shape (N, C) with C of 2",
    ),
    (lambda: ff.ramp_up(-1, 6), ValueError, "epoch: expected a value in [0.0, inf], got -1"),
    (lambda: ff.ramp_up(1, -6), ValueError, "beta: expected a value in [0.0, inf], got -6"),
    (lambda: ff.ramp_up(1, 6, form="code"), ValueError, "form: expected one of 'paper', 'released', got 'code'"),
    (lambda: ff.ramp_down("1", 6), TypeError, "epoch: expected a number, got '1'"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message[:40] for _, _, message in BAD])
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
