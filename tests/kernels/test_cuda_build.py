"""Every CUDA file compiles for every target with warnings as errors, spills nothing, and counts in 64 bits."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

resources = pytest.importorskip("benchmarks.cuda_resources")
REASON = resources.why_not()
needs_nvcc = pytest.mark.skipif(REASON is not None, reason=str(REASON))
ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "tests" / "gpu" / "sanitizer_driver.cu"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Object file and usage of every source; compiled once."""
    folder = tmp_path_factory.mktemp("cuda")
    sources = resources.sources()
    return {
        source.name: (folder / f"{source.stem}.o", resources.compile_file(source, folder / f"{source.stem}.o"))
        for source in sources
    }


@needs_nvcc
@pytest.mark.slow
def test_nothing_spills_and_everything_fits(compiled):
    rows = [row for _, usages in compiled.values() for row in usages]
    assert not resources.problems(rows)
    assert {row.target for row in rows} == {80, 90, 100}
    names = {row.kernel.split(",")[0] for row in rows if row.file == "similarity_preserving.cu"}
    assert names == {"forward_kernel", "backward_kernel", "finish_kernel"}
    recorded = resources.PAGE.read_text(encoding="utf-8")
    assert all(f"| {row.file} | {row.kernel} |" in recorded for row in rows), "run: benchmarks.cuda_resources --write"


@needs_nvcc
@pytest.mark.slow
def test_addresses_have_64_bits(compiled):
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("no cuobjdump beside Triton")
    path, _ = compiled["similarity_preserving.cu"]
    text = subprocess.run([str(tool), "-sass", "-arch", "sm_90", str(path)], capture_output=True, text=True, check=True)
    functions = text.stdout.split("Function : ")[1:]
    assert len(functions) == 6
    for function in functions:
        accesses = re.findall(r"\b(?:LDG|STG)[.\w]*", function)
        assert accesses and all(".E" in access for access in accesses)  # .E: the address is a pair of registers
        assert re.search(r"IMAD\.WIDE", function)
        assert not re.search(r"\b(?:ATOM|RED|LDL|STL)\b", function)


@needs_nvcc
@pytest.mark.slow
def test_a_warning_is_an_error(tmp_path):
    source = tmp_path / "unused.cu"
    source.write_text("__global__ void some_kernel(float* x) { int unused; x[0] = 1; }\n")
    with pytest.raises(RuntimeError, match="never referenced"):
        resources.compile_file(source, tmp_path / "unused.o", [90])


@needs_nvcc
@pytest.mark.slow
def test_the_sanitizer_driver_compiles(tmp_path):
    program = tmp_path / "driver"
    command = [resources.find_nvcc(), "-std=c++17", "-lineinfo", "-arch=sm_90", *resources.WARNINGS]
    subprocess.run([*command, "-o", str(program), str(DRIVER)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode in (0, 2), done.stdout + done.stderr  # 2: no GPU, or not of this kind


OFFSETS = """
#include "csrc/common/similarity_preserving_block.h"
#include <cstdio>
using namespace ferkit::sp_small;
int main() {
  Job<float> job{};
  job.branches = 1 << 20, job.size = 511, job.wide = 512, job.groups = groups_of(511);
  job.h = nullptr, job.vectors = nullptr;
  const auto bytes = [](const void* p) { return static_cast<long long>(reinterpret_cast<std::uintptr_t>(p)); };
  std::printf(
      "%lld %lld %lld %lld %lld", bytes(job.gram(1 << 20, 510)), bytes(job.pull(1 << 20, 510)),
      bytes(job.along_branch((1 << 20) - 1)), static_cast<long long>(state_size(1 << 20, 511, 4)),
      static_cast<long long>(backward_blocks(1 << 20, 511, true)));
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_offsets_beyond_32_bits(tmp_path):
    (tmp_path / "offsets.cpp").write_text(OFFSETS)
    program = tmp_path / "offsets"
    command = ["c++", "-std=c++17", "-O1", "-Wall", "-Werror", f"-I{ROOT}", str(tmp_path / "offsets.cpp")]
    subprocess.run([*command, "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    branches, size, wide = 1 << 20, 511, 512
    matrix = 4 * (branches * size + 510) * size
    state = -(-(branches + 1) * size * size // 4) * 2 + branches * (5 * wide + 1 + 16)
    blocks = size + (branches + 1) * size
    assert list(map(int, done.stdout.split())) == [matrix, matrix, 8 * (5 * branches - 1) * wide, state, blocks]
    assert blocks < 2**31


def test_the_report_understands_ptxas():
    text = (
        "ptxas info    : Compiling entry function '_ZN6ferkit8sp_small14forward_kernelIfEEvNS0_3JobIT_EE' for 'sm_90'\n"
        "ptxas info    : Function properties for x\n"
        "    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
        "ptxas info    : Used 58 registers, used 1 barriers, 50000 bytes smem\n"
    )
    (row,) = resources.read("a.cu", text)
    assert (row.kernel, row.target, row.registers) == ("forward_kernel, float32", 90, 58)
    assert (row.stack, row.spilled, row.shared) == (16, 12, 50000 + 8 * 544)
    spills, shared = resources.problems([row])
    assert "16 bytes of stack, 12 of spills" in spills and "54352 bytes of shared memory" in shared
    assert "| a.cu | forward_kernel, float32 | 58 | 16 | 12 | 54352 |" in resources.table([row])
    with pytest.raises(RuntimeError, match="not understood"):
        resources.read("a.cu", text.replace("Used", "Took"))
