"""How a step is timed: by the wall on the CPU; on a GPU by events as called from Python, and under graph replay."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

Run = Callable[[], object]


class Clock(Protocol):
    name: str

    def prepare(self, run: Run) -> Run:
        """What is really timed: the run itself, or its captured graph. Raises where the run cannot be captured."""

    def seconds(self, run: Run, repeats: int) -> float:
        """Time of one run, the mean over ``repeats`` in a row."""


class WallClock:
    name = "call"

    def prepare(self, run: Run) -> Run:
        return run

    def seconds(self, run: Run, repeats: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - start) / repeats


class EventClock:
    """From an idle device to the last kernel's end: launches count where they are what takes the time."""

    name = "call"

    def prepare(self, run: Run) -> Run:
        return run

    def seconds(self, run: Run, repeats: int = 1) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats


class GraphClock(EventClock):
    """The same events around replays of the captured step: device time without Python."""

    name = "replay"

    def prepare(self, run: Run) -> Run:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return lambda: graph.replay()


def clocks(device: str) -> list[Clock]:
    return [WallClock()] if device == "cpu" else [EventClock(), GraphClock()]


def repeats_for(clock: Clock, run: Run, device: str) -> int:
    """A GPU block of runs lasts about a millisecond, so that the events' own resolution does not show."""
    if device == "cpu":
        return 1
    once = min(clock.seconds(run, 1) for _ in range(2))
    return max(1, min(20, int(1e-3 / max(once, 1e-6))))


def interleave(clock: Clock, runs: dict[str, Run], rounds: int, device: str) -> dict[str, list[float]]:
    """Round after round every function in turn, after a warm-up; seconds per run."""
    for run in runs.values():
        for _ in range(5 if rounds > 10 else 1):
            run()
    repeats = {name: repeats_for(clock, run, device) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(clock.seconds(run, repeats[name]))
    return times
