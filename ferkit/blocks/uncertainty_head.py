"""DMUE's uncertainty module: how far a sample's label can be trusted, from its similarity to every class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ferkit.checks import check_choice, check_device, check_floating, check_labels, check_number, check_shape

__all__ = ["UncertaintyHead"]


class UncertaintyHead(nn.Module):
    """Confidence in (0, 1) from class similarities and the given label (DMUE, equation 8).

    Linear(2C → C), PReLU with one slope, Linear(C → 1), sigmoid, over [similarity ; one-hot label].

    Args:
        num_classes: C.
        bias: biases in both linear layers, as in the released code (the default; equation 8 prints none, and without
            them the paper's form is ``bias=False``).
        init: ``"random"`` (torch's own), or ``"similarity"``: confidence starts as sigmoid(6 s_y - 3), but for a
            small share of the other classes, s_y being the similarity to the given label's class on a scale of 0 to 1,
            and is trained from there. Needs ``bias``.

    Call with similarity (N, C), as `ferkit.functional.class_similarity` gives it, and int64 labels (N,), whose one-hot
    row is all 0 for -1. Gives (N,). Gradients reach the similarity. TypeError and ValueError for wrong dtypes, shapes,
    devices, or labels outside -1..C-1 (read on the CPU only).

    >>> head = UncertaintyHead(num_classes=3)
    >>> head(torch.rand(4, 3), torch.tensor([0, 1, 2, -1])).shape
    torch.Size([4])
    """

    def __init__(self, num_classes: int, bias: bool = True, init: str = "random") -> None:
        super().__init__()
        check_choice(init, "init", ("random", "similarity"))
        if init == "similarity" and not bias:
            raise ValueError("init: expected 'random' without bias, got 'similarity'")
        check_number(num_classes, "num_classes", 1, integer=True)
        self.num_classes = num_classes
        self.hidden = nn.Linear(2 * num_classes, num_classes, bias=bias)
        self.activation = nn.PReLU()
        self.output = nn.Linear(num_classes, 1, bias=bias)
        if init == "similarity":
            self._start_from_similarity()

    @torch.no_grad()
    def _start_from_similarity(self) -> None:
        """Hidden unit k is relu(one-hot_k - s_k): 1 - s_y for the label's class, 0 for the others."""
        identity = torch.eye(self.num_classes)
        self.hidden.weight.copy_(torch.cat([-identity, identity], dim=1))
        self.hidden.bias.zero_()
        self.activation.weight.fill_(0.01)  # nearly relu, but no unit without a gradient
        self.output.weight.fill_(-6.0)
        self.output.bias.fill_(3.0)

    def forward(self, similarity: Tensor, labels: Tensor) -> Tensor:
        check_floating(similarity, "similarity")
        check_shape(similarity, "similarity", ("N", self.num_classes))
        check_labels(labels, similarity.shape[0], self.num_classes)
        check_device(similarity, labels=labels)
        one_hot = labels.unsqueeze(1) == torch.arange(self.num_classes, device=labels.device)
        paired = torch.cat([similarity, one_hot.to(similarity.dtype)], dim=1)
        confidence: Tensor = self.output(self.activation(self.hidden(paired))).sigmoid().squeeze(1)
        return confidence
