"""Peak memory of forward and backward: on the GPU from the allocator, on the CPU from a process of its own."""

from __future__ import annotations

import subprocess
import sys

import torch

from benchmarks.clocks import Run
from benchmarks.registry import Case

MEBI = 1 << 20

# A small step first, so that libraries and thread pools are loaded; then the high-water mark starts anew.
_CODE = """
import dataclasses, torch
torch.set_num_threads({threads})
from benchmarks import runner, suite
def status(field):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(field)))
case = suite.find({name!r}, "cpu")
function = getattr(case, {which!r})
runner.step(function, case.make(getattr(torch, case.dtype), "cpu", 16))()
arguments = runner.seeded(case, getattr(torch, case.dtype))
try:
    open("/proc/self/clear_refs", "w").write("5")
except OSError:
    pass
before = status("VmRSS")
runner.step(function, arguments, once=True)()
print(before, status("VmHWM"))
"""


def of_process(case: Case, which: str = "ours") -> dict[str, float]:
    """MiB: ``whole`` process and what the step took ``above`` a process that holds the arguments."""
    code = _CODE.format(threads=torch.get_num_threads(), name=case.name, which=which)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, whole = (int(number) / 1024 for number in done.stdout.split()[-2:])
    return {"whole": whole, "above": max(0.0, whole - before)}


def of_device(run: Run) -> dict[str, float]:
    """MiB: ``whole`` allocation at its peak, and what the step took ``above`` its arguments."""
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    whole = torch.cuda.max_memory_allocated()
    return {"whole": whole / MEBI, "above": (whole - before) / MEBI}
