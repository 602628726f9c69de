"""The one way to measure: a correctness gate, warm-up, interleaved rounds in one process, median of ratios."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import clocks, peak
from benchmarks.clocks import Run
from benchmarks.registry import Arguments, Case, Function

NARROW = ("float16", "bfloat16")
AT_MOST = ("over_bound", "mebibytes")  # of what is asked, the rest is at least


def seeded(case: Case, dtype: torch.dtype) -> Arguments:
    torch.manual_seed(0)
    return case.make(dtype, case.device)


def leaves_of(arguments: Arguments) -> list[Tensor]:
    return [argument for argument in arguments if isinstance(argument, Tensor) and argument.requires_grad]


@contextlib.contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """float32 matrix products in IEEE arithmetic, or through TF32, for both sides alike."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# ---- the gate


def value_and_gradients(function: Function, arguments: Arguments) -> list[Tensor]:
    value = function(*arguments)
    torch.manual_seed(1)
    upstream = torch.randn(value.shape, dtype=torch.float64).to(value)
    return [value.detach(), *torch.autograd.grad(value, leaves_of(arguments), upstream)]


def errors(got: list[Tensor], want: list[Tensor]) -> float:
    """The largest error, relative to the largest entry of the same result; NaN counts as infinite."""
    worst = 0.0
    for one, other in zip(got, want):
        if one.shape != other.shape:
            return float("inf")
        if one.numel():
            off = (one.double() - other).abs().max() / other.abs().max().clamp_min(1e-300)
            worst = max(worst, float(off.nan_to_num(nan=float("inf"))))
    return worst


def gate(case: Case) -> tuple[float, float]:
    """The error of ours against float64, and what is allowed: the tolerance, in low precision twice the textbook's."""
    narrow = seeded(case, getattr(torch, case.dtype))
    wide = tuple(
        argument.detach().double().requires_grad_(argument.requires_grad)
        if isinstance(argument, Tensor) and argument.is_floating_point()
        else argument
        for argument in narrow
    )
    with precision(False):
        want = value_and_gradients(case.exact, wide)
    del wide
    with precision(case.tf32):
        error = errors(value_and_gradients(case.ours, narrow), want)
        allowed = case.tolerance
        if (case.tf32 or case.dtype in NARROW) and case.textbook is not None:
            allowed = max(allowed, 2 * errors(value_and_gradients(case.textbook, narrow), want))
    return error, allowed


# ---- steps


def step(function: Function, arguments: Arguments, once: bool = False) -> Run:
    """Forward and backward into .grad, as a training step does."""
    leaves = leaves_of(arguments)
    upstream = None if once else torch.ones_like(function(*arguments).detach())

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        value = function(*arguments)
        value.backward(torch.ones_like(value) if upstream is None else upstream)

    return run


def pull(function: Function, arguments: Arguments) -> Run:
    """Forward and backward with the gradients dropped: what a graph can capture, and nothing left behind."""
    leaves = leaves_of(arguments)
    upstream = torch.ones_like(function(*arguments).detach())

    def run() -> None:
        torch.autograd.grad(function(*arguments), leaves, upstream)

    return run


# ---- measuring


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Median and quartiles of the round-by-round ratios."""
    ratios = sorted(a / b for a, b in zip(over, under))
    quarter = len(ratios) // 4
    return {"median": statistics.median(ratios), "low": ratios[quarter], "high": ratios[-1 - quarter]}


def functions(case: Case) -> dict[str, Function]:
    """ours, the textbook, torch.compile of it, and the peers."""
    found: dict[str, Function] = {"ours": case.ours}
    if case.textbook is not None:
        found["textbook"] = case.textbook
        if case.compile:
            torch._dynamo.reset()
            found["compiled"] = torch.compile(case.textbook)
    return found | case.peers


def timing(case: Case, clock: clocks.Clock, runs: dict[str, Run], rounds: int) -> dict[str, Any]:
    """Medians and ratios under one clock."""
    ready = {name: clock.prepare(run) for name, run in runs.items()}
    times = clocks.interleave(clock, ready, rounds, case.device)
    result: dict[str, Any] = {
        "milliseconds": {name: statistics.median(values) * 1e3 for name, values in times.items()},
        "faster_than": {
            name: ratio(values, times["ours"]) for name, values in times.items() if name not in ("ours", "bound")
        },
    }
    if "bound" in times:
        result["over_bound"] = ratio(times["ours"], times["bound"])
    return result


def measure(
    case: Case, quick: bool = False, clock_list: Callable[[str], list[clocks.Clock]] = clocks.clocks
) -> dict[str, Any]:
    """One row of the results; a case whose gate fails is refused and not timed."""
    row: dict[str, Any] = {"case": case.name, "op": case.op, "rows": case.rows, "dtype": case.dtype}
    row |= {"device": case.device, "tf32": case.tf32}
    error, allowed = gate(case)
    row |= {"error": error, "allowed": allowed}
    if not error <= allowed:
        row["refused"] = f"differs from the float64 reference by {error:.1e} (allowed {allowed:.1e})"
        return row
    rounds = max(3, case.rounds // 10) if quick else case.rounds
    with precision(case.tf32):
        arguments = seeded(case, getattr(torch, case.dtype))
        named = functions(case)
        for clock in clock_list(case.device):
            called = clock.name == "call"
            make = step if called else pull
            timed = {name: function for name, function in named.items() if called or name in case.replay}
            runs: dict[str, Run] = {name: make(function, arguments) for name, function in timed.items()}
            if case.bound is not None:
                runs["bound"] = case.bound(arguments)
            if runs:
                row[clock.name] = timing(case, clock, runs, rounds)
        if case.device == "cuda":
            kept = [name for name in ("ours", "textbook") if name in named]
            for leaf in leaves_of(arguments):
                leaf.grad = None
            row["mebibytes"] = {name: peak.of_device(pull(named[name], arguments)) for name in kept}
    if case.device == "cpu" and case.memory:
        kept = ["ours", *(["textbook"] if case.textbook is not None else [])]
        row["mebibytes"] = {name: peak.of_process(case, name) for name in kept}
    row["asked"] = verdicts(case, row)
    return row


def verdicts(case: Case, row: dict[str, Any]) -> dict[str, list[float]]:
    """What was asked beside what was measured: name -> [asked, measured]."""
    ask, found = case.ask, {}
    for name, clock, against in (
        ("eager", "call", "textbook"),
        ("replayed", "replay", "textbook"),
        ("compiled", "call", "compiled"),
    ):
        measured = row.get(clock, {}).get("faster_than", {}).get(against)
        if getattr(ask, name) is not None and measured is not None:
            found[name] = [getattr(ask, name), measured["median"]]
    # A bound of traffic is judged on device time: as called, a small copy is all launch.
    bounded = row.get("replay", row.get("call", {})).get("over_bound")
    if ask.over_bound is not None and bounded is not None:
        found["over_bound"] = [ask.over_bound, bounded["median"]]
    if ask.memory is not None and "textbook" in row.get("mebibytes", {}):
        both = row["mebibytes"]
        found["memory"] = [ask.memory, both["textbook"]["whole"] / both["ours"]["whole"]]
    return found


def met(name: str, asked: float, measured: float) -> bool:
    return measured <= asked if name in AT_MOST else measured >= asked
