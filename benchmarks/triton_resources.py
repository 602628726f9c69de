"""Compiles every Triton kernel ahead of time, without a GPU, and records registers, stack and shared memory.

``python -m benchmarks.triton_resources [--write]`` prints the table; ``--write`` puts it into docs/kernels.md and
benchmarks/results/triton-resources.json. The status is 1 if a kernel spills, exceeds the shared memory of a target, or
holds a 32-bit product that a large batch would overflow on its way to a pointer.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.offsets import narrow_products, pointer_steps

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "kernels.md"
RECORD = ROOT / "benchmarks" / "results" / "triton-resources.json"
FENCE = ("<!-- triton resources -->", "<!-- end of triton resources -->")

TARGETS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # compute capability -> shared memory a block can have

# 32-bit products that cannot overflow, by op and source line, each with its reason.
HARMLESS = {
    (
        "class_similarity",
        "pull += tl.load(pulls + part * classes * span + place, mask=inner, other=0)",
    ): "at most 8 partial sums of C x D numbers",
    (
        "similarity_preserving",
        "scale = 2 * tl.load(grad + i * grad_stride).to(acc) * tl.load(divisors + i)",
    ): "a branch's number times the stride of a vector of branches",
    (
        "similarity_preserving",
        "to_row = (branch * capacity + here[:, None]) * (2 * wide)",
    ): "twice the padded width; the rest is 64 bits",
    (
        "similarity_preserving",
        "from_row = (branch * capacity + here[:, None]) * (2 * wide)",
    ): "twice the padded width; the rest is 64 bits",
}


def specimens() -> list[Any]:
    """Of every op that has a Triton module, in the order of the ops."""
    from ferkit.ops import _select

    folder, found = ROOT / "ferkit" / "kernels" / "triton", []
    for op in _select.OPS:
        if (folder / f"{op}.py").exists():
            found += importlib.import_module(f"ferkit.kernels.triton.{op}").specimens()
    names = [(specimen.op, specimen.name) for specimen in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"specimens: names used twice: {sorted(twice)}")
    return found


def compiled(specimen: Any, capability: int) -> Any:
    """The kernel as a launch with memory from the allocator would compile it: pointers aligned to 16 bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = specimen.kernel.arg_names
    missing = [name for name in names if name not in specimen.signature and name not in specimen.constants]
    if missing:
        raise ValueError(f"{specimen.op} {specimen.name}: no type and no value for {', '.join(missing)}")
    signature = {name: "constexpr" if name in specimen.constants else specimen.signature[name] for name in names}
    aligned = {
        (position,): [["tt.divisibility", 16]] for position, name in enumerate(names) if signature[name].startswith("*")
    }
    source = ASTSource(fn=specimen.kernel, signature=signature, constexprs=specimen.constants, attrs=aligned)
    options = {"num_warps": specimen.warps, "num_stages": specimen.stages, "enable_fp_fusion": True} | specimen.options
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def usage(cubin: bytes) -> dict[str, int]:
    """Registers, stack and local memory a thread, as cuobjdump reads them off the binary."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([str(tool), "-res-usage", str(path)], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", done.stdout + done.stderr)
    if found is None:
        raise RuntimeError(f"cuobjdump: no resource usage in {done.stdout!r} {done.stderr!r}")
    return {"registers": int(found.group(1)), "stack": int(found.group(2)), "local": int(found.group(4))}


def growing(kernel: Any) -> list[str]:
    """The arguments that depend on the batch: those a kernel leaves unspecialised."""
    listed = kernel.do_not_specialize or ()
    return [kernel.arg_names[entry] if isinstance(entry, int) else entry for entry in listed]


def examine(specimen: Any) -> dict[str, Any]:
    """One row: resources on each target, and the narrow products."""
    row: dict[str, Any] = {"op": specimen.op, "kernel": specimen.name, "warps": specimen.warps, "targets": {}}
    arguments = [name for name in specimen.kernel.arg_names if name not in specimen.constants]
    for capability in TARGETS:
        built = compiled(specimen, capability)
        row["targets"][str(capability)] = usage(built.asm["cubin"]) | {"shared": built.metadata.shared}
    text = built.asm["ttir"]
    if not pointer_steps(text):
        raise RuntimeError(f"{specimen.op} {specimen.name}: no pointer addition found in its TTIR")
    narrow = narrow_products(text, arguments, growing(specimen.kernel))
    row["narrow"] = {line: step for line, step in narrow.items() if (specimen.op, line) not in HARMLESS}
    return row


def problems(row: dict[str, Any]) -> list[str]:
    """What must not be: spills, too much shared memory, offsets of 32 bits."""
    name, found = f"{row['op']} {row['kernel']}", []
    for capability, numbers in row["targets"].items():
        if numbers["stack"] or numbers["local"]:
            found.append(f"{name}: spills on sm_{capability}: {numbers['stack']} + {numbers['local']} bytes")
        limit = TARGETS[int(capability)]
        if numbers["shared"] > limit:
            found.append(f"{name}: {numbers['shared']} bytes of shared memory, sm_{capability} has {limit}")
    found += [f"{name}: 32-bit product reaches a pointer: {line!r} ({step})" for line, step in row["narrow"].items()]
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| op | kernel | warps | registers sm_80 / 90 / 100 | spilled | shared memory, bytes |"]
    lines += ["|---|---|---:|---|---:|---|"]
    for row in rows:
        numbers = row["targets"].values()
        registers = " / ".join(str(each["registers"]) for each in numbers)
        spilled = max(each["stack"] + each["local"] for each in numbers)
        shared = sorted({each["shared"] for each in numbers})
        memory = " to ".join(str(each) for each in (shared if len(shared) < 3 else [shared[0], shared[-1]]))
        lines.append(f"| {row['op']} | {row['kernel']} | {row['warps']} | {registers} | {spilled} | {memory} |")
    return "\n".join(lines) + "\n"


def recorded() -> set[tuple[str, str]]:
    """The kernels in the table that the repository keeps."""
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["kernels"] if RECORD.exists() else []
    return {(row["op"], row["kernel"]) for row in rows}


def write(rows: list[dict[str, Any]]) -> None:
    import triton

    about = {"triton": triton.__version__, "kernels": rows}
    RECORD.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(FENCE[0])
    tail = rest.split(FENCE[1])[1]
    middle = f"{FENCE[0]}\n\nTriton {triton.__version__}.\n\n{table(rows)}\n{FENCE[1]}"
    PAGE.write_text(head + middle + tail, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triton_resources", description=__doc__)
    parser.add_argument("--write", action="store_true", help="update docs/kernels.md and the record")
    parser.add_argument("--op", help="this op's kernels only")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th kernel from the i-th on")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments)
    if os.environ.pop("TRITON_INTERPRET", "0") == "1":
        print("TRITON_INTERPRET is ignored: compiled, not interpreted", file=sys.stderr)
    part, parts = map(int, options.part.split("/"))
    chosen = [each for each in specimens() if options.op in (None, each.op)][part::parts]
    with tempfile.TemporaryDirectory() as cache:  # a kept cache would hide what the compiler says today
        os.environ["TRITON_CACHE_DIR"] = cache
        rows = [examine(specimen) for specimen in chosen]
    print(json.dumps(rows) if options.json else table(rows))
    found = [problem for row in rows for problem in problems(row)]
    print("\n".join(found), file=sys.stderr)
    if options.write and (options.op or parts > 1):
        raise SystemExit("--write needs every kernel: leave out --op and --part")
    if options.write:
        write(rows)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
