"""Watch one run of a model, to compare it with that of its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Probe", "keep_modes", "probe_images"]


def probe_images(model: nn.Module, size: int) -> Tensor:
    """Two images (2, 3, size, size) of noise, of the model's device and precision and of no global random state."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return noise.to(parameter.device, parameter.dtype)


@contextlib.contextmanager
def keep_modes(model: nn.Module) -> Iterator[None]:
    """Leaves every module in training or in evaluation, as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Probe:
    """What the named children of a model read and gave in one run, and what the model gave."""

    def __init__(self, model: nn.Module, names: Sequence[str], images: Tensor) -> None:
        self.children = {name: getattr(model, name) for name in names}
        self.read: dict[str, Any] = {}
        self.gave: dict[str, Any] = {}
        handles = []
        for name, child in self.children.items():
            handles += [
                child.register_forward_pre_hook(self._before(name)),
                child.register_forward_hook(self._after(name)),
            ]
        try:
            self.output = model(images)
        except Exception as error:
            size = tuple(images.shape)
            raise ValueError(f"model: expected one that takes images {size}; running it raised: {error}") from error
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            # A copy: what comes next may write into it.
            self.read.setdefault(name, inputs[0].clone() if inputs and isinstance(inputs[0], Tensor) else None)

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.gave.setdefault(name, output.shape if isinstance(output, Tensor) else None)

        return hook

    def first_without_map(self, names: Sequence[str]) -> int:
        """Index of the first child after the first that ran and gave no map of more than one pixel."""
        for index, name in enumerate(names[1:], 1):
            shape = self.gave.get(name, (1, 1, 2, 2))
            if shape is None or len(shape) != 4 or shape[2] * shape[3] == 1:
                return index
        return len(names)

    def check(self, result: Tensor, head: Sequence[str], stage: str) -> int:
        """Channels of the stage's ``result`` (N, D, h, w), if it is what the head read in the model's own run.

        Raises:
            ValueError: if it is not.
        """
        if result.ndim != 4 or result.shape[2] * result.shape[3] == 1:
            got = tuple(result.shape)
            raise ValueError(f"stage: expected a map (N, D, h, w) of more than one pixel from {stage!r} on, got {got}")
        reader = next((name for name in head if name in self.read), None)
        expected = self.output if reader is None else self.read[reader]
        where = "the model gives" if reader is None else f"its {reader!r} reads"
        linear = next((m for name in head for m in self.children[name].modules() if isinstance(m, nn.Linear)), None)
        if linear is not None and linear.in_features == result.shape[3] != result.shape[1]:
            raise ValueError(f"stage: expected a map with the channels second from {stage!r} on, got them last")
        # The head may read the map, or its mean or its pixels in a row where the model takes those in its forward.
        forms = (result, result.mean((2, 3)), result.flatten(1))
        if not any(_same(form, expected) for form in forms):
            raise ValueError(
                f"model: the modules before and from {stage!r}, run one after another, do not give what {where}; "
                "its forward does more than run its children in order"
            )
        return int(result.shape[1])


def _same(mine: Tensor, expected: Any) -> bool:
    if not isinstance(expected, Tensor) or mine.shape != expected.shape:
        return False
    return torch.allclose(mine, expected, rtol=1e-4, atol=1e-5)
