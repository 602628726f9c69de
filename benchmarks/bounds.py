"""Lower bounds, timed in turn with everything else: bytes at the speed of a plain copy, or the bare matrix products."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.registry import Arguments


def traffic(read: int, written: int = 0) -> Callable[[], object]:
    """Copies so many bytes that the memory moves ``read + written`` of them: half in, half out."""

    def prepare(device: str) -> Callable[[], object]:
        source = torch.zeros(max(1, (read + written) // 2), dtype=torch.uint8, device=device)
        sink = torch.empty_like(source)
        return lambda: sink.copy_(source)

    return prepare


def passes(reads: int, writes: int) -> Callable[[Arguments], Callable[[], object]]:
    """The first argument read and written so many times, forward and backward together."""

    def bound(arguments: Arguments) -> Callable[[], object]:
        first = arguments[0]
        size = first.numel() * first.element_size()
        return traffic(reads * size, writes * size)(str(first.device))

    return bound


def every_byte(arguments: Arguments) -> Callable[[], object]:
    """All arguments read forward and again backward, and one gradient written for each that wants one."""
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    read = 2 * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    written = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.requires_grad)
    return traffic(read, written)(str(tensors[0].device))


def gram_products(arguments: Arguments) -> Callable[[], object]:
    """Gram matrices of target and branches, then d G times F."""
    target, auxiliary = arguments[0].detach(), arguments[1].detach()
    one = torch.randn(target.shape[0], target.shape[0], dtype=target.dtype, device=target.device)
    many = torch.randn(auxiliary.shape[0], *one.shape, dtype=target.dtype, device=target.device)

    def run() -> None:
        torch.mm(target, target.t())
        torch.bmm(auxiliary, auxiliary.mT)
        torch.mm(one, target)
        torch.bmm(many, auxiliary)

    return run
