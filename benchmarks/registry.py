"""What can be measured: one Case per op, shape, dtype and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One op at one shape. ``make(dtype)`` gives the arguments, leaves first; functions take them and give a tensor."""

    op: str
    shape: str
    make: Callable[[Any], tuple[Any, ...]]
    ours: Function
    textbook: Function
    target: float  # speed-up over the eager textbook that must be shown
    rounds: int = 200  # fewer where the textbook takes seconds
    compile: bool = True
    bound: Callable[[tuple[Any, ...]], Callable[[], object]] | None = None  # work that no implementation can avoid
    bound_target: float | None = None
    dtype: str = "float32"
    device: str = "cpu"
    tolerance: float = 2e-4  # of the result and its gradients against float64, relative to their largest entry
    tags: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return f"{self.op} {self.shape}"


CASES: list[Case] = []


def register(case: Case) -> Case:
    CASES.append(case)
    return case
