"""Thinner or wider versions of a published network."""

from __future__ import annotations

from ferkit.checks import check_number

__all__ = ["check_power_of_two", "scaled"]


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded to a multiple of 8, at least 8; exactly ``channels`` at width 1.

    >>> scaled(64, 0.25), scaled(500, 0.5), scaled(500, 1.0)
    (16, 248, 500)
    """
    check_number(width, "width", 0.0, open_low=True)
    return channels if width == 1 else max(8, 8 * int(channels * width / 8 + 0.5))


def check_power_of_two(size: int, name: str = "size") -> None:
    """Raise ValueError unless ``size`` is 32, 64, 128, ..."""
    check_number(size, name, integer=True)
    if size < 32 or size & (size - 1):
        raise ValueError(f"{name}: expected a power of two of 32 or more, got {size}")
