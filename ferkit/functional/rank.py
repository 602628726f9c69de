"""SCN's rank regularisation: the confident part of a batch is to be more confident than the rest, by a margin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ferkit.checks import check_number, check_shape
from ferkit.functional._inputs import as_vector, full_precision, promote, rank_among
from ferkit.reduction import combine_weights, safe_divide

__all__ = ["check_rank", "rank_regularization"]


@full_precision
def rank_regularization(
    confidence: Tensor,
    share: float = 0.7,
    margin: float = 0.15,
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""SCN's rank regularisation :math:`\max(0, \delta_1 - (\bar\alpha_{high} - \bar\alpha_{low}))`.

    The batch is sorted by confidence; the mean of its upper ``share`` is to lie above that of the rest by ``margin``
    (Wang et al., CVPR 2020). Without it every confidence may be the same. Of equal ones the earlier counts as higher.

    Args:
        confidence: (N,) or (N, 1), alpha, usually in (0, 1).
        share: beta in (0, 1): of M samples the floor(beta M) of most confidence are the upper part; at least one, and
            at least one is left to the rest (the released code gives NaN for a batch of one).
        margin: delta_1, 0 or more.
        sample_weight: (N,), of a sample within its part's mean. Weight 0 equals removal.

    Returns:
        One value for the batch; float32 for half precision and under autocast. 0, with a zero gradient, for fewer than
        two samples.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices or numbers.

    >>> rank_regularization(torch.tensor([0.9, 0.8, 0.85]), margin=0.15)
    tensor(0.0750)
    """
    check_rank(share, margin)
    confidence = as_vector(confidence, "confidence")
    check_shape(confidence, "confidence", ("N",))
    size = confidence.shape[0]
    (confidence,) = promote(confidence)
    weight = combine_weights(None, size, confidence, sample_weight)
    if weight is None:
        weight = torch.ones_like(confidence)
    part = weight != 0
    confidence = torch.where(part, confidence, 0)
    count = part.sum()
    upper = torch.minimum((share * count.double() + 1e-9).floor().clamp_min(1), count - 1)
    rank = rank_among(-confidence, part)
    high = torch.where(rank < upper, weight, 0)
    low = torch.where(rank < upper, 0, weight)
    means = [safe_divide((confidence * each).sum(), each.sum()) for each in (high, low)]
    value = F.relu(margin - (means[0] - means[1]))
    # no order has a higher and a lower part with fewer than two; a product keeps the graph
    return torch.where(count < 2, confidence.sum() * 0, value)


def check_rank(share: float, margin: float) -> None:
    check_number(share, "share", 0, 1, open_low=True, open_high=True)
    check_number(margin, "margin", 0.0)
