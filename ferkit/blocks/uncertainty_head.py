"""DMUE's uncertainty module: how far a sample's label can be trusted, from its similarity to every class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ferkit.checks import check_device, check_floating, check_labels, check_number, check_shape

__all__ = ["UncertaintyHead"]


class UncertaintyHead(nn.Module):
    """Confidence in (0, 1) from class similarities and the given label (DMUE, equation 8).

    Linear(2C → C), PReLU with one slope, Linear(C → 1), sigmoid, over [similarity ; one-hot label].

    Args:
        num_classes: C.
        bias: biases in both linear layers, as in the released code (the default; equation 8 prints none, and without
            them the paper's form is ``bias=False``).

    Call with similarity (N, C), as `ferkit.functional.class_similarity` gives it, and int64 labels (N,), whose one-hot
    row is all 0 for -1. Gives (N,). Gradients reach the similarity. TypeError and ValueError for wrong dtypes, shapes,
    devices, or labels outside -1..C-1 (read on the CPU only).

    >>> head = UncertaintyHead(num_classes=3)
    >>> head(torch.rand(4, 3), torch.tensor([0, 1, 2, -1])).shape
    torch.Size([4])
    """

    def __init__(self, num_classes: int, bias: bool = True) -> None:
        super().__init__()
        check_number(num_classes, "num_classes", 1, integer=True)
        self.num_classes = num_classes
        self.hidden = nn.Linear(2 * num_classes, num_classes, bias=bias)
        self.activation = nn.PReLU()
        self.output = nn.Linear(num_classes, 1, bias=bias)

    def forward(self, similarity: Tensor, labels: Tensor) -> Tensor:
        check_floating(similarity, "similarity")
        check_shape(similarity, "similarity", ("N", self.num_classes))
        check_labels(labels, similarity.shape[0], self.num_classes)
        check_device(similarity, labels=labels)
        one_hot = labels.unsqueeze(1) == torch.arange(self.num_classes, device=labels.device)
        paired = torch.cat([similarity, one_hot.to(similarity.dtype)], dim=1)
        confidence: Tensor = self.output(self.activation(self.hidden(paired))).sigmoid().squeeze(1)
        return confidence
