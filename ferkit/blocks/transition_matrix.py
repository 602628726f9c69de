"""What annotators make of the true classes: trained row-stochastic matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ferkit.checks import check_number

__all__ = ["TransitionMatrix"]


class TransitionMatrix(nn.Module):
    """Confusion matrices of annotators, trained with a network (LTNet: Zeng et al., ECCV 2018).

    Row k says what an annotator calls class k. There is no softmax: the weights themselves are the matrix, clipped from
    below and divided by their row's sum in each forward pass; `project`, after a step of the optimiser, writes that
    back, as the published layer does. What is clipped has the gradient of its bound, so that it can come back.

    Args:
        num_classes: C.
        sources: S, the number of annotators, or None for a single matrix without that axis.
        diagonal: the share of right labels at the start, in (0, 1]; the rest is spread evenly. The paper starts near
            the identity.
        minimum: of an entry before the division, in (0, 1/C).

    Call without arguments; gives (S, C, C), or (C, C), with rows summing to 1.

    >>> TransitionMatrix(2, diagonal=0.9)()
    tensor([[0.9000, 0.1000],
            [0.1000, 0.9000]], grad_fn=<DivBackward0>)
    """

    def __init__(
        self, num_classes: int, sources: int | None = None, diagonal: float = 0.95, minimum: float = 1e-5
    ) -> None:
        super().__init__()
        check_number(num_classes, "num_classes", 2, integer=True)
        if sources is not None:
            check_number(sources, "sources", 1, integer=True)
        check_number(diagonal, "diagonal", 0.0, 1.0, open_low=True)
        check_number(minimum, "minimum", 0.0, 1 / num_classes, open_low=True)
        self.num_classes, self.sources, self.diagonal, self.minimum = num_classes, sources, diagonal, minimum
        start = torch.full((num_classes, num_classes), (1 - diagonal) / (num_classes - 1)).fill_diagonal_(diagonal)
        self.weight = nn.Parameter(start if sources is None else start.repeat(sources, 1, 1))

    def extra_repr(self) -> str:
        names = ("num_classes", "sources", "diagonal", "minimum")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(self) -> Tensor:
        clipped = self.weight.detach().clamp_min(self.minimum) + (self.weight - self.weight.detach())
        return clipped / clipped.sum(-1, keepdim=True)

    @torch.no_grad()
    def project(self) -> None:
        """Make the weights the matrix that they stand for, after a step of the optimiser."""
        self.weight.copy_(self())
