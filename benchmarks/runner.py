"""The one way to measure: a correctness gate, warm-up, interleaved rounds in one process, median of ratios."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.registry import Case, Function


def seeded(case: Case, dtype: torch.dtype) -> tuple[Any, ...]:
    torch.manual_seed(0)
    return case.make(dtype)


def value_and_gradients(function: Function, arguments: tuple[Any, ...]) -> list[Tensor]:
    leaves = [argument for argument in arguments if isinstance(argument, Tensor) and argument.requires_grad]
    value = function(*arguments)
    torch.manual_seed(1)
    upstream = torch.randn(value.shape, dtype=torch.float64).to(value.dtype)
    return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]


def gate(case: Case) -> float:
    """The largest error of ours against the float64 textbook, relative to each result's largest entry."""
    dtype = getattr(torch, case.dtype)
    narrow = seeded(case, dtype)
    wide = tuple(
        argument.detach().double().requires_grad_(argument.requires_grad)
        if isinstance(argument, Tensor) and argument.is_floating_point()
        else argument
        for argument in narrow
    )
    worst = 0.0
    for got, want in zip(value_and_gradients(case.ours, narrow), value_and_gradients(case.textbook, wide)):
        worst = max(worst, float((got.double() - want).abs().max() / want.abs().max().clamp_min(1e-300)))
    return worst


def step(function: Function, arguments: tuple[Any, ...]) -> Callable[[], None]:
    """Forward and backward into .grad, as a training step does."""
    leaves = [argument for argument in arguments if isinstance(argument, Tensor) and argument.requires_grad]
    upstream = torch.ones_like(function(*arguments))

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(*arguments).backward(upstream)

    return run


def interleave(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(5 if rounds > 10 else 1):
            run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Median and quartiles of the round-by-round ratios."""
    ratios = sorted(a / b for a, b in zip(over, under))
    quarter = len(ratios) // 4
    return {"median": statistics.median(ratios), "low": ratios[quarter], "high": ratios[-1 - quarter]}


def measure(case: Case, quick: bool = False) -> dict[str, Any]:
    error = gate(case)
    row: dict[str, Any] = {"case": case.name, "dtype": case.dtype, "device": case.device, "error": error}
    if not error <= case.tolerance:
        row["refused"] = f"differs from the float64 reference by {error:.1e} (allowed {case.tolerance:.0e})"
        return row
    arguments = seeded(case, getattr(torch, case.dtype))
    runs: dict[str, Callable[[], object]] = {
        "ours": step(case.ours, arguments),
        "textbook": step(case.textbook, arguments),
    }
    if case.compile:
        torch._dynamo.reset()
        runs["compiled"] = step(torch.compile(case.textbook), arguments)
    if case.bound is not None:
        runs["bound"] = case.bound(arguments)
    times = interleave(runs, max(3, case.rounds // 10) if quick else case.rounds)
    row["milliseconds"] = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    row["speedup"] = ratio(times["textbook"], times["ours"])
    row["target"] = case.target
    if "compiled" in times:
        row["speedup_compiled"] = ratio(times["compiled"], times["ours"])
    if "bound" in times:
        row["over_bound"] = ratio(times["ours"], times["bound"])
        row["bound_target"] = case.bound_target
    return row


_PEAK = """
import torch
torch.set_num_threads({threads})
from benchmarks import suite, runner
from benchmarks.similarity_preserving import MEMORY
case = next(c for c in [*suite.CASES, MEMORY] if c.name == {name!r})
arguments = runner.seeded(case, getattr(torch, case.dtype))
if {run}:
    runner.step(case.{which}, arguments)()
# ru_maxrss would start from the parent's peak; the high-water mark starts anew with exec.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_mebibytes(case: Case, which: str = "ours") -> dict[str, float]:
    """Peak resident memory of forward and backward in a process of its own, in all and above the bare arguments."""

    def run(active: bool) -> float:
        code = _PEAK.format(threads=torch.get_num_threads(), name=case.name, which=which, run=active)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1]) / 1024

    whole = run(True)
    return {"whole": whole, "above_arguments": whole - run(False)}
