"""Tables and their meta in one safetensors file, written whole or not at all, read by memory mapping."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["load", "read_meta", "save"]

STALE = 3600.0  # seconds after which a temporary folder is taken for what a killed writer left


def save(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write ``path``: under another name in the same folder, forced to the disk, then renamed."""
    save_file = _safetensors().torch.save_file
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(f"path: expected a file in an existing folder, got {str(target)!r}")
    text = {"format": str(meta["format"]), "meta": json.dumps(meta)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _sweep(target)
    # A folder of its own: safetensors has temporary names too, which a killed writer would leave lying about.
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    folder.mkdir()
    try:
        temporary = folder / target.name
        save_file(plain, temporary, metadata=text)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        plainly = folder / "made by open"
        plainly.touch()
        temporary.chmod(plainly.stat().st_mode)  # safetensors lets nobody else read
        os.replace(temporary, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # the renaming itself; not every file system lets a folder be forced
        parent = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def load(path: str | os.PathLike[str], format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, memory-mapped, and meta of a file written by :func:`save` with this format."""
    with _open(path) as file:
        meta = _meta(path, file, format)
        return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118 (no mapping)


def read_meta(path: str | os.PathLike[str], format: str) -> dict[str, Any]:
    """Meta alone: the tables are not touched."""
    with _open(path) as file:
        return _meta(path, file, format)


def _meta(path: str | os.PathLike[str], file: Any, format: str) -> dict[str, Any]:
    header = file.metadata() or {}
    if header.get("format") != format:
        raise ValueError(f"{os.fspath(path)}: expected a file of format {format!r}, got {header.get('format')!r}")
    try:
        meta = json.loads(header["meta"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{os.fspath(path)}: its meta cannot be read ({error})") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{os.fspath(path)}: its meta is no mapping")
    return meta


def _open(path: str | os.PathLike[str]) -> Any:
    safetensors = _safetensors()
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: no such graph: {os.fspath(path)}")
    try:
        return safetensors.safe_open(os.fspath(path), framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{os.fspath(path)}: not a safetensors file, or not whole ({error})") from error


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ImportError('graphs are stored by safetensors: pip install "ferkit[graph]"') from error
    return safetensors


def _sweep(target: Path) -> None:
    """Remove what writers of this file left that were killed."""
    for path in target.parent.glob(f".{target.name}.????????????.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE:
                shutil.rmtree(path)
