"""Batch normalisation between pooled features and a classifier without bias."""

from __future__ import annotations

from torch import Tensor, nn

from ferkit.checks import check_floating, check_number, check_shape

__all__ = ["BNNeck"]


class BNNeck(nn.BatchNorm1d):
    """``BatchNorm1d`` with a trained scale that starts at 1 and a shift that stays 0.

    In training it normalises what it is called with by that sub-batch's own statistics and moves the running ones: one
    neck that several branches call depends on the order of the calls.

    Args:
        num_features: D.

    Call with features (N, D), gives (N, D). TypeError and ValueError for another dtype or shape; ValueError in training
    for a single row, or none, which has no variance.

    Source: Luo et al., CVPR workshops 2019 (BNNeck); the released code of DMUE (She et al., CVPR 2021) shares one among
    all branches.

    >>> import torch
    >>> neck = BNNeck(2)
    >>> neck(torch.tensor([[1.0, 5.0], [3.0, 9.0]])).round(decimals=3).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> neck.running_mean
    tensor([0.2000, 0.7000])
    """

    def __init__(self, num_features: int) -> None:
        check_number(num_features, "num_features", 1, integer=True)
        super().__init__(num_features)
        self.bias.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        check_floating(input, "input")
        check_shape(input, "input", ("N", self.num_features))
        if self.training and len(input) < 2:
            raise ValueError(f"input: expected 2 rows or more in training, got {len(input)}")
        return super().forward(input)
