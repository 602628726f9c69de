"""The tests of the minimal lane also here, in a fresh process whose import hook blocks every extra."""

import subprocess
import sys
from pathlib import Path


def test_with_the_extras_blocked():
    command = [sys.executable, "-m", "unittest", "test_minimal"]
    result = subprocess.run(command, cwd=Path(__file__).parent / "minimal", capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "OK" in result.stderr and "Ran 10 tests" in result.stderr
