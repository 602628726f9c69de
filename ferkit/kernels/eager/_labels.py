"""How the eager kernels take label values: an error at once on the CPU, NaN and a flag where reading would wait."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import check_label_range
from ferkit.kernels.flags import label_flag

__all__ = ["check_and_flag", "out_of_range"]


def out_of_range(labels: Tensor, num_classes: int) -> Tensor | None:
    """(N,), True where a label is below -1 or not below C; None on the CPU, where the forward has raised already."""
    if labels.device.type == "cpu":
        return None
    return (labels < -1) | (labels >= num_classes)


def check_and_flag(labels: Tensor, num_classes: int) -> Tensor | None:
    """As `out_of_range`, and set the device's flag if any label is; on the CPU raise ValueError instead."""
    check_label_range(labels, num_classes)
    wrong = out_of_range(labels, num_classes)
    if wrong is not None and labels.device.type != "meta":
        flag = label_flag(labels.device)
        torch.maximum(flag, wrong.any().to(flag.dtype), out=flag)
    return wrong
