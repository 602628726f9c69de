"""What a result was measured on: device, driver, versions and commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch

import ferkit


def said(*command: str) -> str | None:
    """Standard output of a tool, or None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or None if done.returncode == 0 else None


def commit() -> str:
    """Of the tree that was measured; FERKIT_COMMIT where it lies outside a repository."""
    name = said("git", "rev-parse", "--short=12", "HEAD")
    if name is None:
        return os.environ.get("FERKIT_COMMIT", "unknown")
    changed = said("git", "status", "--porcelain", "--untracked-files=no", "--", "../ferkit", "../csrc", ".")
    return f"{name}, changed" if changed else name


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def describe(device: str, threads: int) -> dict[str, str]:
    found = {
        "ferkit": ferkit.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "python": platform.python_version(),
    }
    if device == "cuda":
        found["device"] = torch.cuda.get_device_name()
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        driver = said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found["driver"] = driver.splitlines()[0] if driver else "unknown"
        found["cuda"] = str(torch.version.cuda)
    else:
        found["device"] = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads} threads"
    return found
