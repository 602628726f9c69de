"""The flag of labels out of range lives through inference mode."""

import pytest
import torch

from ferkit.kernels import flags


def test_a_flag_made_in_inference_mode_can_be_set_and_cleared_outside(monkeypatch):
    monkeypatch.setattr(flags, "_flags", {})
    with torch.inference_mode():
        flags.label_flag(torch.device("cpu"))
    flag = flags.label_flag(torch.device("cpu"))
    torch.maximum(flag, torch.ones_like(flag), out=flag)
    with pytest.raises(ValueError, match="labels"):
        flags.raise_label_errors()
    flags.raise_label_errors()  # once
