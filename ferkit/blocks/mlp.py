"""The MLP block of the discriminator: a sum of two-layer sub-blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.blocks._spectral import spectral
from ferkit.checks import check_choice, check_floating, check_number, check_shape

__all__ = ["FORMS", "MLPBlock"]

FORMS = ("paper", "released")


class MLPBlock(nn.Module):
    r"""h = W x; output :math:`\sum_i W_{2i}\,\mathrm{relu}(W_{2i-1}\,\mathrm{relu}(h))` over the sub-blocks.

    All linear layers have a bias and are spectrally normalised.

    Args:
        in_features: of the input.
        out_features: of the output, and of everything within.
        sub_blocks: how many terms the sum has.
        form: ``"paper"`` (the supplement: the sum of four sub-blocks) or ``"released"`` (the code, which adds h itself,
            a linear skip). Both have the same parameters.

    Shape:
        (N, in_features) -> (N, out_features).

    Source: noisyFER, supplement, figure 2 (c).

    >>> import torch
    >>> MLPBlock(7, 16, form="released")(torch.zeros(6, 7)).shape
    torch.Size([6, 16])
    """

    def __init__(self, in_features: int, out_features: int, sub_blocks: int = 4, form: str = "paper") -> None:
        super().__init__()
        check_number(in_features, "in_features", 1, integer=True)
        check_number(out_features, "out_features", 1, integer=True)
        check_number(sub_blocks, "sub_blocks", 1, integer=True)
        self.in_features, self.form = in_features, check_choice(form, "form", FORMS)
        self.input = spectral(nn.Linear(in_features, out_features))
        self.first = nn.ModuleList(spectral(nn.Linear(out_features, out_features)) for _ in range(sub_blocks))
        self.second = nn.ModuleList(spectral(nn.Linear(out_features, out_features)) for _ in range(sub_blocks))

    def forward(self, x: Tensor) -> Tensor:
        check_floating(x, "x")
        check_shape(x, "x", ("N", self.in_features))
        h: Tensor = self.input(x)
        r = F.relu(h)
        terms = [second(F.relu(first(r))) for first, second in zip(self.first, self.second)]
        return sum(terms, start=h) if self.form == "released" else sum(terms[1:], start=terms[0])

    def extra_repr(self) -> str:
        return f"sub_blocks={len(self.first)}, form={self.form!r}"
