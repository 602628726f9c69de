"""One command at a time in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LOCK", "alone_in", "check_free"]

LOCK = ".lock"  # empty, and left there: without it a third command could lock a second file of that name


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, until the block ends; on Windows nothing is held.

    Held by the process: it ends when that is killed, even if processes that load its images live on for a moment. Not
    to be called twice for one folder at a time: the first block to end lets go.

    Raises:
        ValueError: if another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with open(folder / LOCK, "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which forked processes would hold on to
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"out: {str(folder)!r} is in use by another ferkit command") from error
        except OSError:  # a file system that has no locks
            pass
        yield


def check_free(folder: Path) -> None:
    """Raise ValueError if another process holds the folder now; nothing is made."""
    if (folder / LOCK).exists():
        with alone_in(folder):
            pass
