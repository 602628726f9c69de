"""Worker processes load images and change nothing else: a resumed run is the same run."""

import pytest

from ferkit.cli import main
from ferkit.recipes import CrossEntropy

SMALL = "--data synthetic --train-images 60 --validation-images 20 --batch-size 20 --progress false --accelerator cpu"


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_with_worker_processes_is_the_same_run(tmp_path, monkeypatch, workers):
    words = ("train ce", SMALL, f"--backbone small --epochs 3 --workers {workers} --out")
    assert ferkit(*words, tmp_path / "whole") == 0
    loss, calls = CrossEntropy.training_loss, []

    def breaks_in_the_second_epoch(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise OSError("power cut")
        return loss(self, *arguments)

    monkeypatch.setattr(CrossEntropy, "training_loss", breaks_in_the_second_epoch)
    assert ferkit(*words, tmp_path / "cut") == 2
    monkeypatch.undo()
    assert ferkit(*words, tmp_path / "cut", "--resume true") == 0
    for name in ("metrics.csv", "labels.csv"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
