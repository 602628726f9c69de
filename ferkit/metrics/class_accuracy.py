"""Mean class accuracy over the classes that the evaluation set holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ferkit.checks import check_device, check_labels, check_number, check_shape, check_tensor

__all__ = ["MeanClassAccuracy", "mean_class_accuracy"]


def _hits_and_support(prediction: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    check_tensor(prediction, "prediction")
    if prediction.is_floating_point():
        check_shape(prediction, "prediction", ("N", num_classes))
        prediction = prediction.argmax(1)
    else:
        check_labels(prediction, len(prediction) if prediction.ndim else 0, num_classes, "prediction")
    check_labels(labels, len(prediction), num_classes)
    check_device(prediction, labels=labels)
    member = labels[:, None] == torch.arange(num_classes, device=labels.device)
    return (member & (prediction == labels)[:, None]).sum(0), member.sum(0)


def _mean_over_present(hits: Tensor, support: Tensor) -> Tensor:
    return (hits.double() / support).nanmean()  # 0/0 is NaN: an absent class takes no part


def mean_class_accuracy(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean over the classes present in ``labels`` of the share of their samples that are predicted right, in [0, 1].

    A class without a sample takes no part. (torchmetrics' macro accuracy counts it as 0 as soon as it is predicted
    once.)

    Args:
        prediction: logits or probabilities (N, C), or predicted classes (N,) int64.
        labels: classes (N,) int64; samples labelled -1 are left out.
        num_classes: C.

    Returns:
        A float64 scalar; NaN if no sample is labelled.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device, labels outside -1..C-1.

    >>> mean_class_accuracy(torch.tensor([0, 2, 1, 1]), torch.tensor([0, 0, 1, 1]), num_classes=4)
    tensor(0.7500, dtype=torch.float64)
    """
    check_number(num_classes, "num_classes", 1, integer=True)
    return _mean_over_present(*_hits_and_support(prediction, labels, num_classes))


class MeanClassAccuracy(Metric):
    """:func:`mean_class_accuracy` as a torchmetrics metric.

    >>> metric = MeanClassAccuracy(num_classes=4)
    >>> metric.update(torch.tensor([0, 2]), torch.tensor([0, 0]))
    >>> metric.update(torch.tensor([1, 1]), torch.tensor([1, 1]))
    >>> metric.compute()
    tensor(0.7500, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    hits: Tensor
    support: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number(num_classes, "num_classes", 1, integer=True)
        self.num_classes = num_classes
        for name in ("hits", "support"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Add a batch: logits, probabilities (N, C) or classes (N,), and labels (N,)."""
        hits, support = _hits_and_support(prediction, labels, self.num_classes)
        self.hits = self.hits + hits
        self.support = self.support + support

    def compute(self) -> Tensor:
        """The mean, a float64 scalar."""
        return _mean_over_present(self.hits, self.support)
