"""Batch sizes 1 to 512 ask for at most three variants of any Triton kernel; counted without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
OPS = {"class_similarity", "similarity_preserving", "scaled_cross_entropy", "concordance", "neighbor_divergence"}


def test_no_batch_size_is_specialised():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.triton_variants"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found) == OPS and all(found.values())
    for op, kernels in found.items():
        for kernel, variants in kernels.items():
            assert 1 <= variants <= 3, f"{op}: {kernel} is compiled {variants} times"
