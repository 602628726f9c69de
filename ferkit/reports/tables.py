"""Tables for comparing methods: aligned Markdown or plain text, several seeds as mean ± spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ferkit.checks import check_choice, check_number

__all__ = ["comparison_table", "spread"]

MISSING = "–"


def comparison_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | Mapping[str, str],
    style: str = "markdown",
    digits: int | Mapping[str, int] = 3,
) -> str:
    """An aligned table with a row a method; a list of numbers, one a seed, becomes ``mean ± spread``.

    Args:
        rows: one mapping a row, from column key to a text, an int (written as it is), a float, or a list of numbers.
            The spread is the standard deviation with n - 1; one number has none. None, NaN, an empty list and a missing
            key give a dash; NaN among several seeds gives a dash and how many are undefined, never a mean of the rest.
        columns: keys, or a mapping from key to heading.
        style: ``markdown``, or ``plain`` for terminals.
        digits: decimals for all columns, or by key (3 where it says nothing).

    Returns:
        The lines, joined, without a newline at the end. Text columns are set left, columns of numbers right.

    Raises:
        ValueError: no column, unknown style.  TypeError: a cell of another type.

    >>> rows = [{"method": "ce", "accuracy": [0.61, 0.63, 0.62]}, {"method": "dmue", "accuracy": 0.7}]
    >>> print(comparison_table(rows, {"method": "method", "accuracy": "accuracy ↑"}))
    | method |    accuracy ↑ |
    |--------|--------------:|
    | ce     | 0.620 ± 0.010 |
    | dmue   |         0.700 |
    """
    check_choice(style, "style", ("markdown", "plain"))
    headings = dict(columns) if isinstance(columns, Mapping) else {key: key for key in columns}
    if not headings:
        raise ValueError("columns: expected at least one column, got none")
    by_key = digits if isinstance(digits, Mapping) else dict.fromkeys(headings, digits)
    for key, value in by_key.items():
        check_number(value, f"digits[{key!r}]", 0, 15, integer=True)
    cells = [[_cell(row.get(key), key, by_key.get(key, 3)) for key in headings] for row in rows]
    right = [not any(isinstance(row.get(key), str) for row in rows) for key in headings]
    escaped = [[text.replace("|", "\\|") if style == "markdown" else text for text in line] for line in cells]
    return _layout([list(headings.values()), *escaped], right, style)


def _cell(value: Any, key: str, digits: int) -> str:
    if value is None:
        return MISSING
    if isinstance(value, (str, bool)):
        return str(value)
    value = value.tolist() if hasattr(value, "tolist") else value  # tensors, arrays and their scalars
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.{digits}f}" if math.isfinite(value) else MISSING
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, (int, float)) for v in value):
        raise TypeError(f"rows: expected a text, a number or a list of numbers under {key!r}, got {value!r}")
    return spread(value, digits)


def spread(values: Sequence[float], digits: int = 3, sign: str = "") -> str:
    """Mean ± standard deviation; the mean alone of one value; how many are undefined where any is.

    >>> spread([0.5, 0.7]), spread([0.25], digits=2, sign="+"), spread([])
    ('0.600 ± 0.141', '+0.25', '–')
    """
    if not values:
        return MISSING
    failed = sum(not math.isfinite(value) for value in values)
    if failed:
        return f"{MISSING} ({failed} of {len(values)} undefined)"
    mean = f"{statistics.fmean(values):{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _layout(lines: list[list[str]], right: list[bool], style: str) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(right))]

    def join(line: list[str]) -> str:
        texts = [text.rjust(w) if r else text.ljust(w) for text, w, r in zip(line, widths, right)]
        return f"| {' | '.join(texts)} |" if style == "markdown" else "  ".join(texts).rstrip()

    if style == "markdown":
        rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right)) + "|"
    else:
        rule = "  ".join("-" * w for w in widths)
    return "\n".join([join(lines[0]), rule, *map(join, lines[1:])])
