"""Self-attention over a feature map, with pooled keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.blocks._spectral import spectral
from ferkit.checks import check_floating, check_number, check_shape

__all__ = ["SelfAttention2d"]


class SelfAttention2d(nn.Module):
    r"""SAGAN's self-attention in BigGAN's variant, :math:`x + \gamma\, W_o\, \mathrm{attention}(x)` with a gain from 0.

    Queries and keys have C/8 channels, values C/2; **keys and values are max-pooled by 2**, the four 1x1 convolutions
    have no bias and are spectrally normalised, and the softmax over the HW/4 keys is of plain dot products (no
    :math:`1/\sqrt d`). SAGAN as printed pools nothing and has C/8 channels in the values too.

    Args:
        channels: C, 8 or more.
        explicit: form the (HW, HW/4) attention map instead of calling ``scaled_dot_product_attention``. The result is
            the same; the explicit formula can be differentiated twice (for a gradient penalty), fused kernels cannot.

    Shape:
        (N, C, H, W) with even H and W -> the same.

    Raises:
        TypeError, ValueError: for fewer than 8 channels, another shape, odd H or W.

    Source: Zhang et al., ICML 2019 (SAGAN); noisyFER, supplement, figure 2 (b), and its released code.

    >>> SelfAttention2d(16)(torch.zeros(2, 16, 8, 8)).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(self, channels: int, explicit: bool = False) -> None:
        super().__init__()
        check_number(channels, "channels", 8, integer=True)
        self.channels, self.explicit = channels, explicit
        self.theta = spectral(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.phi = spectral(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.g = spectral(nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.o = spectral(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        check_floating(x, "x")
        check_shape(x, "x", ("N", self.channels, "H", "W"))
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            raise ValueError(f"x: expected even H and W (keys and values are pooled by 2), got {tuple(x.shape)}")
        inner = self.channels // 8
        # one convolution for the three: the map is read once
        projected = F.conv2d(x, torch.cat([self.theta.weight, self.phi.weight, self.g.weight]))
        pooled = F.max_pool2d(projected[:, inner:], 2)
        queries, keys, values = (_rows(part) for part in (projected[:, :inner], pooled[:, :inner], pooled[:, inner:]))
        if self.explicit:
            attended = (queries @ keys.transpose(1, 2)).softmax(2) @ values
        else:
            queries, keys, values = queries.unsqueeze(1), keys.unsqueeze(1), values.unsqueeze(1)
            attended = F.scaled_dot_product_attention(queries, keys, values, scale=1.0).squeeze(1)
        image = attended.transpose(1, 2).unflatten(2, (height, width))  # type: ignore[no-untyped-call]
        output: Tensor = x + self.gamma * self.o(image)
        return output

    def extra_repr(self) -> str:
        return f"channels={self.channels}, explicit={self.explicit}"


def _rows(image: Tensor) -> Tensor:
    """(N, C, H, W) as (N, HW, C); contiguous, which fused attention asks of the last dimension."""
    return image.flatten(2).transpose(1, 2).contiguous()
