"""Argument checks and their messages: the argument's name, what was expected, what came."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "check_choice",
    "check_device",
    "check_floating",
    "check_index_range",
    "check_label_range",
    "check_labels",
    "check_not_negative",
    "check_number",
    "check_shape",
    "check_tensor",
    "check_unit_interval",
    "out_of_range",
    "renamed",
]

IGNORED_LABEL = -1


def check_tensor(value: Any, name: str) -> Tensor:
    """Return ``value`` if it is a tensor, else raise TypeError."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    return value


def check_floating(value: Any, name: str) -> Tensor:
    """Return ``value`` if it is a real floating-point tensor, else raise TypeError."""
    check_tensor(value, name)
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got dtype {value.dtype}")
    tensor: Tensor = value
    return tensor


def check_shape(value: Tensor, name: str, shape: Sequence[int | str]) -> None:
    """Compare a tensor's shape with ``shape``, in which a string names a free size.

    >>> check_shape(torch.zeros(3, 5), "logits", ("N", 7))
    Traceback (most recent call last):
    ...
    ValueError: logits: expected shape (N, 7), got (3, 5)
    """
    have = value.shape
    if len(have) == len(shape):
        for wanted, size in zip(shape, have):
            if type(wanted) is not str and wanted != size:  # torch 2.11 compiles str.__class__ wrongly
                break
        else:
            return
    want = ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "")
    raise ValueError(f"{name}: expected shape ({want}), got {tuple(have)}")


def check_device(reference: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError unless every tensor is on the device of ``reference``."""
    for name, other in others.items():
        if other is not None and other.device != reference.device:
            raise ValueError(f"{name}: expected device {reference.device}, got {other.device}")


def check_labels(labels: Any, size: int, num_classes: int | None = None, name: str = "labels") -> Tensor:
    """Check int64 labels of shape (size,); -1 means unlabelled. Values are checked where that costs no sync."""
    check_tensor(labels, name)
    if labels.dtype != torch.int64:
        raise TypeError(f"{name}: expected dtype torch.int64, got {labels.dtype}")
    check_shape(labels, name, (size,))
    if num_classes is not None:
        check_label_range(labels, num_classes, name)
    tensor: Tensor = labels
    return tensor


def check_label_range(labels: Tensor, num_classes: int, name: str = "labels") -> bool:
    """Raise ValueError for labels outside -1..num_classes-1 (on the CPU, outside a compiled region).

    True if the values were read and none is -1: then the caller may leave out the handling of unlabelled rows.
    """
    if not readable(labels):
        return False
    if labels.numel() == 0:
        return True
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if low < IGNORED_LABEL or high >= num_classes:
        raise ValueError(f"{name}: expected values in 0..{num_classes - 1} or -1 (unlabelled), got {low}..{high}")
    return low > IGNORED_LABEL


def out_of_range(labels: Tensor, num_classes: int) -> Tensor | None:
    """(N,), True where a label is below -1 or not below ``num_classes``; None where such a label has raised."""
    if readable(labels):
        return None
    return (labels < IGNORED_LABEL) | (labels >= num_classes)


def check_not_negative(values: Tensor, name: str) -> None:
    """Raise ValueError if a value is below 0 (on the CPU, outside a compiled region)."""
    if readable(values) and bool((values < 0).any()):
        raise ValueError(f"{name}: expected values of 0 or more, got {float(values.min())}")


def check_unit_interval(values: Tensor, name: str) -> None:
    """Raise ValueError if a value is below 0 or above 1 (on the CPU, outside a compiled region); NaN passes."""
    if readable(values) and bool(((values < 0) | (values > 1)).any()):
        raise ValueError(f"{name}: expected values in [0, 1], got {float(values.min())}..{float(values.max())}")


def check_index_range(indices: Tensor, size: int, name: str, missing: bool = False) -> None:
    """Raise ValueError for an index outside 0..size-1 (or -1 with ``missing``), where reading it costs no sync."""
    if not readable(indices) or indices.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(indices))
    if low < (-1 if missing else 0) or high >= size:
        allowed = f"0..{size - 1}{' or -1 (none)' if missing else ''}"
        raise ValueError(f"{name}: expected values in {allowed}, got {low}..{high}")


def readable(values: Tensor) -> bool:
    """Whether values can be read without waiting for a device, and are there: fake and functional tensors hold none."""
    if torch.compiler.is_compiling() or values.device.type != "cpu":
        return False
    return type(values) is Tensor or type(values) is torch.nn.Parameter


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``, else raise ValueError.

    >>> check_choice("avg", "reduction", ("none", "mean", "sum"))
    Traceback (most recent call last):
    ...
    ValueError: reduction: expected one of 'none', 'mean', 'sum', got 'avg'
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    choice: str = value
    return choice


def check_number(
    value: Any,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    integer: bool = False,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise unless ``value`` is a finite number in [low, high], without an end that is open."""
    kind = int if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name}: expected {'an integer' if integer else 'a number'}, got {value!r}")
    # comparisons only, which torch.compile can trace with symbolic numbers; NaN fails them all
    at_an_open_end = (open_low and value == low) or (open_high and value == high)
    if not (-math.inf < value < math.inf and low <= value <= high) or at_an_open_end:
        interval = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
        raise ValueError(f"{name}: expected a value in {interval}, got {value!r}")


@contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Errors of the block under the caller's names of the arguments: those that its own user has given.

    >>> with renamed(value="share"):
    ...     check_number(2, "value", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: share: expected a value in [0, 1], got 2
    """
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        name, colon, rest = str(error).partition(": ")
        if not colon or name not in names:
            raise
        raise type(error)(f"{names[name]}: {rest}") from error
