"""What all losses share: a checked reduction, class weights as a buffer, and a repr that prints every setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ferkit.checks import check_choice, check_floating, check_shape, check_tensor
from ferkit.reduction import REDUCTIONS

__all__ = ["Loss", "check_branches"]


class Loss(nn.Module):
    """A loss whose result depends on the attributes named in ``settings`` and on nothing else."""

    settings: tuple[str, ...] = ("reduction",)
    class_weight: Tensor | None

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = check_choice(reduction, "reduction", REDUCTIONS)

    def _keep_class_weight(self, class_weight: Tensor | None, num_classes: int | None = None) -> None:
        if class_weight is not None:
            check_floating(class_weight, "class_weight")
            check_shape(class_weight, "class_weight", ("C" if num_classes is None else num_classes,))
            class_weight = class_weight.detach().clone()
        # a setting, not state: it moves with the module, but a checkpoint does not bring it
        self.register_buffer("class_weight", class_weight, persistent=False)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={_show(getattr(self, name))}" for name in self.settings)


def _show(value: Any) -> str:
    return repr(value.tolist()) if isinstance(value, torch.Tensor) else repr(value)


def check_branches(value: Tensor, name: str, num_classes: int) -> None:
    """A tensor (C, ...) has one entry per class."""
    check_tensor(value, name)
    if value.ndim == 0 or value.shape[0] != num_classes:
        raise ValueError(f"{name}: expected {num_classes} branches in dimension 0, got shape {tuple(value.shape)}")
