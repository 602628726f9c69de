"""The only place that chooses a kernel: native (C++ or CUDA), Triton or eager, by `can_run`; `why_not` says why."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import torch

from ferkit.ops import _native

__all__ = [
    "BACKENDS",
    "OPS",
    "can_run",
    "force",
    "forget",
    "kernel",
    "kernel_for",
    "native",
    "recorded_for",
    "report",
    "rows_limit",
    "why_not",
]

BACKENDS = ("native", "triton", "eager")  # in order of preference
OPS = ("class_similarity", "similarity_preserving", "scaled_cross_entropy", "neighbor_divergence", "concordance")

# What has a kernel; a new Triton or CUDA kernel becomes reachable by its entry here.
_NATIVE: dict[str, tuple[str, ...]] = {"cpu": OPS, "cuda": ("similarity_preserving",)}
_TRITON: tuple[str, ...] = (
    "similarity_preserving",
    "class_similarity",
    "concordance",
    "scaled_cross_entropy",
    "neighbor_divergence",
)

# Shape buckets: up to how many rows a device prefers its native kernel (one block holds a branch); no entry: any.
_NATIVE_ROWS = {("similarity_preserving", "cuda"): 288}

_DTYPES = {"cpu": (torch.float32, torch.float64), "cuda": (torch.float32, torch.float64)}


def _from_environment() -> str | None:
    name = os.environ.get("FERKIT_BACKEND", "")
    if name not in ("", *BACKENDS):
        raise ValueError(f"FERKIT_BACKEND: expected one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    return name or None


_forced = _from_environment()  # read once; `force` changes it for a block
_chosen: dict[tuple[str, str, torch.dtype, bool], Any] = {}
_recorded: dict[str, Any] = {}


def why_not(op: str, backend: str, device_type: str = "cpu", dtype: torch.dtype = torch.float32) -> str | None:
    """None if ``backend`` can run ``op`` on this device and dtype, else one line saying why not."""
    if op not in OPS:
        raise ValueError(f"op: expected one of {', '.join(map(repr, OPS))}, got {op!r}")
    if backend == "eager":
        return None
    if backend == "triton":
        return _why_not_triton(op, device_type)
    if backend != "native":
        raise ValueError(f"backend: expected one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    if op not in _NATIVE.get(device_type, ()):
        return f"no native kernel for {device_type}"
    if dtype not in _DTYPES[device_type]:
        return f"the native kernel takes float32 and float64, not {dtype}"
    return _native.why_not(device_type)


def _why_not_triton(op: str, device_type: str) -> str | None:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device_type != "cuda" and not (device_type == "cpu" and interpreted):
        return f"Triton kernels run on cuda, not {device_type}"
    if op not in _TRITON:
        return "no Triton kernel yet"
    if not _has_triton():
        return 'Triton is not installed (pip install "ferkit[triton]")'
    if device_type == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    return None


def _has_triton() -> bool:
    try:
        return importlib.util.find_spec("triton") is not None
    except ImportError:  # an import hook that forbids it
        return False


def can_run(op: str, backend: str, device_type: str = "cpu", dtype: torch.dtype = torch.float32) -> bool:
    """Whether ``backend`` can run ``op`` on this device and dtype."""
    return why_not(op, backend, device_type, dtype) is None


def kernel(op: str, device_type: str, dtype: torch.dtype, rows: int = 0) -> Any:
    """The namespace (a module or `_native.Kernels`) with ``forward`` and ``backward`` of the backend for this batch."""
    limit = _NATIVE_ROWS.get((op, device_type))
    small = limit is None or rows <= limit
    try:
        return _chosen[op, device_type, dtype, small]
    except KeyError:
        return _choose(op, device_type, dtype, small)


def kernel_for(op: str, tensor: torch.Tensor) -> Any:
    """`kernel` for a batch like ``tensor``; the short way for the CPU, where no kernel has a limit of rows."""
    if not tensor.is_cpu:
        return kernel(op, tensor.device.type, tensor.dtype, tensor.shape[0])
    try:
        return _chosen[op, "cpu", tensor.dtype, True]
    except KeyError:
        return kernel(op, "cpu", tensor.dtype, tensor.shape[0])


def recorded_for(op: str, tensor: torch.Tensor) -> Any:
    """The op on the CPU as one call with its autograd node in C++ (`_native.Kernels`), or None where it has none."""
    try:
        return _recorded[op]
    except KeyError:
        if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu":
            return None  # nothing of the CPU's is loaded for another device
        recorded = _recorded[op] = getattr(kernel(op, "cpu", torch.float32), "recorded", None)
        return recorded


def native(name: str) -> Any:
    """A function of the native CPU library that is no differentiable op, or None where that library is not taken."""
    if _forced not in (None, "native") or _native.why_not("cpu") is not None:
        return None
    return getattr(torch.ops.ferkit_native, name).default._op


def forget() -> None:
    """Choose anew from here on."""
    _chosen.clear()
    _recorded.clear()


def _choose(op: str, device_type: str, dtype: torch.dtype, small: bool) -> Any:
    order = BACKENDS if _forced is None else BACKENDS[BACKENDS.index(_forced) :]
    # A native kernel of limited size leaves large batches to the rest; the interpreter is for tests that ask for it.
    skipped = {"native"} if not small else set()
    if device_type == "cpu" and _forced != "triton":
        skipped.add("triton")
    order = tuple(name for name in order if name not in skipped)
    backend = next(name for name in order if can_run(op, name, device_type, dtype))
    if backend == "native":
        chosen: Any = _native.Kernels(op, device_type)
    else:
        chosen = importlib.import_module(f"ferkit.kernels.{backend}.{op}")
    _chosen[op, device_type, dtype, small] = chosen
    return chosen


@contextlib.contextmanager
def force(backend: str | None) -> Iterator[None]:
    """Take ``backend`` inside the block, where it cannot run the next of native, Triton, eager; None: as usual.

    Raises:
        ValueError: for another name.

    >>> import ferkit.functional
    >>> with ferkit.functional.force_backend("eager"):
    ...     loss = ferkit.functional.weighted_logit_cross_entropy(
    ...         torch.zeros(2, 4), torch.ones(2), torch.tensor([0, 1])
    ...     )
    >>> loss
    tensor(1.3863)
    """
    global _forced
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    before, _forced = _forced, backend
    forget()
    try:
        yield
    finally:
        _forced = before
        forget()


def report() -> dict[str, dict[str, dict[str, str | None]]]:
    """Per op and device kind: backend -> None where it can run, else the reason; the first None is the one taken."""
    return {
        op: {device: {backend: why_not(op, backend, device) for backend in BACKENDS} for device in ("cpu", "cuda")}
        for op in OPS
    }


def rows_limit(op: str, device_type: str) -> int | None:
    """The most rows for which the native kernel is preferred on this device; None: any number."""
    return _NATIVE_ROWS.get((op, device_type))
