"""What is installed, which backend each operator takes here, and why not the others."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform

import torch

import ferkit
from ferkit.ops import _native, _select

__all__ = ["report"]

EXTRAS = {
    "train": "torchvision lightning torchmetrics jsonargparse matplotlib pillow pandas pyarrow scikit-learn",
    "graph": "faiss-gpu scipy safetensors",
    "triton": "triton",
    "lmdb": "lmdb",
}


def report() -> str:
    """The text of ``ferkit info``: versions, devices, extras and operators."""
    lines = [
        f"ferkit {ferkit.__version__}  python {platform.python_version()}  {platform.system()} {platform.machine()}",
        f"torch  {torch.__version__}  {torch.get_num_threads()} threads  CUDA build: {torch.version.cuda or 'no'}",
        "",
        "extras",
    ]
    for extra, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages.split()}
        missing = [package for package, version in versions.items() if version is None]
        state = "complete" if not missing else f'missing {", ".join(missing)}: pip install "ferkit[{extra}]"'
        lines.append(f"  {extra:8}{state}")
        lines += [f"    {package} {version}" for package, version in versions.items() if version is not None]
    lines += ["", "operators"]
    instructions = _native.instruction_set()
    if instructions is not None:
        lines.append(f"  native kernels on cpu are those for {instructions}")
        reason = _native.why_not_autograd()
        lines.append(f"  autograd nodes on cpu: {'C++' if reason is None else f'Python ({reason})'}")
    for operator, devices in _select.report().items():
        for device, backends in devices.items():
            limit = _select.rows_limit(operator, device)
            lines.append(f"  {operator} on {device}: {_taken(backends, limit)}")
            names = {name: f"{name} (up to {limit} rows)" if name == "native" and limit else name for name in backends}
            lines += [f"    {names[name]}: {reason}" for name, reason in backends.items() if reason is not None]
    return "\n".join(lines)


def _taken(backends: dict[str, str | None], limit: int | None) -> str:
    """The backend in use, or the two where the native kernel is for small batches."""
    able = [name for name, reason in backends.items() if reason is None] or ["none"]
    if able[0] == "native" and limit is not None and len(able) > 1:
        return f"native up to {limit} rows, {able[1]} beyond"
    return able[0]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
