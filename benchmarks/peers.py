"""The nearest peers: what a user would call or copy instead. Compared in speed; their formulas differ where noted."""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor


def released_class_similarity(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """DMUE's released cosine statistics before the min-max, re-expressed: all cosines, then a mean per class."""
    norms = features.norm(dim=1)
    cosine = (features @ features.t()) / (norms[:, None] * norms[None])
    return torch.stack([cosine[:, labels == label].mean(1) for label in range(num_classes)], 1)


def released_similarity_preserving(target: Tensor, auxiliary: Tensor, labels: Tensor) -> Tensor:
    """DMUE's released similarity term, re-expressed: negatives first, then row norms, then a mean squared error."""
    losses = []
    for branch, features in enumerate(auxiliary):
        negative = labels != branch
        own, other = target[negative], features[negative]
        losses.append(F.mse_loss(F.normalize(own @ own.t()), F.normalize(other @ other.t())))
    return torch.stack(losses).mean()


def released_losses(
    features: Tensor,
    neck: Tensor,
    auxiliary: Tensor,
    logits: Tensor,
    head: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    labels: Tensor,
    up: float = 1.0,
    down: float = 1.0,
) -> Tensor:
    """All loss terms of a released DMUE step, re-expressed: omega 0.5, gamma 1000, T 1.2.

    Args: pooled features (N, D), the same after the BN-neck (N, D), branch logits (C, N, C-1), target logits (N, C),
        the uncertainty head's weight, bias, PReLU slope, weight and bias, labels (N,), the two ramps.
    """
    classes = logits.shape[1]
    raw = released_class_similarity(features, labels, classes)
    low, high = raw.amin(1, keepdim=True), raw.amax(1, keepdim=True)
    similarity = torch.cat([(raw - low) / (high - low), F.one_hot(labels, classes).to(raw.dtype)], 1)
    hidden = F.prelu(F.linear(similarity, head[0], head[1]), head[2])
    alpha = torch.sigmoid(F.linear(hidden, head[3], head[4]))
    weighted = F.cross_entropy(alpha * logits, labels)

    own_loss, soft = [], torch.zeros_like(logits)
    for branch in range(classes):
        others = [label for label in range(classes) if label != branch]
        rows = auxiliary[branch]
        negative, positive = labels != branch, labels == branch
        kept = labels[negative]
        own_loss.append(F.cross_entropy(rows[negative], kept - (kept > branch).long()))
        sharp = rows[positive].detach().softmax(1) ** (1 / 1.2)
        filled = torch.zeros(int(positive.sum()), classes, dtype=soft.dtype, device=soft.device)
        filled[:, others] = sharp / sharp.sum(1, keepdim=True)
        soft[positive] = filled
    keep = 1 - F.one_hot(labels, classes).to(logits.dtype)
    latent = ((soft - logits.softmax(1) * keep) ** 2).mean()
    preserving = released_similarity_preserving(neck, auxiliary, labels)
    return up * (weighted + 0.5 * latent + 1000 * preserving) + down * torch.stack(own_loss).mean()


def kl_div_guidance(logits: Tensor, neighbor_logits: Tensor, weight: Tensor) -> Tensor:
    """torch.nn.functional.kl_div per neighbour, weighted."""
    own = logits.log_softmax(-1)[:, None].expand_as(neighbor_logits)
    kl = F.kl_div(own, neighbor_logits.detach().log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return (weight * kl).sum(1).mean()


def torchmetrics_concordance(prediction: Tensor, target: Tensor) -> Tensor:
    """torchmetrics' CCC as a loss; its variances and covariance are the unbiased ones."""
    from torchmetrics.functional import concordance_corrcoef

    return 1 - concordance_corrcoef(prediction, target).mean()


def available(name: str) -> bool:
    """Whether a peer's package is installed."""
    return importlib.util.find_spec(name) is not None
