"""The two sides of noisyFER's hinge game over a matrix of scores."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_floating, check_shape
from ferkit.functional.adversarial import check_switches, hinge_discriminator_loss, hinge_generator_loss
from ferkit.losses._base import Loss

__all__ = ["HingeDiscriminatorLoss", "HingeGeneratorLoss"]


class _Hinge(Loss):
    score_weight: Tensor | None

    def __init__(self, score_weight: Tensor | None, joint: bool, marginal: bool, form: str, reduction: str) -> None:
        super().__init__(reduction)
        check_switches(joint, marginal, form)
        self.joint, self.marginal, self.form = joint, marginal, form
        if score_weight is not None:
            check_floating(score_weight, "score_weight")
            check_shape(score_weight, "score_weight", ("S",))
            score_weight = score_weight.detach().clone()
        self.register_buffer("score_weight", score_weight, persistent=False)


class HingeDiscriminatorLoss(_Hinge):
    """The discriminator's hinge loss; see `ferkit.functional.hinge_discriminator_loss`.

    Args:
        score_weight: (S,) or None, inside the hinge.
        joint: whether the joint score, the last column, takes part.
        marginal: whether the other columns do.
        form: ``"elementwise"`` (released) or ``"sum"``: one hinge of each row's sum.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``: (N,).

    Call with encoder_scores (N, S), decoder_scores (N, S) and optionally sample_weight (N,).

    >>> import torch
    >>> HingeDiscriminatorLoss()(torch.tensor([[2.0, 0.5]]), torch.tensor([[-0.5, -3.0]]))
    tensor(0.5000)
    """

    settings = ("score_weight", "joint", "marginal", "form", "reduction")

    def __init__(
        self,
        score_weight: Tensor | None = None,
        joint: bool = True,
        marginal: bool = True,
        form: str = "elementwise",
        reduction: str = "mean",
    ) -> None:
        super().__init__(score_weight, joint, marginal, form, reduction)

    def forward(self, encoder_scores: Tensor, decoder_scores: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        switches = (self.score_weight, self.joint, self.marginal)
        return hinge_discriminator_loss(
            encoder_scores, decoder_scores, *switches, sample_weight, self.form, self.reduction
        )


class HingeGeneratorLoss(_Hinge):
    """The generators' loss in the hinge game; see `ferkit.functional.hinge_generator_loss`.

    Arguments as in `HingeDiscriminatorLoss`, and

    Args:
        decoder: whether the decoder's term is there; without it decoder_scores may be None.

    Call with encoder_scores (N, S), decoder_scores (N, S) and optionally sample_weight (N,).

    >>> import torch
    >>> HingeGeneratorLoss()(torch.tensor([[2.0, 0.5]]), torch.tensor([[-0.5, -3.0]]))
    tensor(3.)
    """

    settings = ("score_weight", "joint", "marginal", "form", "reduction", "decoder")

    def __init__(
        self,
        score_weight: Tensor | None = None,
        joint: bool = True,
        marginal: bool = True,
        form: str = "elementwise",
        reduction: str = "mean",
        decoder: bool = True,
    ) -> None:
        super().__init__(score_weight, joint, marginal, form, reduction)
        self.decoder = decoder

    def forward(
        self, encoder_scores: Tensor, decoder_scores: Tensor | None = None, sample_weight: Tensor | None = None
    ) -> Tensor:
        switches = (self.score_weight, self.joint, self.marginal)
        return hinge_generator_loss(
            encoder_scores, decoder_scores, *switches, sample_weight, self.form, self.reduction, self.decoder
        )
