"""Distances between predicted and voted label distributions: total variation, Kullback-Leibler, Jeffreys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ferkit.checks import check_number
from ferkit.metrics._rows import check_probabilities, check_votes, reduce_rows

__all__ = [
    "DistributionKL",
    "JeffreysDivergence",
    "TotalVariation",
    "distribution_kl",
    "jeffreys_divergence",
    "total_variation",
]

EPS = 1e-6


def _clip(distribution: Tensor, eps: float) -> Tensor:
    clipped = distribution.clamp_min(eps)
    return clipped / clipped.sum(1, keepdim=True)


def total_variation(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    r"""Total variation :math:`\frac12\sum_k |t_k - p_k|`, in [0, 1]; 0 means equal.

    Args:
        prediction: probabilities (N, C), rows summing to 1.
        target: label distributions or vote counts (N, C), each row divided by its sum. A row without votes takes no
            part (with ``reduction="none"`` its value is NaN).
        reduction: ``mean`` over the samples (NaN where there is none), ``sum``, or ``none`` for (N,).

    Raises:
        TypeError, ValueError: wrong dtype, shape or device, negative or non-finite values, rows not summing to 1.

    >>> total_variation(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[8, 2], [10, 0]]))
    tensor(0.1500, dtype=torch.float64)
    """
    p = check_probabilities(prediction, "prediction")
    return reduce_rows(0.5 * (check_votes(target, "target", prediction) - p).abs().sum(1), reduction)


def distribution_kl(prediction: Tensor, target: Tensor, eps: float = EPS, reduction: str = "mean") -> Tensor:
    r"""Kullback-Leibler divergence of the votes from the prediction, :math:`\sum_k t_k\log(t_k/p_k)`, in nats, >= 0.

    The prediction is clipped at ``eps`` from below and renormalised, so that no value is infinite; a class without
    votes contributes 0. Arguments and errors as in :func:`total_variation`; ``eps`` in (0, 1].

    >>> distribution_kl(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[8, 2], [10, 0]]))
    tensor(0.0964, dtype=torch.float64)
    """
    check_number(eps, "eps", 0, 1, open_low=True)
    p = _clip(check_probabilities(prediction, "prediction"), eps)
    t = check_votes(target, "target", prediction)
    return reduce_rows((torch.special.xlogy(t, t) - torch.special.xlogy(t, p)).sum(1), reduction)


def jeffreys_divergence(prediction: Tensor, target: Tensor, eps: float = EPS, reduction: str = "mean") -> Tensor:
    r"""Jeffreys divergence :math:`\sum_k (t_k - p_k)\log(t_k/p_k)`, in nats, >= 0 (LDLVA's supplement).

    It is KL(t || p) + KL(p || t). Both sides are clipped at ``eps`` from below and renormalised; the value of a
    one-hot target depends on ``eps``, so figures compare at the same ``eps`` only. Arguments and errors as in
    :func:`distribution_kl`.

    >>> jeffreys_divergence(torch.tensor([[0.5, 0.5]]), torch.tensor([[8, 2]]))
    tensor(0.4159, dtype=torch.float64)
    """
    check_number(eps, "eps", 0, 1, open_low=True)
    p = _clip(check_probabilities(prediction, "prediction"), eps)
    t = _clip(check_votes(target, "target", prediction), eps)
    return reduce_rows(((t - p) * (t.log() - p.log())).sum(1), reduction)


class _DistributionMetric(Metric):
    """Mean over all samples seen of a value per row; NaN before any sample with votes came."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch: probabilities (N, C), and label distributions or vote counts (N, C)."""
        rows = self.rows(prediction, target)
        self.total = self.total + rows.nansum()
        self.count = self.count + (~rows.isnan()).sum()

    def compute(self) -> Tensor:
        """The mean, a float64 scalar."""
        return self.total / self.count


class TotalVariation(_DistributionMetric):
    """:func:`total_variation` as a torchmetrics metric: the mean over all samples of all batches and processes.

    >>> metric = TotalVariation()
    >>> metric.update(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.8, 0.2]]))
    >>> metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    >>> metric.compute()
    tensor(0.1500, dtype=torch.float64)
    """

    plot_upper_bound = 1.0

    def rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        return total_variation(prediction, target, "none")


class DistributionKL(_DistributionMetric):
    """:func:`distribution_kl` as a torchmetrics metric.

    >>> metric = DistributionKL()
    >>> metric(torch.tensor([[0.5, 0.5]]), torch.tensor([[10, 0]]))
    tensor(0.6931, dtype=torch.float64)
    """

    def __init__(self, eps: float = EPS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number(eps, "eps", 0, 1, open_low=True)
        self.eps = eps

    def rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        return distribution_kl(prediction, target, self.eps, "none")


class JeffreysDivergence(DistributionKL):
    """:func:`jeffreys_divergence` as a torchmetrics metric.

    >>> metric = JeffreysDivergence(eps=1e-6)
    >>> metric(torch.tensor([[0.5, 0.5]]), torch.tensor([[8, 2]]))
    tensor(0.4159, dtype=torch.float64)
    """

    def rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        return jeffreys_divergence(prediction, target, self.eps, "none")
