"""What the autograd nodes in C++ save at small batches, against those in Python.

``python -m benchmarks.autograd_nodes``: forward and backward of every native CPU op at up to 72 rows, with either kind
of node and as the textbook has it, in turn in one process, one thread.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

import benchmarks.suite  # noqa: F401  registers the cases
from benchmarks.clocks import clocks, interleave
from benchmarks.registry import CASES, Case
from benchmarks.runner import Run, ratio, seeded, step
from ferkit.ops import _native, _select

ROUNDS, ROWS = 300, 72


def with_nodes(case: Case, kind: str) -> Run:
    """One forward and backward with the nodes in "C++" or in "Python"."""
    arguments = seeded(case, torch.float32)
    kernel: Any = _select.kernel_for(case.op, arguments[0])
    recorded = kernel.recorded if kind == "C++" else None
    run = step(case.ours, arguments)

    def chosen() -> None:
        kernel.recorded = _select._recorded[case.op] = recorded
        run()

    return chosen


def main() -> None:
    reason = _native.why_not_autograd()
    if reason is not None:
        raise SystemExit(f"no nodes in C++ here: {reason}")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {_native.instruction_set()}, 1 thread, {ROUNDS} rounds: medians, quartiles\n")
    print("| case | C++, us | Python, us | Python / C++ | eager / C++ |\n|---|---:|---:|---:|---:|")
    clock = clocks("cpu")[0]
    for case in CASES:
        if case.device != "cpu" or case.rows > ROWS or case.op not in _select.OPS or case.textbook is None:
            continue
        eager = step(case.textbook, seeded(case, torch.float32))
        # Each kind after the textbook, so that both find the same caches.
        runs = {"before": eager, "Python": with_nodes(case, "Python"), "eager": eager, "C++": with_nodes(case, "C++")}
        found = interleave(clock, {name: clock.prepare(run) for name, run in runs.items()}, ROUNDS, "cpu")
        times = [f"{1e6 * statistics.median(found[kind]):.0f}" for kind in ("C++", "Python")]
        gains = [ratio(found[kind], found["C++"]) for kind in ("Python", "eager")]
        cells = [f"{gain['median']:.2f} ({gain['low']:.2f} to {gain['high']:.2f})" for gain in gains]
        print(f"| {case.name} | {' | '.join([*times, *cells])} |", flush=True)


if __name__ == "__main__":
    main()
