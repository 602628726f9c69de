"""Requests that cannot be met: one line that names the option, before any work, and nothing left behind."""

import pytest
import torch

from ferkit.cli import main

SMALL = "--data synthetic --train-images 60 --validation-images 20 --batch-size 20 --progress false --accelerator cpu"


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train ce --data ferplus", "root: expected the folder"),
        ("train ce --root faces", "data: expected the kind of images in root 'faces', got 'synthetic'"),
        ("train ce --data folder --root faces --labels votes", "labels: expected none for data 'folder', got 'votes'"),
        (f"train ce {SMALL} --labels votes", "labels: expected none for data 'synthetic', got 'votes'"),
        (f"train vgg {SMALL} --source-noise [0.2]", "source_noise: expected data 'cifar10' beside it"),
        (f"train ce {SMALL} --exclude-duplicates true", "exclude_duplicates: expected data 'ferplus' beside it"),
        ("train ce --data folder --root nowhere", "root: expected a folder, got 'nowhere'"),
        ("train ce --data manifest --root faces.txt", "root: expected a .csv or .parquet file, got 'faces.txt'"),
        ("train ce --data manifest --root nowhere.csv", "root: no such manifest: nowhere.csv"),
        ("train vgg --data cifar10 --root nowhere --source-noise [0.2,0.2]", "source_noise: expected different rates"),
        (f"train ce {SMALL} --synthetic-classes 9", "synthetic_classes: expected 7 or 8, got 9"),
        (f"train ce {SMALL} --subset-seed -1", "subset_seed: expected a value in"),
        (f"train ldl-alsg {SMALL} --spaces [au,au]", "spaces: expected each once, got au, au"),
        (f"train ldl-alsg {SMALL} --spaces [mouth]", "spaces: expected 'au', 'landmark', 'va' or"),
        (f"train ldl-alsg {SMALL} --graph au=nowhere.knn", "graph: no such graph: nowhere.knn"),
        (f"train dmue {SMALL} --batch-size 8", "batch_size"),
        (f"train dmue {SMALL} --backbone vgg", "backbone: expected one of"),
        (f"train dmue {SMALL} --pretrained missing.pth", "pretrained: expected a file, got 'missing.pth'"),
        (f"train dmue {SMALL} --noise 1.5", "noise: expected a value in [0, 1]"),
        (f"train dmue {SMALL} --epochs 0", "epochs"),
        ("train ce --data folder --root nowhere --size 100000", "size: expected a value in [8, 512], got 100000"),
        (f"train dmue {SMALL} --gamma -1", "gamma"),
        (f"train dmue {SMALL} --normalize rows", "normalize: expected one of 'batch', 'subset', got 'rows'"),
        (
            f"train ce {SMALL} --sampler shuffle --train-images 3",
            "classes: expected a training image of each, got none of",
        ),
        (f"train dmue {SMALL} --train-images 3", "classes: expected a training image of each, got none of"),
        ("evaluate nowhere", "expected a run folder"),
        ("train ce --epochs 1.5", "epochs: expected int, got '1.5' (options: ferkit train ce --help)"),
        ("train ce --classes sad,happy", "classes: expected a list such as [a, b], got 'sad,happy'"),
        (
            "train ce --classes [0,1]",
            "classes: expected text (numbers, yes and no in quotes: \"['0', 'no']\"), got '0'",
        ),
        ("train ce --sampler any", "sampler: expected one of 'coverage', 'shuffle', 'inverse-frequency', got 'any'"),
        ("train ce --epcohs 1", "unrecognized arguments: --epcohs 1"),
        ("train cross-entropy", "invalid choice: 'cross-entropy' (choose from 'ce', 'dmue',"),
        ("train ce --config nowhere.yaml", "config: File does not exist"),
        ("graph build -k x", "k: expected int, got 'x' (options: ferkit graph build --help)"),
        ("evaluate", "required: evaluate.run"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ferkit(words) == 2
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("ferkit: error")]
    assert len(errors) == 1 and message in errors[0] and "usage:" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to be had")
def test_accelerator_that_is_not_there(tmp_path, capsys):
    assert ferkit("train ce", SMALL, "--accelerator gpu --out", tmp_path / "out") == 2
    assert "accelerator: 'gpu' cannot be used here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
