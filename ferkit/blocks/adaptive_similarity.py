"""LDLVA's calibration network: how much a neighbour should count, read off two features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ferkit.checks import check_device, check_floating, check_number, check_shape, check_tensor

__all__ = ["AdaptiveSimilarity"]


class AdaptiveSimilarity(nn.Module):
    """Calibration in (0, 1) of each neighbour's contribution, from the features of both (LDLVA, as released).

    [centre ; neighbour] → (Linear, batch norm, ReLU) per hidden width → Linear to 1 → max(., floor) → sigmoid. Below
    the floor the gradient is 0. Batch statistics run over samples and neighbours jointly. Hidden layers start He-normal
    as released, the last one Xavier-uniform (Keras's own), biases at 0. Batch norm has Keras's eps of 1e-3 and keeps
    0.99 of its running statistics at each step (torch's momentum 0.01).

    Args:
        dim: D.
        hidden: widths of the hidden layers (released: 512, 256).
        floor: least value before the sigmoid (released: -1.3, which keeps the result at 0.2142 or above), or None.

    Call with center (N, D), neighbors (N, K, D) and optionally mask, bool (N, K): pairs that are False take no part,
    neither in the batch statistics, nor even if they hold NaN, and give 0 without a gradient. Gives (N, K), float32 for
    half precision and under autocast. In training with fewer than two pairs, which have no variance, the running
    statistics serve, as in ``eval()``. Masked statistics are each process's own. Gradients reach both features (the
    released code passes the neighbours' as constants). TypeError and ValueError for wrong dtypes, shapes and devices.

    >>> similarity = AdaptiveSimilarity(dim=8)
    >>> similarity(torch.randn(4, 8), torch.randn(4, 3, 8)).shape
    torch.Size([4, 3])
    """

    def __init__(self, dim: int, hidden: tuple[int, ...] = (512, 256), floor: float | None = -1.3) -> None:
        super().__init__()
        check_number(dim, "dim", 1, integer=True)
        if not isinstance(hidden, (tuple, list)):
            raise TypeError(f"hidden: expected a tuple of widths, got {type(hidden).__name__}")
        for width in hidden:
            check_number(width, "hidden", 1, integer=True)
        if floor is not None:
            check_number(floor, "floor")
        self.dim, self.floor = dim, floor
        widths = (2 * dim, *hidden)
        self.layers = nn.ModuleList(nn.Linear(wide, narrow) for wide, narrow in zip(widths, hidden))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width, eps=1e-3, momentum=0.01) for width in hidden)
        self.output = nn.Linear(widths[-1], 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He-normal hidden weights, Xavier-uniform output, biases 0, fresh statistics."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        for norm in self.norms:
            assert isinstance(norm, _BatchNorm)
            norm.reset_parameters()

    def extra_repr(self) -> str:
        return f"dim={self.dim}, floor={self.floor}"

    def forward(self, center: Tensor, neighbors: Tensor, mask: Tensor | None = None) -> Tensor:
        check_floating(center, "center")
        check_floating(neighbors, "neighbors")
        check_shape(center, "center", ("N", self.dim))
        check_shape(neighbors, "neighbors", (center.shape[0], "K", self.dim))
        check_device(center, neighbors=neighbors, mask=mask)
        shape = neighbors.shape[:2]
        if mask is not None:
            check_tensor(mask, "mask")
            if mask.dtype != torch.bool:
                raise TypeError(f"mask: expected dtype torch.bool, got {mask.dtype}")
            check_shape(mask, "mask", shape)
            center = torch.where(mask.any(1, keepdim=True), center, 0)
            neighbors = torch.where(mask.unsqueeze(2), neighbors, 0)
        values = torch.cat([center.unsqueeze(1).expand(-1, shape[1], -1), neighbors], 2).flatten(0, 1)
        kept = None if mask is None else mask.flatten()
        for layer, norm in zip(self.layers, self.norms):
            values = _normalize(norm, layer(values), kept).relu()
        score = self.output(values).view(shape)
        if score.dtype in (torch.float16, torch.bfloat16):
            score = score.float()
        result = (score if self.floor is None else score.clamp_min(self.floor)).sigmoid()
        return result if mask is None else torch.where(mask, result, 0)


def _normalize(norm: nn.Module, values: Tensor, kept: Tensor | None) -> Tensor:
    """Batch norm over the rows that are kept; by the running statistics where fewer than two are."""
    assert isinstance(norm, _BatchNorm)
    if norm.training and kept is not None:
        return _masked_norm(norm, values, kept)
    # the synchronised kind counts the rows of all processes, and every one of them must call it
    if not norm.training or values.shape[0] > 1 or isinstance(norm, nn.SyncBatchNorm):
        normalized: Tensor = norm(values)
        return normalized
    return nn.functional.batch_norm(
        values, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
    )


def _masked_norm(norm: _BatchNorm, values: Tensor, kept: Tensor) -> Tensor:
    """Batch statistics of the kept rows at a fixed shape: nothing waits for the device to count them."""
    running_mean, running_var = norm.running_mean, norm.running_var
    assert running_mean is not None and running_var is not None
    assert norm.momentum is not None and norm.num_batches_tracked is not None
    dtype = values.dtype
    values = values.to(running_mean.dtype)  # float32 under autocast
    rows = kept.unsqueeze(1)
    count = kept.sum().to(values.dtype)
    enough = count > 1
    mean = torch.where(rows, values, 0).sum(0) / count.clamp_min(1)
    deviation = torch.where(rows, values - mean, 0)
    variance = deviation.square().sum(0) / count.clamp_min(1)
    with torch.no_grad():
        step = torch.where(enough, norm.momentum, 0.0)
        unbiased = variance * (count / (count - 1).clamp_min(1))
        running_mean.copy_(running_mean + step * (mean - running_mean))
        running_var.copy_(running_var + step * (unbiased - running_var))
        norm.num_batches_tracked.add_(enough.to(norm.num_batches_tracked.dtype))
    mean = torch.where(enough, mean, running_mean)
    variance = torch.where(enough, variance, running_var)
    normalized = (values - mean) * torch.rsqrt(variance + norm.eps)
    return (normalized * norm.weight + norm.bias).to(dtype)
