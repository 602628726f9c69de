"""Hinge losses of a game over a matrix of scores: one column a marginal score, the last one the joint score."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ferkit.checks import check_choice, check_device, check_floating, check_shape
from ferkit.functional._inputs import full_precision, promote, zero_rows
from ferkit.reduction import REDUCTIONS, combine_weights, reduce

__all__ = ["HINGE_FORMS", "check_switches", "hinge_discriminator_loss", "hinge_generator_loss"]

HINGE_FORMS = ("elementwise", "sum")


@full_precision
def hinge_discriminator_loss(
    encoder_scores: Tensor,
    decoder_scores: Tensor,
    score_weight: Tensor | None = None,
    joint: bool = True,
    marginal: bool = True,
    sample_weight: Tensor | None = None,
    form: str = "elementwise",
    reduction: str = "mean",
) -> Tensor:
    r"""What the discriminator minimises: the encoder's tuples are to score above 1, the decoder's below -1.

    :math:`\frac1{NS}\sum_{ns} \max(0, 1 - w_s e_{ns}) + \frac1{NS}\sum_{ns} \max(0, 1 + w_s d_{ns})`, the negative of
    noisyFER's objective (Zhang et al., WACV 2021, section 3.2), which does not say how the scores come together. This
    is the released code's way, and ``form="sum"`` the other reading.

    Args:
        encoder_scores: (N, S), e: of (image, latent code, predicted labels).
        decoder_scores: (N, S), d: of (decoded image, noise, given labels).
        score_weight: (S,), w, **inside** the hinge. A weight of 0 leaves a constant of 1 a term: to drop a score,
            use the switches or a discriminator without it.
        joint: whether the last column, the joint score, takes part.
        marginal: whether the other columns do. A column that is dropped leaves the mean to the rest.
        sample_weight: (N,), of a row in both matrices. Weight 0 equals removal.
        form: ``"elementwise"``: a hinge of each score; ``"sum"``: one hinge of each row's weighted sum.
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` or ``"none"``: (N,).

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices or choices, or if no score is left.

    >>> import torch
    >>> encoder_scores, decoder_scores = torch.tensor([[2.0, 0.5]]), torch.tensor([[-0.5, -3.0]])
    >>> hinge_discriminator_loss(encoder_scores, decoder_scores)
    tensor(0.5000)
    >>> hinge_discriminator_loss(encoder_scores, decoder_scores, marginal=False)
    tensor(0.5000)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_switches(joint, marginal, form)
    check_floating(decoder_scores, "decoder_scores")
    encoder, decoder, weight = _check(encoder_scores, decoder_scores, score_weight, sample_weight)
    assert decoder is not None
    encoder, decoder = (_select(scores, score_weight, joint, marginal, form) for scores in (encoder, decoder))
    return reduce((F.relu(1 - encoder) + F.relu(1 + decoder)).mean(1), reduction, weight)


@full_precision
def hinge_generator_loss(
    encoder_scores: Tensor,
    decoder_scores: Tensor | None = None,
    score_weight: Tensor | None = None,
    joint: bool = True,
    marginal: bool = True,
    sample_weight: Tensor | None = None,
    form: str = "elementwise",
    reduction: str = "mean",
    decoder: bool = True,
) -> Tensor:
    r"""What encoder and decoder minimise: the encoder's tuples are to score low, the decoder's high.

    :math:`\frac1{NS}\sum_{ns} w_s e_{ns} - \frac1{NS}\sum_{ns} w_s d_{ns}`, without a hinge (noisyFER, section 3.2).
    Arguments as in `hinge_discriminator_loss`, and

    Args:
        decoder_scores: (N, S), or None with ``decoder=False``.
        form: ``"elementwise"``, or ``"sum"``, which is S times as large for S scores.
        decoder: whether the second term is there: False for a game without a decoder.

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices or choices, or if no score is left.

    >>> import torch
    >>> hinge_generator_loss(torch.tensor([[2.0, 0.5]]), torch.tensor([[-0.5, -3.0]]))
    tensor(3.)
    >>> hinge_generator_loss(torch.tensor([[2.0, 0.5]]), decoder=False)
    tensor(1.2500)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    check_switches(joint, marginal, form)
    if not decoder:
        decoder_scores = None
    elif decoder_scores is None:
        raise TypeError("decoder_scores: expected a torch.Tensor (or decoder=False), got NoneType")
    scores, others, weight = _check(encoder_scores, decoder_scores, score_weight, sample_weight)
    values = _select(scores, score_weight, joint, marginal, form)
    if others is not None:
        values = values - _select(others, score_weight, joint, marginal, form)
    return reduce(values.mean(1), reduction, weight)


def check_switches(joint: bool, marginal: bool, form: str) -> None:
    check_choice(form, "form", HINGE_FORMS)
    for name, value in (("joint", joint), ("marginal", marginal)):
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected a bool, got {value!r}")
    if not joint and not marginal:
        raise ValueError("marginal: expected True without the joint score, got False: no score is left")


def _check(
    encoder_scores: Tensor, decoder_scores: Tensor | None, score_weight: Tensor | None, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    check_floating(encoder_scores, "encoder_scores")
    check_shape(encoder_scores, "encoder_scores", ("N", "S"))
    size, columns = encoder_scores.shape
    both: tuple[Tensor, ...] = (encoder_scores,)
    if decoder_scores is not None:
        check_floating(decoder_scores, "decoder_scores")
        check_shape(decoder_scores, "decoder_scores", (size, columns))
        both = (encoder_scores, decoder_scores)
    if score_weight is not None:
        check_floating(score_weight, "score_weight")
        check_shape(score_weight, "score_weight", (columns,))
    check_device(encoder_scores, decoder_scores=decoder_scores, score_weight=score_weight)
    both = promote(*both)
    weight = combine_weights(None, size, both[0], sample_weight)
    if weight is not None:  # what a row of weight 0 holds, NaN included, reaches no gradient
        both = tuple(zero_rows(scores, weight != 0) for scores in both)
    return both[0], both[1] if len(both) == 2 else None, weight


def _select(scores: Tensor, score_weight: Tensor | None, joint: bool, marginal: bool, form: str) -> Tensor:
    """The weighted scores that take part, (N, S'), or (N, 1) of their sums."""
    kept = slice(0 if marginal else -1, None if joint else -1)
    scores = scores[:, kept]
    if score_weight is not None:  # of those kept: 0 times a dropped NaN would be the weight's gradient
        scores = scores * score_weight[kept].to(scores.dtype)
    if scores.shape[1] == 0:
        raise ValueError(f"encoder_scores: expected a score to be left with joint={joint}, marginal={marginal}")
    return scores.sum(1, keepdim=True) if form == "sum" else scores
