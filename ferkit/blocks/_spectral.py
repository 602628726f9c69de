"""Spectral normalisation: a layer's weight divided by a running estimate of its largest singular value."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

__all__ = ["SpectralNorm", "make_orthogonal", "spectral"]

EPS = 1e-12
START = 15  # power iterations at the start, as torch's parametrization takes
M = TypeVar("M", bound=nn.Module)


class SpectralNorm(parametrizations._SpectralNorm):
    """torch's parametrization, with the power iteration in the order of Miyato et al. (ICLR 2018, algorithm 1).

    That is v from u, then u from the new v, which is what the older hook in torch and so noisyFER's released code do.
    torch's parametrization goes the other way round, half an iteration apart. The state dict has the same keys.
    """

    @torch.no_grad()
    def _power_method(self, weight_mat: Tensor, n_power_iterations: int) -> None:
        # in place, so that every replica and every graph sees it; forward clones before it multiplies
        for _ in range(n_power_iterations):
            self._v.copy_(F.normalize(torch.mv(weight_mat.t(), self._u), dim=0, eps=self.eps))
            self._u.copy_(F.normalize(torch.mv(weight_mat, self._v), dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        # half precision would move the estimate itself, which is kept from step to step
        device = weight.device.type
        if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return super().forward(weight)
        return super().forward(weight)


def spectral(module: M) -> M:
    """Normalise ``module.weight`` spectrally, by one power iteration each time it is read in training mode.

    Convolutions are unfolded to (out, in·k·k), transposed ones along their dimension 1, which is the output too. eps is
    1e-12. u and v are buffers, in the state dict; in ``eval()`` they stay. Returns the module.

    >>> layer = spectral(nn.Linear(4, 3))
    >>> layer.eval()(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """
    dim = 1 if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)) else 0
    parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight, 1, dim, EPS))  # type: ignore[arg-type]
    return module


@torch.no_grad()
def make_orthogonal(network: nn.Module) -> None:
    """Start every spectrally normalised weight of ``network`` from rows (or columns) that are orthonormal.

    Divided by its largest singular value, a weight of independent entries shrinks what goes through it by about a half,
    and a deep network's output to nothing; one whose singular values are all 1 does not (BigGAN starts so).

    >>> layer = spectral(nn.Linear(4, 3))
    >>> make_orthogonal(layer)
    >>> torch.allclose(layer.weight @ layer.weight.T, torch.eye(3), atol=1e-6)
    True
    """
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            stored: Any = module.parametrizations
            weight: Tensor = stored["weight"].original
            norm: SpectralNorm = stored["weight"][0]
            order = [norm.dim, *(axis for axis in range(weight.ndim) if axis != norm.dim)]  # rows first
            rows = torch.empty_like(weight.permute(order), memory_format=torch.contiguous_format)
            weight.permute(order).copy_(nn.init.orthogonal_(rows))
            norm._power_method(rows.flatten(1), START)  # of the new weight, for who asks in eval() first
