"""A progress line on stderr without dependencies."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], total: int, text: str, enabled: bool = True) -> Iterator[T]:
    """Pass ``items`` on and keep a line like ``Decoding images 512/12000`` up to date on a terminal.

    Anything but a terminal (a log file) gets the one finished line.
    """
    if not enabled:
        yield from items
        return
    live = sys.stderr.isatty()
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if live and now - last > 0.2:
            last = now
            print(f"\r{text} {done}/{total}", end="", file=sys.stderr, flush=True)
    front = "\r" if live else ""
    print(f"{front}{text} {done}/{total}, {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
