"""Compiles every CUDA file for each target, without a GPU, warnings as errors, and records what the kernels use.

``python -m benchmarks.cuda_resources [--write]`` prints the table; ``--write`` keeps it in
benchmarks/results/cuda-resources.md. Needs nvcc 13 or newer (CUDA_HOME). The status is 1 if a kernel spills, has a
stack, or exceeds the shared memory of a target.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "compile_file", "find_nvcc", "problems", "sources", "table", "why_not"]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "benchmarks" / "results" / "cuda-resources.md"
TARGETS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # compute capability -> shared memory a block can have
WITHOUT_ASKING = 48 * 1024  # what a launch can have with no attribute set
WARNINGS = ("-Werror", "all-warnings", "-Xcompiler", "-Wall")

# Shared memory that a launch asks for, in bytes for N rows; csrc/common/similarity_preserving_block.h says the same.
LARGEST = 512
DYNAMIC = {
    "forward_kernel": lambda rows: 8 * (-(-rows // 4) * 4 + 32),
    "backward_kernel": lambda rows: 8 * 8 * (-(-rows // 4) * 4),
}


@dataclass(frozen=True)
class Usage:
    """One kernel on one target, a thread's registers and bytes; ``shared``: bytes a block, at most."""

    file: str
    kernel: str
    target: int
    registers: int
    stack: int
    spilled: int
    shared: int


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = Path(home) / "bin" / "nvcc"
    return str(nvcc) if nvcc.exists() else shutil.which("nvcc")


def nvcc_version(nvcc: str) -> tuple[int, int]:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def why_not() -> str | None:
    """None if the CUDA files can be compiled here, else one line saying why not."""
    nvcc = find_nvcc()
    if nvcc is None:
        return "nvcc was not found (set CUDA_HOME)"
    version = nvcc_version(nvcc)
    return None if version >= (13, 0) else f"nvcc 13 or newer is needed, {nvcc} is {version[0]}.{version[1]}"


def sources() -> list[Path]:
    return sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def includes() -> list[str]:
    import torch

    folder = Path(torch.__file__).parent / "include"
    return [f"-I{folder}", f"-I{folder / 'torch' / 'csrc' / 'api' / 'include'}"]


def compile_file(source: Path, to: Path, targets: Iterable[int] = tuple(TARGETS)) -> list[Usage]:
    """Compile as setup.py does; what ptxas says of each kernel. A warning is an error (RuntimeError)."""
    nvcc = find_nvcc()
    assert nvcc is not None
    command = [nvcc, "-c", str(source), "-o", str(to), "-O3", "-std=c++17", "-Xcompiler", "-fPIC", "-Xptxas", "-v"]
    command += [*WARNINGS, "-DTORCH_TARGET_VERSION=0x020b000000000000", "-DUSE_CUDA=1", *includes()]
    command += [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{source.name}: {(done.stdout + done.stderr)[-3000:]}")
    return read(source.name, done.stdout + done.stderr)


_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)a?'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_NAME = re.compile(r"\d+([a-z_]+_kernel)(?:I([fd])E)?")


def read(file: str, text: str) -> list[Usage]:
    """What ``ptxas -v`` prints of each kernel."""
    found = []
    for part in text.split("ptxas info    : Compiling entry function ")[1:]:
        entry = _ENTRY.search("Compiling entry function " + part)
        stack, used, shared = _STACK.search(part), _USED.search(part), _SHARED.search(part)
        name = _NAME.search(entry[1]) if entry else None
        if entry is None or name is None or stack is None or used is None:
            raise RuntimeError(f"{file}: not understood: {part[:300]!r}")
        kernel = name[1] + {"f": ", float32", "d": ", float64"}.get(name[2], "")
        static = int(shared[1]) if shared else 0
        dynamic = DYNAMIC[name[1]](LARGEST) if name[1] in DYNAMIC else 0
        spilled = int(stack[2]) + int(stack[3])
        found.append(Usage(file, kernel, int(entry[2]), int(used[1]), int(stack[1]), spilled, static + dynamic))
    return sorted(found, key=lambda usage: (usage.kernel, usage.target))


def problems(rows: Iterable[Usage]) -> list[str]:
    """What must not be: spills, a stack, too much shared memory."""
    found = []
    for row in rows:
        name = f"{row.file} {row.kernel} on sm_{row.target}"
        if row.stack or row.spilled:
            found.append(f"{name}: {row.stack} bytes of stack, {row.spilled} of spills")
        limit = min(WITHOUT_ASKING, TARGETS[row.target])
        if row.shared > limit:
            found.append(f"{name}: {row.shared} bytes of shared memory, a launch has {limit}")
    return found


def table(rows: list[Usage]) -> str:
    lines = ["| file | kernel | registers sm_80 / 90 / 100 | stack | spilled | shared memory, bytes |"]
    lines += ["|---|---|---|---:|---:|---:|"]
    for file, kernel in dict.fromkeys((row.file, row.kernel) for row in rows):
        same = [row for row in rows if (row.file, row.kernel) == (file, kernel)]
        registers = " / ".join(str(row.registers) for row in same)
        numbers = [max(getattr(row, field) for row in same) for field in ("stack", "spilled", "shared")]
        lines.append(f"| {file} | {kernel} | {registers} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines) + "\n"


def page(rows: list[Usage]) -> str:
    nvcc = find_nvcc()
    assert nvcc is not None
    version = ".".join(map(str, nvcc_version(nvcc)))
    return (
        "# What the CUDA kernels use\n\n"
        f"`python -m benchmarks.cuda_resources --write`, nvcc {version}, compiled for sm_80, sm_90 and sm_100 with "
        "warnings as errors; nothing was run. Registers, stack and spills a thread, shared memory a block for "
        f"{LARGEST} rows, the most a kernel takes.\n\n{table(rows)}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_resources", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results/cuda-resources.md")
    options = parser.parse_args(arguments)
    reason = why_not()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for source in sources() for row in compile_file(source, Path(folder) / "x.o")]
    print(table(rows))
    found = problems(rows)
    print("\n".join(found), file=sys.stderr)
    if options.write:
        PAGE.write_text(page(rows), encoding="utf-8")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
