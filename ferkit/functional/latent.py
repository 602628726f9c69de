"""DMUE's latent label distribution: mined from the auxiliary branches, then a target for the target branch."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import (
    check_choice,
    check_device,
    check_floating,
    check_label_range,
    check_labels,
    check_shape,
    out_of_range,
)
from ferkit.functional._inputs import check_temperature, full_precision, poison_rows, promote, zero_rows
from ferkit.functional.cross_entropy import check_auxiliary_logits
from ferkit.ops import flag_out_of_range
from ferkit.reduction import REDUCTIONS, combine_weights, reduce

__all__ = ["DIVISORS", "latent_distribution", "latent_distribution_loss", "sharpen"]

DIVISORS = ("paper", "released")


@full_precision
def sharpen(logits: Tensor, temperature: float, dim: int = -1) -> Tensor:
    r"""Sharpened probabilities :math:`p_k^{1/T} / \sum_m p_m^{1/T}` of p = softmax(logits) (DMUE, equation 3).

    Computed as softmax(logits / T), which is equal to it and does not underflow; of probabilities p, pass ``p.log()``.
    T above 1 flattens. float32 for half precision and under autocast. ValueError for a temperature of 0 or less.

    >>> sharpen(torch.tensor([0.25, 0.75]).log(), temperature=0.5)
    tensor([0.1000, 0.9000])
    """
    check_floating(logits, "logits")
    check_temperature(temperature)
    (logits,) = promote(logits)
    return torch.softmax(logits / temperature, dim)


@full_precision
def latent_distribution(auxiliary_logits: Tensor, labels: Tensor, temperature: float = 1.2) -> Tensor:
    """The distribution over the other classes that branch y_n, which never saw class y_n, gives to sample n.

    Softmax over the C-1 logits of branch y_n, sharpened, with 0 put in at y_n (DMUE, section 3.1 and equation 3; paper
    and released code agree).

    Args:
        auxiliary_logits: (C, N, C-1), C at least 2; only row n of branch y_n is read.
        labels: int64 (N,).
        temperature: T of `sharpen`.

    Returns:
        (N, C), detached; each row sums to 1, that of a sample labelled -1 is all 0.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, temperature, or labels outside -1..C-1.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[0.0, 1.2]], [[0.0, 0.0]]])
    >>> latent_distribution(logits, torch.tensor([1]))
    tensor([[0.2689, 0.0000, 0.7311]])
    """
    num_classes, size, _ = check_auxiliary_logits(auxiliary_logits, labels)
    own = labels.clamp(0, num_classes - 1).view(1, size, 1).expand(1, size, num_classes - 1)
    shares = sharpen(auxiliary_logits.detach().gather(0, own).squeeze(0), temperature)
    classes = torch.arange(num_classes, device=labels.device)
    label = labels.unsqueeze(1)
    source = (classes - (classes > label).to(labels.dtype)).clamp(0, num_classes - 2)
    result = torch.where((classes == label) | (label < 0), 0, shares.gather(1, source))
    return poison_rows(result, out_of_range(labels, num_classes))


@full_precision
def latent_distribution_loss(
    logits: Tensor,
    distribution: Tensor,
    labels: Tensor,
    divisor: str = "paper",
    sample_weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Squared distance of the prediction from the latent distribution, without the labelled class.

    :math:`\frac{1}{N(C-1)} \sum_n \sum_{k\ne y_n} (q_{nk} - p_{nk})^2`, p = softmax(logits) (DMUE, equation 4). p is
    not renormalised without y_n, and the gradient passes through the whole softmax.

    Args:
        logits: (N, C), C at least 2, of the target branch, not weighted by the confidence.
        distribution: q, (N, C), as `latent_distribution` gives it; not detached here.
        labels: int64 (N,); rows labelled -1 take no part.
        divisor: ``"paper"``: C-1; ``"released"``: C, so that the value is (C-1)/C of the paper's.
        sample_weight: (N,).
        class_weight: (C,), multiplied with the sample weight by label.
        reduction: ``"mean"`` (over the sum of the weights), ``"sum"`` or ``"none"``.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or labels outside -1..C-1 (read on the CPU).

    >>> q = torch.tensor([[0.0, 1.0, 0.0]])
    >>> latent_distribution_loss(torch.zeros(1, 3), q, torch.tensor([0]))
    tensor(0.2778)
    """
    check_choice(divisor, "divisor", DIVISORS)
    check_choice(reduction, "reduction", REDUCTIONS)
    check_floating(logits, "logits")
    check_floating(distribution, "distribution")
    check_shape(logits, "logits", ("N", "C"))
    size, num_classes = logits.shape
    if num_classes < 2:
        raise ValueError(f"logits: expected shape (N, C) with C of 2 or more, got {tuple(logits.shape)}")
    check_shape(distribution, "distribution", (size, num_classes))
    check_labels(labels, size)
    check_device(logits, distribution=distribution, labels=labels)
    complete = check_label_range(labels, num_classes)
    flag_out_of_range(labels, num_classes)
    logits, distribution = promote(logits, distribution)
    weight = combine_weights(labels, size, logits, sample_weight, class_weight, num_classes, complete)
    if weight is not None:
        logits, distribution = zero_rows(logits, weight != 0), zero_rows(distribution, weight != 0)
    own = labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)
    difference = (distribution - logits.softmax(1)).masked_fill(own, 0)
    values = difference.square().sum(1) / (num_classes - 1 if divisor == "paper" else num_classes)
    return reduce(values, reduction, weight)
