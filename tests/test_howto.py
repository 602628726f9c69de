"""docs/howto-add-op.md, taken at its word: its blocks make a sixth op in a copy of the package, and its tests pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "howto-add-op.md"
BLOCK = re.compile(r"<!-- (file|change): (\S+) -->\n```(?:python|diff)\n(.*?)```", re.DOTALL)

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package with the page's files and changes in it."""
    root = tmp_path_factory.mktemp("howto")
    skip = shutil.ignore_patterns("__pycache__", "results", "goldens")
    for folder in ("ferkit", "benchmarks", "tests/ops", "tests/gpu", "docs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=skip)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, root / name)
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 12
    for kind, name, text in blocks:
        path = root / name
        if kind == "file":
            assert not path.exists(), f"{name} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        else:
            lines = text.splitlines()
            old = "\n".join(line[1:] for line in lines if line[0] in " -")
            new = "\n".join(line[1:] for line in lines if line[0] in " +")
            before = path.read_text(encoding="utf-8")
            assert before.count(old) == 1, f"{name}: the page changes a line that is not there:\n{old}"
            path.write_text(before.replace(old, new), encoding="utf-8")
    return root


def run(root, *command, interpret="1"):
    environment = os.environ | {"PYTHONPATH": str(root), "TRITON_INTERPRET": interpret, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_its_tests_pass(copy):
    tests = ["tests/ops/test_row_entropy.py", "tests/kernels/test_triton_row_entropy.py"]
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "tests/gpu/test_promises.py")
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_its_kernels_compile_ahead_of_time(copy):
    done = run(copy, "-m", "benchmarks.triton_resources", "--op", "row_entropy", interpret="0")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("| row_entropy | ") == 6


@pytest.mark.slow
def test_its_cases_pass_the_gate_and_info_names_it(copy):
    code = "from benchmarks import row_entropy, registry, runner; from ferkit import info; print(info.report()); "
    code += "print([runner.gate(case) for case in registry.cases('cpu', 'row_entropy')])"
    done = run(copy, "-c", code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "row_entropy on cpu: triton" in done.stdout and "row_entropy on cuda: " in done.stdout
    assert all(float(error) < 1e-5 for error in re.findall(r"\((\S+), ", done.stdout.splitlines()[-1]))
