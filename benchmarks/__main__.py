"""`python -m benchmarks`: measures, and writes <device>.md, <device>.json and the plots.

On the CPU into benchmarks/results unless told otherwise; `--device cuda --out DIR` on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import cold, machine, peak, plots, runner, suite, table
from benchmarks.registry import Case

RESULTS = Path(__file__).parent / "results"


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--out", type=Path, help="folder for the results (CPU default: benchmarks/results)")
    options.add_argument("--only", help="measure the cases whose name contains this; nothing is written without --out")
    options.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--no-write", action="store_true", help="print only")
    options.add_argument("--no-memory", action="store_true", help="leave out peak memory on the CPU")
    options.add_argument("--list", action="store_true", help="name the cases and what is asked of them, and stop")
    return options


def listed(chosen: list[Case]) -> str:
    """The cases without running them: a dry run that also makes every argument, on the meta device."""
    lines = []
    for case in chosen:
        arguments = case.make(getattr(torch, case.dtype), "meta")
        size = sum(part.numel() * part.element_size() for part in arguments if isinstance(part, torch.Tensor))
        asks = {name: value for name, value in vars(case.ask).items() if value is not None}
        against = [name for name in ("textbook", "compile", "bound") if getattr(case, name)] + list(case.peers)
        lines.append(f"{case.name}: {size / 2**20:.1f} MiB, {case.rounds} rounds, {' '.join(against)}; asked {asks}")
    return "\n".join(lines)


def run(chosen: list[Case], quick: bool) -> list[dict[str, Any]]:
    """Every case in turn; one that fails is reported as refused, and the others go on."""
    rows = []
    for case in chosen:
        try:
            row = runner.measure(case, quick)
        except Exception as problem:
            reason = f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"
            row = {"case": case.name, "op": case.op, "rows": case.rows, "dtype": case.dtype, "device": case.device}
            row |= {"tf32": case.tf32, "error": None, "allowed": case.tolerance, "refused": reason}
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if case.device == "cuda":
            torch.cuda.empty_cache()
    return rows


def memory_alone() -> dict[str, Any]:
    """The one size that is measured for its peak only: at most 1 GiB is asked."""
    case = suite.MEMORY
    row: dict[str, Any] = {"case": case.name, "op": case.op, "rows": case.rows, "dtype": case.dtype}
    row |= {"device": "cpu", "tf32": False, "error": None, "allowed": None}
    mebibytes = {"ours": peak.of_process(case)}
    return row | {"mebibytes": mebibytes, "asked": {"mebibytes": [1024, mebibytes["ours"]["whole"]]}}


def write(folder: Path, device: str, rows: list[dict[str, Any]], about: dict[str, str], first: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{device}.md").write_text(table.markdown(rows, about, first))
    (folder / f"{device}.json").write_text(json.dumps({"machine": about, "rows": rows, "cold": first}, indent=1) + "\n")
    try:
        plots.draw(rows, folder, f"ferkit {about['ferkit']} against the textbook, {about['device']}")
    except ImportError as problem:
        print(f"no plots: {problem}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    chosen = suite.cases(options.device, options.only)
    if options.list:
        print(listed(chosen))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --list names the cases", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    rows = run(chosen, options.quick)
    if options.device == "cpu" and not options.no_memory and (options.only or suite.MEMORY.name) in suite.MEMORY.name:
        rows.append(memory_alone())
    first = [cold.measure(op) for op in cold.OPS] if options.device == "cuda" and options.only is None else []
    about = machine.describe(options.device, options.threads)
    print(table.markdown(rows, about, first))
    folder = options.out or (RESULTS if options.device == "cpu" and options.only is None else None)
    if folder is not None and not options.no_write:
        write(folder, options.device, rows, about, first)
    return int(any("refused" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
