"""LDLVA's certainty: one trained number per training image, which must stay with its image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ferkit.checks import check_index_range, check_number, check_shape, check_tensor, readable

__all__ = ["SampleCertainty"]

SHOWN = 3


class SampleCertainty(nn.Module):
    """Certainty in (0, 1) of each training sample's label: the sigmoid of a free scalar (LDLVA, as released).

    Give the table its own optimiser, without weight decay: released is SGD with a learning rate of 10 and, on
    AffectNet, a momentum of 0.9, which moves only the rows of the batch. Gradients are dense, and 0 in all other rows:
    ``torch.optim.SGD`` without momentum leaves those alone, but with momentum or as Adam it would move them; `RowSGD`
    does not.

    Args:
        num_samples: how many images there are.
        init: the scalar's start (released: 0.5, a certainty of 0.622, on RAF-DB; 0.8, 0.690, on AffectNet).
        ids: each image's own name, a string or an integer, all different. With them a state dict is loaded by name:
            into another order each scalar finds its image again, and one of other images is refused (with
            ``strict=False`` the images in common are taken over). A table without ids takes over the state dict's.

    Call with index, int64 (B,), the images' positions; gives (B,). ValueError for positions outside 0..num_samples-1
    (read on the CPU; elsewhere, and in a compiled region, their certainty is NaN).

    >>> certainty = SampleCertainty(3, init=0.0, ids=["a.png", "b.png", "c.png"])
    >>> certainty(torch.tensor([2, 0]))
    tensor([0.5000, 0.5000], grad_fn=<SigmoidBackward0>)
    """

    def __init__(self, num_samples: int, init: float = 0.5, ids: Sequence[str | int] | None = None) -> None:
        super().__init__()
        check_number(num_samples, "num_samples", 0, integer=True)
        check_number(init, "init")
        self.num_samples, self.init = num_samples, init
        self.ids = None if ids is None else _check_ids(ids, num_samples)
        self.logit = nn.Parameter(torch.full((num_samples,), float(init)))

    def extra_repr(self) -> str:
        return f"num_samples={self.num_samples}, init={self.init}, ids={'no' if self.ids is None else 'yes'}"

    def forward(self, index: Tensor) -> Tensor:
        check_tensor(index, "index")
        if index.dtype != torch.int64:
            raise TypeError(f"index: expected dtype torch.int64, got {index.dtype}")
        check_shape(index, "index", ("B",))
        check_index_range(index, self.num_samples, "index")
        # a lookup whose gradient is summed in a fixed order, on the GPU too
        listed = index.clamp(0, max(self.num_samples - 1, 0))
        logit = nn.functional.embedding(listed, self.logit.unsqueeze(1)).squeeze(1)
        if not readable(index):
            logit = torch.where((index < 0) | (index >= self.num_samples), torch.nan, logit)
        return logit.sigmoid()

    def get_extra_state(self) -> Tensor:
        """The ids as UTF-8 JSON in a uint8 tensor, which every checkpoint format can hold; empty without ids."""
        text = b"" if self.ids is None else json.dumps(self.ids, ensure_ascii=False, separators=(",", ":")).encode()
        return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing is left to do: the ids were read with the scalars."""

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        logit, packed = state_dict.get(f"{prefix}logit"), state_dict.get(f"{prefix}_extra_state")
        if logit is not None and packed is not None:
            saved = json.loads(packed.cpu().numpy().tobytes()) if packed.numel() else None
            if saved is not None and len(saved) != len(logit):
                error_msgs.append(f"{prefix}logit: expected as many scalars as ids, got {len(logit)} and {len(saved)}")
            elif saved is None and self.ids is not None:
                error_msgs.append(f"{prefix}logit: expected a state dict with ids, as this table has, got none")
            elif saved is not None and self.ids is None and len(saved) == self.num_samples:
                self.ids = saved
            elif saved is not None and self.ids is not None and saved != self.ids:
                logit, missing, unknown = self._realign(logit, saved)
                # torch makes an error of these unless strict=False
                missing_keys.extend(_name_some(f"{prefix}logit", missing))
                unexpected_keys.extend(_name_some(f"{prefix}logit", unknown))
                state_dict = {**state_dict, f"{prefix}logit": logit}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _realign(self, logit: Tensor, saved: list[str]) -> tuple[Tensor, list[str], list[str]]:
        """The saved scalars in this table's order, the ids of it that were not saved, and the saved ones not in it."""
        assert self.ids is not None
        position, known = {name: row for row, name in enumerate(saved)}, set(self.ids)
        result = self.logit.detach().to(logit.device, logit.dtype, copy=True)
        here = [row for row, name in enumerate(self.ids) if name in position]
        there = [position[self.ids[row]] for row in here]
        result[torch.tensor(here, dtype=torch.int64)] = logit[torch.tensor(there, dtype=torch.int64)]
        missing = [name for name in self.ids if name not in position]
        return result, missing, [name for name in saved if name not in known]


def _check_ids(ids: Sequence[str | int], size: int) -> list[str]:
    if isinstance(ids, str):
        raise TypeError("ids: expected a sequence of strings or integers, got str")
    names = [str(name) for name in ids]
    if len(names) != size:
        raise ValueError(f"ids: expected {size} ids, one per sample, got {len(names)}")
    if len(set(names)) != size:
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"ids: expected every id once, got {twice!r} more than once")
    return names


def _name_some(key: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = ", ..." if len(names) > SHOWN else ""
    return [f"{key} of {len(names)} images by id: {', '.join(map(repr, names[:SHOWN]))}{more}"]
