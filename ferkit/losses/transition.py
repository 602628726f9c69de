"""Cross-entropy through annotators' confusions, and the regularisation of these."""

from __future__ import annotations

from torch import Tensor

from ferkit.functional.transition import trace_regularization, transition_cross_entropy
from ferkit.losses._base import Loss

__all__ = ["TraceRegularization", "TransitionCrossEntropy"]


class TransitionCrossEntropy(Loss):
    """Cross-entropy of noisy labels through transition matrices; see `ferkit.functional.transition_cross_entropy`.

    LTNet (Zeng et al., ECCV 2018), and with one matrix the forward correction (Patrini et al., CVPR 2017).

    Args:
        class_weight: (C,) or None, of the given labels.
        reduction: ``"mean"`` (over the samples that each annotator has labelled, added up over the annotators),
            ``"sum"`` or ``"none"``: (N,).

    Call with logits (N, C) of the true class, transition (S, C, C), int64 labels (N, S) and optionally sample_weight
    (N,); for one annotator with transition (C, C) and labels (N,).

    >>> import torch
    >>> logits, labels = torch.tensor([[4.0, 0.0]]), torch.tensor([1])
    >>> TransitionCrossEntropy()(logits, torch.tensor([[0.7, 0.3], [0.0, 1.0]]), labels)
    tensor(1.1629)
    """

    settings = ("class_weight", "reduction")

    def __init__(self, class_weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self._keep_class_weight(class_weight)

    def forward(
        self, logits: Tensor, transition: Tensor, labels: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        return transition_cross_entropy(logits, transition, labels, sample_weight, self.class_weight, self.reduction)


class TraceRegularization(Loss):
    """Trace of transition matrices (Tanno et al., CVPR 2019); see `ferkit.functional.trace_regularization`.

    Args:
        reduction: ``"mean"`` over the annotators, ``"sum"`` (the paper) or ``"none"``: (S,).

    Call with transition (S, C, C), or (C, C) for one annotator.

    >>> import torch
    >>> TraceRegularization()(torch.tensor([[0.7, 0.3], [0.1, 0.9]]))
    tensor(1.6000)
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, transition: Tensor) -> Tensor:
        return trace_regularization(transition, self.reduction)
