"""SGD for a table of which a batch uses a few rows: the others stay where they are, momentum or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ferkit.checks import check_number

__all__ = ["RowSGD"]


class RowSGD(torch.optim.Optimizer):
    """SGD in which an entry without a gradient neither moves nor loses momentum (as TensorFlow's sparse updates).

    LDLVA as released trains `SampleCertainty` so. An entry counts as used if its gradient is not 0; then
    v ← momentum·v + g and x ← x - lr·v. Without momentum this is ``torch.optim.SGD``.

    Args:
        params: parameters or parameter groups.
        lr: learning rate (LDLVA: 10), may change from step to step.
        momentum: in [0, 1) (LDLVA: 0 on RAF-DB, 0.9 on AffectNet).

    >>> table = torch.nn.Parameter(torch.zeros(3))
    >>> table.grad = torch.tensor([1.0, 0.0, -1.0])
    >>> RowSGD([table], lr=0.1).step()
    >>> table.data
    tensor([-0.1000,  0.0000,  0.1000])
    """

    def __init__(self, params: Iterable[Any], lr: float = 10.0, momentum: float = 0.0) -> None:
        check_number(lr, "lr", 0.0)
        check_number(momentum, "momentum", 0.0, 1.0)
        if momentum == 1:
            raise ValueError("momentum: expected a value in [0, 1), got 1")
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns the closure's value, if there is a closure."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"], group["momentum"])
        return value

    def _move(self, parameter: Tensor, gradient: Tensor, lr: float, momentum: float) -> None:
        if momentum == 0:
            parameter.sub_(lr * gradient)
            return
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        velocity = state["velocity"]
        used = gradient != 0
        velocity.copy_(torch.where(used, momentum * velocity + gradient, velocity))
        parameter.sub_(torch.where(used, lr * velocity, 0))
