"""Label values outside the fused kernels: an error on the CPU; NaN and a flag where reading them would wait."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import check_label_range, out_of_range
from ferkit.kernels.flags import label_flag

__all__ = ["check_and_flag", "flag_out_of_range", "out_of_range"]


def flag_out_of_range(labels: Tensor, num_classes: int) -> Tensor | None:
    """As `out_of_range`, and set the device's flag if any label is (in a compiled region the result alone tells)."""
    wrong = out_of_range(labels, num_classes)
    real = type(labels) is Tensor and labels.device.type != "meta"  # fake and functional tensors hold no values
    if wrong is not None and real and not torch.compiler.is_compiling():
        flag = label_flag(labels.device)
        torch.maximum(flag, wrong.any().to(flag.dtype), out=flag)
    return wrong


def check_and_flag(labels: Tensor, num_classes: int) -> Tensor | None:
    """As `flag_out_of_range`; on the CPU raise ValueError instead."""
    check_label_range(labels, num_classes)
    return flag_out_of_range(labels, num_classes)
