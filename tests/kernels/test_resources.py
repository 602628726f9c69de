"""Every Triton kernel, compiled ahead of time for three targets: no spills, room enough, 64-bit offsets, recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
resources = pytest.importorskip("benchmarks.triton_resources")
pytest.importorskip("triton")


def clean_environment(**more):
    """Without the interpreter, which the other tests use and which is chosen at import."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")} | more


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    command = [sys.executable, "-m", "benchmarks.triton_resources", "--json", "--part"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    halves = [
        subprocess.Popen(
            [*command, f"{part}/2"],
            env=clean_environment(TMPDIR=str(tmp_path_factory.mktemp("half")), OMP_NUM_THREADS="1"),
            **pipes,
        )
        for part in range(2)
    ]
    found = []
    for half in halves:
        output, problems = half.communicate(timeout=900)
        assert output.strip().startswith("["), problems[-3000:]
        found += json.loads(output)
    return found


@pytest.mark.slow
def test_nothing_spills_and_everything_fits(rows):
    problems = [problem for row in rows for problem in resources.problems(row)]
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_the_recorded_table_names_these_kernels(rows):
    found = {(row["op"], row["kernel"]) for row in rows}
    assert found and found == resources.recorded(), "run: python -m benchmarks.triton_resources --write"
    page = resources.PAGE.read_text(encoding="utf-8")
    for row in rows:
        assert f"| {row['op']} | {row['kernel']} |" in page
        assert set(row["targets"]) == {"80", "90", "100"}
        assert all(numbers["registers"] > 0 for numbers in row["targets"].values())


def test_spills_and_shared_memory_are_problems():
    fine = {"registers": 40, "stack": 0, "local": 0, "shared": 1024}
    row = {"op": "op", "kernel": "k", "narrow": {}, "targets": {"80": fine, "90": fine}}
    assert resources.problems(row) == []
    spilled = row | {"targets": {"90": fine | {"stack": 16}}}
    large = row | {"targets": {"80": fine | {"shared": 163 * 1024 + 1}}}
    assert "spills on sm_90" in resources.problems(spilled)[0]
    assert "sm_80 has 166912" in resources.problems(large)[0]
    assert "32-bit product" in resources.problems(row | {"narrow": {"x = row * width": "tt.addptr"}})[0]


KERNELS = """
import triton
import triton.language as tl
from benchmarks.offsets import narrow_products
from benchmarks.triton_resources import compiled, growing, usage
from ferkit.kernels.triton.launch import Specimen

@triton.jit(do_not_specialize=["rows"])
def narrow(x, rows, width, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = row * width
    tl.store(x + place, 1.0, mask=row < rows)

@triton.jit(do_not_specialize=["rows"])
def widened_late(x, rows, width, BLOCK: tl.constexpr):
    for start in range(0, rows, BLOCK):
        place = (start * width).to(tl.int64)
        tl.store(x + place, 1.0)

@triton.jit(do_not_specialize=["rows"])
def carried(x, rows, width, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK
    for _ in range(0, width):
        tl.store(x + row, 1.0)
        row = row * 3

@triton.jit(do_not_specialize=["rows"])
def wide(x, rows, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    place = row * width
    tl.store(x + place, 1.0, mask=row < rows)

@triton.jit(do_not_specialize=["rows"])
def columns(x, rows, width, BLOCK: tl.constexpr):
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + column, 1.0, mask=column < width)

for kernel in (narrow, widened_late, carried, wide, columns):
    types = {"x": "*fp32", "rows": "i32", "width": "i32"}
    specimen = Specimen("none", "none", kernel, types, {"BLOCK": 128}, warps=4)
    built = compiled(specimen, 90)
    assert usage(built.asm["cubin"])["registers"] > 0
    found = narrow_products(built.asm["ttir"], list(types), growing(kernel))
    print(kernel.fn.__name__, *found, sep=": ")
"""


def test_products_of_32_bits_are_found(tmp_path):
    script = tmp_path / "kernels.py"
    script.write_text(KERNELS)
    environment = clean_environment(TRITON_CACHE_DIR=str(tmp_path / "cache"), PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "narrow: place = row * width",
        "widened_late: place = (start * width).to(tl.int64)",
        "carried: row = row * 3",
        "wide",
        "columns",
    ]
