"""What can be measured: one Case per op, shape, dtype and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]
Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Ask:
    """What a case has to show; None: measured, nothing asked."""

    eager: float | None = None  # times faster than the textbook, as called
    replayed: float | None = None  # the same under CUDA-graph replay
    compiled: float | None = None  # times faster than torch.compile of the textbook, as called
    over_bound: float | None = None  # at most this many times the lower bound
    memory: float | None = None  # at least this many times less peak memory than the textbook


@dataclass(frozen=True)
class Case:
    """One op at one shape.

    ``make(dtype, device)`` gives the arguments, leaves first; every function takes them and gives a tensor.
    ``reference`` is what float64 arguments are given to for the gate (the textbook, unless its N x N does not fit).
    """

    op: str
    shape: str
    rows: int
    make: Callable[[torch.dtype, str], Arguments]
    ours: Function
    textbook: Function | None
    ask: Ask = field(default_factory=Ask)
    reference: Function | None = None
    peers: dict[str, Function] = field(default_factory=dict)
    bound: Callable[[Arguments], Callable[[], object]] | None = None  # work that no implementation can avoid
    bound_name: str = ""
    compile: bool = True
    replay: tuple[str, ...] = (
        "ours",
        "textbook",
        "compiled",
        "bound",
    )  # not a peer that waits for the host
    rounds: int = 200  # fewer where the textbook takes seconds
    dtype: str = "float32"
    tf32: bool = False
    device: str = "cpu"
    memory: bool = False  # on the CPU peak memory needs a process of its own per case
    tolerance: float = 2e-4  # of the result and its gradients against float64, relative to their largest entry

    @property
    def name(self) -> str:
        return " ".join(
            [self.op, self.shape, *([] if self.dtype == "float32" else [self.dtype]), *["tf32"][: self.tf32]]
        )

    @property
    def exact(self) -> Function:
        function = self.reference or self.textbook
        assert function is not None, f"{self.name}: neither a textbook nor a reference"
        return function


CASES: list[Case] = []


def register(case: Case) -> Case:
    if any(case.name == other.name and case.device == other.device for other in CASES):
        raise ValueError(f"{case.name} on {case.device} is registered already")
    CASES.append(case)
    return case


def cases(device: str, only: str | None = None) -> list[Case]:
    return [case for case in CASES if case.device == device and (only is None or only in case.name)]
