"""The CUDA kernels under compute-sanitizer, through a driver without torch that compares them with the host."""

import shutil
import subprocess
from pathlib import Path

import pytest

resources = pytest.importorskip("benchmarks.cuda_resources")
DRIVER = Path(__file__).parent / "sanitizer_driver.cu"


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    reason = resources.why_not()
    if reason is not None:
        pytest.skip(reason)
    program = tmp_path_factory.mktemp("driver") / "driver"
    command = [resources.find_nvcc(), "-std=c++17", "-lineinfo", "-arch=native", *resources.WARNINGS]
    subprocess.run([*command, "-o", str(program), str(DRIVER)], check=True)
    return program


def test_as_on_the_host(driver):
    done = subprocess.run([str(driver)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_sanitizer(driver, tool):
    beside = Path(resources.find_nvcc()).with_name("compute-sanitizer")
    sanitizer = str(beside) if beside.exists() else shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer was not found")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", str(driver)]
    command += ["raw"] if tool == "initcheck" else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
