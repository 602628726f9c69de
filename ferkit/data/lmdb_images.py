"""Images in an LMDB, by paths that lead into it: ``AffectNet_lmdb/train_1.jpg`` is its key ``train_1.jpg``."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_lmdb", "has_key", "is_lmdb", "read_pixels"]

DATA = "data.mdb"  # the file of an LMDB that is a folder
SHAPE = (256, 256, 3)  # of a value, as DMUE's release writes it: no header, no compression, RGB

_open: dict[tuple[int, int], Any] = {}  # an LMDB may be opened once a process, whatever its path
_lock = threading.Lock()


def _after_fork() -> None:
    """A worker opens its own: a handle is not to be taken through a fork."""
    global _lock
    _lock = threading.Lock()  # another thread may have held it
    for environment in _open.values():
        environment.close()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def is_lmdb(path: Path) -> bool:
    """Whether this is an LMDB: a folder with ``data.mdb``, or a file."""
    return os.path.isfile(f"{path}/{DATA}") or os.path.isfile(path)


def find_lmdb(path: Path) -> tuple[Path, str] | None:
    """The LMDB that a path leads into and the rest of the path, its key; None where there is no such LMDB.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "data.mdb").touch()
    >>> found, key = find_lmdb(folder / "train_689/a.jpg")
    >>> found == folder, key
    (True, 'train_689/a.jpg')
    """
    for folder in path.parents:
        if is_lmdb(folder):
            return folder, path.relative_to(folder).as_posix()
    return None


def has_key(lmdb: Path, key: str) -> bool:
    """Whether the LMDB has this key. OSError: it cannot be read. ImportError: without the package lmdb."""
    return _value(lmdb, key, copy=False) is not None


def read_pixels(lmdb: Path, key: str) -> NDArray[np.uint8] | None:
    """The RGB image under a key, uint8 (256, 256, 3), or None where there is no such key.

    Raises:
        OSError: the LMDB cannot be read. ValueError: the value is of another length. ImportError: without lmdb.
    """
    value = _value(lmdb, key)
    if value is None:
        return None
    size = int(np.prod(SHAPE))
    if len(value) != size:
        raise ValueError(f"expected {size} bytes ({' x '.join(map(str, SHAPE))}, RGB), got {len(value)}")
    return np.frombuffer(value, dtype=np.uint8).reshape(SHAPE)


def _value(lmdb: Path, key: str, copy: bool = True) -> bytes | None:
    """The value under a key; without ``copy`` only whether there is one, as an empty value."""
    package = _package()
    try:
        with _environment(package, lmdb).begin(buffers=True) as transaction:
            view = transaction.get(key.encode())  # of the file itself, until the transaction ends
            return None if view is None else bytes(view) if copy else b""
    except package.BadValsizeError:  # longer than any key can be
        return None
    except package.Error as error:
        raise OSError(f"no readable LMDB: {error}") from error


def _environment(package: Any, lmdb: Path) -> Any:
    folder = os.path.isfile(f"{lmdb}/{DATA}")
    status = os.stat(f"{lmdb}/{DATA}" if folder else lmdb)
    with _lock:
        key = (status.st_dev, status.st_ino)
        if key not in _open:
            # Nothing writes, hence no lock file, and a read-only folder will do; images are read in any order.
            settings = {"readonly": True, "create": False, "lock": False, "readahead": False}
            _open[key] = package.open(str(lmdb), subdir=folder, **settings)
        return _open[key]


def _package() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError('images in an LMDB need lmdb: pip install "ferkit[lmdb]"') from error
    return lmdb
