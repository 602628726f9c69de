"""What the network last said of every training image, so that neighbours need not pass through it again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ferkit.checks import check_number

__all__ = ["NeighborBank"]

SMALLEST = 1e-12  # probability below which its logarithm is not followed


class NeighborBank(nn.Module):
    """Latest class probabilities, and optionally features, of each training image, by its position.

    A training batch is read and then written, so that an image's neighbours are at most one epoch old. With a momentum
    the probabilities are a running mean over the epochs (temporal ensembling, Laine and Aila 2017), which starts at the
    first value seen; features are always the latest. The buffers are in no ``state_dict()``: a trained model needs none
    of them; recipes put them into the checkpoint beside it (``snapshot`` and ``restore``).

    Args:
        num_samples: N.
        num_classes: C.
        features: D, or 0 to keep none. Memory: 4 N (C + D) bytes.
        momentum: share of the old probabilities that stays, in [0, 1).

    >>> bank = NeighborBank(num_samples=3, num_classes=2)
    >>> bank.write(torch.tensor([2]), torch.tensor([[1.0, 1.0]]))
    >>> logits, _, known = bank.read(torch.tensor([[2, 0]]))
    >>> logits.exp(), known
    (tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]]), tensor([[ True, False]]))
    """

    def __init__(self, num_samples: int, num_classes: int, features: int = 0, momentum: float = 0.0) -> None:
        super().__init__()
        check_number(num_samples, "num_samples", 1, integer=True)
        check_number(num_classes, "num_classes", 2, integer=True)
        check_number(features, "features", 0, integer=True)
        check_number(momentum, "momentum", 0, 1)
        if momentum == 1:
            raise ValueError("momentum: expected a value in [0, 1), got 1")
        self.momentum = momentum
        self.probability: Tensor
        self.feature: Tensor
        self.seen: Tensor
        uniform = torch.full((num_samples, num_classes), 1 / num_classes)
        self.register_buffer("probability", uniform, persistent=False)
        self.register_buffer("feature", torch.zeros(num_samples, features), persistent=False)
        self.register_buffer("seen", torch.zeros(num_samples, dtype=torch.bool), persistent=False)

    def read(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (..., C), features (..., D), and whether each was ever written (...)."""
        return self.probability[index].clamp_min(SMALLEST).log(), self.feature[index], self.seen[index]

    @torch.no_grad()
    def write(self, index: Tensor, logits: Tensor, features: Tensor | None = None) -> None:
        """Keep what was said of the images at positions (B,): logits (B, C), features (B, D).

        What is not finite (a batch that overflowed) is not kept: a running mean would stay NaN for good.
        """
        probability = logits.detach().float().softmax(1)
        finite = probability.isfinite().all(1)
        kept = features is not None and self.feature.shape[1] > 0
        if features is not None and kept:
            features = features.detach().float()
            finite = finite & features.isfinite().all(1)
        # An image that comes twice is written twice with its last value: the same on every device and in every run.
        order = torch.arange(len(index), device=index.device)
        same = (index[:, None] == index[None, :]) & finite[None, :]
        last = torch.where(same, order, -1).amax(1) if len(index) else order
        said, last = last >= 0, last.clamp_min(0)
        keep = torch.where(self.seen[index], self.momentum, 0.0)[:, None]
        old = self.probability[index]
        self.probability[index] = torch.where(said[:, None], torch.lerp(probability[last], old, keep), old)
        if features is not None and kept:  # not averaged: features of other weights do not mix
            self.feature[index] = torch.where(said[:, None], features[last], self.feature[index])
        self.seen[index] = self.seen[index] | said

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of what is held, for a checkpoint."""
        return {name: value.detach().cpu().clone() for name, value in self.named_buffers()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a ``snapshot``; ValueError if it is of other images."""
        for name, value in self.named_buffers():
            if name not in state or state[name].shape != value.shape:
                found = tuple(state[name].shape) if name in state else None
                raise ValueError(f"state: expected {name} of shape {tuple(value.shape)}, got {found}")
            value.copy_(state[name])

    def extra_repr(self) -> str:
        samples, classes = self.probability.shape
        return (
            f"num_samples={samples}, num_classes={classes}, features={self.feature.shape[1]}, momentum={self.momentum}"
        )
