"""Writing files so that a reader, or a full disk, never sees half of one."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["can_be_made", "is_picture", "replacing", "save_figure", "write_json", "write_text"]


def can_be_made(path: str | os.PathLike[str]) -> bool:
    """Whether a file can be written here, or a folder made: what is there of the folders above may be written to.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "file").touch()
    >>> can_be_made(folder / "new" / "a.csv"), can_be_made(folder / "file" / "a.csv")
    (True, False)
    """
    above = next(folder for folder in Path(path).absolute().parents if folder.exists())
    return above.is_dir() and os.access(above, os.W_OK)


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether the suffix names a format that figures can be written in.

    >>> is_picture("a.png"), is_picture("a.xyz"), is_picture("a")
    (True, False, False)
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return Path(path).suffix[1:].lower() in FigureCanvasAgg.get_supported_filetypes()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; when the block ends well, what was written there replaces ``path``.

    If the block raises, the temporary file is removed and ``path`` stays what it was. Missing folders are made. The
    temporary name keeps the suffix, for writers that choose their format by it.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}.tmp{target.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # a full disk may only show when the data is forced out
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically (see :func:`replacing`)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write ``obj`` as indented JSON atomically; tensors and arrays become lists, NaN and infinity become null.

    Raises:
        TypeError: ``obj`` holds something that JSON cannot say; nothing is written then.
    """
    write_text(path, json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def save_figure(fig: Figure, path: str | os.PathLike[str], dpi: int = 110, tight: bool = False) -> None:
    """Write a figure atomically, in the format that the suffix names (png, svg or pdf)."""
    with replacing(path) as temporary:
        fig.savefig(temporary, dpi=dpi, facecolor="white", bbox_inches="tight" if tight else None)
