"""Two commands in one folder: the second is refused, whatever became of the first's helpers when it was killed."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import lightning
import pytest

from ferkit.cli import main
from ferkit.tasks import study_runs, training

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")

DATA = "--data synthetic --train-images 30 --validation-images 10 --size 24 --batch-size 14 --accelerator cpu"

# As a command that trains: with a process that loads images, which outlives it for a moment.
HOLDER = """
import os, sys, time
from pathlib import Path
from ferkit.tasks._lock import alone_in

with alone_in(Path(sys.argv[1])):
    helper = os.fork()
    if helper:
        print(helper, flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(folder):
    """The folder while another process holds it; that one is then killed, and its helper lives on until the end."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        helper = int(process.stdout.readline())
        try:
            yield process
        finally:
            process.kill()
            os.kill(helper, signal.SIGKILL)


@pytest.mark.parametrize("command", ["train ce --resume true", "study dmue --seeds 0"])
@pytest.mark.parametrize("early", [True, False])
def test_the_second_command_in_a_folder_is_refused(command, early, tmp_path, monkeypatch, capsys):
    """Before data are read, or, where both came at the same time, before anything is written."""
    place = tmp_path / "place"
    words = [*command.split(), *DATA.split(), "--out", str(place)]
    module = training if command.startswith("train") else study_runs

    def started(*_, **__):
        raise OSError("started")

    with holder(place) as process:
        with monkeypatch.context() as patch:
            patch.setattr(module, *(("build_dataset", None) if early else ("check_free", lambda folder: None)))
            assert main(words) == 2
        assert f"out: '{place}' is in use by another ferkit command" in capsys.readouterr().err
        assert [path.name for path in place.iterdir()] == [".lock"]
        process.kill()
        process.wait()
        monkeypatch.setattr(lightning.Trainer, "fit", started)
        assert main(words) == 2
        assert "started" in capsys.readouterr().err, "a killed command holds nothing"
    assert main(words) == 2
    assert "started" in capsys.readouterr().err, "nor does one that broke off"
