"""One error flag a device: a kernel that meets a label out of range sets it, and nobody waits until asked."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["label_flag", "raise_label_errors"]

_flags: dict[torch.device, Tensor] = {}


def label_flag(device: torch.device) -> Tensor:
    """int32 (1,) on ``device``, 0 until a kernel there stores 1. Lives as long as the process: graphs may hold it."""
    try:
        return _flags[device]
    except KeyError:
        with torch.inference_mode(False):  # what is made in inference mode can never be cleared outside it
            _flags[device] = torch.zeros(1, dtype=torch.int32, device=device)
        return _flags[device]


def raise_label_errors() -> None:
    """Wait for every device used so far, and raise ValueError if a kernel there met a label out of range.

    On the CPU labels are checked at once. On a GPU that check would stall it, so there a row with a label below -1 or
    not below the number of classes gives NaN and sets a flag, which this call reads and clears: after an epoch, say.

    >>> import ferkit.functional
    >>> ferkit.functional.raise_label_errors()
    """
    for device in _flags:
        if device.type == "cuda":  # reading the flag waits for the current stream only
            torch.cuda.synchronize(device)
    bad = [device for device, flag in _flags.items() if int(flag)]
    for device in bad:
        _flags[device].zero_()
    if bad:
        where = ", ".join(map(str, bad))
        raise ValueError(f"labels: expected values in 0..C-1 or -1 (unlabelled), got others on {where}")
