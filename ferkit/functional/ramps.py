"""Ramps over the epochs (DMUE section 3.4): the target branch's terms come in, the auxiliary term fades."""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor

from ferkit.checks import check_choice, check_number

__all__ = ["ramp_down", "ramp_up"]

_FACTOR = {"paper": 1.0, "released": 5.0}


@overload
def ramp_up(epoch: float, beta: float, form: str = "paper") -> float: ...
@overload
def ramp_up(epoch: Tensor, beta: float, form: str = "paper") -> Tensor: ...
def ramp_up(epoch: float | Tensor, beta: float, form: str = "paper") -> float | Tensor:
    r"""Weight that rises to 1 at epoch ``beta``: :math:`\exp(-k(1-e/\beta)^2)` for :math:`e\le\beta`, then 1.

    ``form="paper"`` has k = 1 (0.37 at epoch 0), ``form="released"`` k = 5 (0.007 at epoch 0); the paper counts epochs
    from 1, its released code from 0. ``epoch`` and ``beta`` are in the same unit (epochs, or shares of the run), a
    number or a tensor of any shape; ``beta=0`` is 1 throughout. ValueError for a negative beta, or an epoch that is a
    negative number.

    >>> round(ramp_up(3, 6), 4), round(ramp_up(3, 6, form="released"), 4), ramp_up(7, 6)
    (0.7788, 0.2865, 1.0)
    """
    factor = _FACTOR[check_choice(form, "form", tuple(_FACTOR))]
    check_number(beta, "beta", 0.0)
    if isinstance(epoch, Tensor):
        if beta == 0:
            return torch.ones_like(_real(epoch))
        return torch.exp(-factor * (1 - _real(epoch) / beta).clamp_min(0) ** 2)
    check_number(epoch, "epoch", 0.0)
    return math.exp(-factor * (1 - epoch / beta) ** 2) if epoch < beta else 1.0


@overload
def ramp_down(epoch: float, beta: float) -> float: ...
@overload
def ramp_down(epoch: Tensor, beta: float) -> Tensor: ...
def ramp_down(epoch: float | Tensor, beta: float) -> float | Tensor:
    r"""Weight that is 1 up to epoch ``beta``, then :math:`\exp(-(1-\beta/e)^2)`, which falls towards 1/e = 0.37.

    Paper and released code agree. ``beta=0`` is 1 at epoch 0 and 1/e after it. Arguments and errors as in `ramp_up`.

    >>> ramp_down(6, 6), round(ramp_down(12, 6), 4)
    (1.0, 0.7788)
    """
    check_number(beta, "beta", 0.0)
    if isinstance(epoch, Tensor):
        epoch = _real(epoch)
        late = epoch > beta
        return torch.where(late, torch.exp(-((1 - beta / torch.where(late, epoch, 1)) ** 2)), 1)
    check_number(epoch, "epoch", 0.0)
    return math.exp(-((1 - beta / epoch) ** 2)) if epoch > beta else 1.0


def _real(epoch: Tensor) -> Tensor:
    return epoch if epoch.is_floating_point() else epoch.to(torch.get_default_dtype())
