"""`python -m benchmarks`: measures, and writes benchmarks/results/cpu.md and cpu.json."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import torch

from benchmarks import runner, suite
from benchmarks.similarity_preserving import MEMORY

RESULTS = Path(__file__).parent / "results"


def spread(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def table(rows: list[dict], memory: dict[str, float] | None, machine: str) -> str:
    lines = [
        "# CPU",
        "",
        machine,
        "",
        "Forward and backward against the formulas of `benchmarks/textbook.py`, interleaved in one process: the median",
        "of the round-by-round ratios, and their quartiles. A case is reported only if its value and gradients agree",
        "with float64.",
        "",
        "| case | error | ours, ms | textbook, ms | times eager | asked | times compiled | over bare products |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "refused" in row:
            lines.append(f"| {row['case']} | REFUSED: {row['refused']} | | | | | | |")
            continue
        times, bound = row["milliseconds"], spread(row.get("over_bound"))
        lines.append(
            f"| {row['case']} | {row['error']:.0e} | {times['ours']:.3f} | {times['textbook']:.3f} "
            f"| {spread(row['speedup'])} | {row['target']:g} | {spread(row.get('speedup_compiled'))} "
            f"| {bound}{' (asked 1.6)' if bound else ''} |"
        )
    if memory is not None:
        lines += ["", f"Peak memory of {MEMORY.name} (8 branches), forward and backward: {memory['whole']:.0f} MiB,"]
        lines += [f"of which {memory['above_arguments']:.0f} MiB above a process that only holds the arguments."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help="measure the cases whose name contains this")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-write", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for case in (case for case in suite.CASES if options.only is None or options.only in case.name):
        rows.append(runner.measure(case, options.quick))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    memory = None
    if options.only is None or options.only in MEMORY.name:
        memory = runner.peak_mebibytes(MEMORY)
    machine = f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, capability "
    machine += torch.backends.cpu.get_cpu_capability()
    text = table(rows, memory, machine)
    print(text)
    if not options.no_write and options.only is None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "cpu.md").write_text(text)
        (RESULTS / "cpu.json").write_text(json.dumps({"machine": machine, "rows": rows, "memory": memory}, indent=1))
    return any("refused" in row for row in rows)


if __name__ == "__main__":
    sys.exit(main())
