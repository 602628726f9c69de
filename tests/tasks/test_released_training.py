"""``ferkit train dmue --setting released``: its sampler, its choices in the run folder, resuming, what is refused."""

import csv
import json

import pytest
import torch
import yaml

from ferkit.blocks import RoutedBackbone
from ferkit.cli import main
from ferkit.data import SyntheticFaces
from ferkit.recipes import DMUE
from ferkit.samplers import ClassCoverageBatchSampler, InverseFrequencyBatchSampler
from ferkit.tasks import FitOptions
from ferkit.tasks.run import Run, load_recipe
from ferkit.tasks.training import training_loader

SMALL = "--data synthetic --train-images 90 --validation-images 20 --batch-size 30 --progress false --accelerator cpu"
WORDS = ("train dmue", SMALL, "--setting released --noise 0.2 --epochs 2 --seed 1")


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "released"
    assert ferkit(*WORDS, "--out", out) == 0
    return out


def test_run_folder_tells_every_choice(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    expected = {"setting": "released", "sampler": "inverse-frequency", "mining": "by-label", "normalize": "subset"}
    expected |= {"compare": "logits", "divisor": "released", "scale": "minmax", "ramp": "released", "frozen": True}
    expected |= {"schedule": "released", "augmentation": "released", "gamma": 1000.0, "beta": 6.0, "detach": "none"}
    assert {name: config[name] for name in expected} == expected
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"] and float(rows[1]["train_sp"]) > 0
    assert (run / "figures" / "faces.png").stat().st_size > 1000
    assert json.loads((run / "metrics.json").read_text())["images"] == 20


def test_checkpoint_holds_the_neck_and_the_frozen_start(run):
    recipe = load_recipe(Run(run))
    assert isinstance(recipe, DMUE) and isinstance(recipe.model, RoutedBackbone)
    neck = recipe.model.neck
    assert neck.weight.eq(1).all() and neck.bias.eq(0).all()
    batches = int(neck.num_batches_tracked)
    assert batches == 2 * 3 * 15  # epochs, batches of 90 images, calls of a step with 7 classes
    state = torch.load(Run(run).checkpoint, weights_only=True)
    assert [group["lr"] for group in state["optimizer_states"][0]["param_groups"]] == [1e-4, 1e-3]
    assert ferkit("evaluate", run, "--data synthetic --validation-images 20") == 0


def test_resumed_run_is_the_same_run(run, tmp_path, monkeypatch):
    cut = tmp_path / "cut"
    loss, calls = DMUE.training_loss, []

    def breaks_in_the_second_epoch(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise OSError("power cut")
        return loss(self, *arguments)

    monkeypatch.setattr(DMUE, "training_loss", breaks_in_the_second_epoch)
    assert ferkit(*WORDS, "--out", cut) == 2
    monkeypatch.undo()
    assert not (cut / "metrics.json").exists()
    assert ferkit(*WORDS, "--resume true --out", cut) == 0
    whole, resumed = (torch.load(Run(out).checkpoint, weights_only=True)["state_dict"] for out in (run, cut))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (cut / "metrics.csv").read_text() == (run / "metrics.csv").read_text()
    assert (cut / "metrics.json").read_text() == (run / "metrics.json").read_text()


def test_sampler_of_a_command():
    faces = SyntheticFaces(90, size=32)
    for sampler, kind in (
        ("inverse-frequency", InverseFrequencyBatchSampler),
        ("coverage", ClassCoverageBatchSampler),
        (None, ClassCoverageBatchSampler),
    ):
        loader = training_loader(faces, FitOptions(batch_size=30, sampler=sampler, seed=3, progress=False))
        assert type(loader.batch_sampler) is kind and loader.batch_sampler.seed == 3


@pytest.mark.parametrize(("words", "kind"), [("--sampler inverse-frequency", "inverse-frequency"), ("", "coverage")])
def test_any_method_can_be_trained_with_it(words, kind, tmp_path):
    assert ferkit("train ce", SMALL, "--epochs 1", words, "--out", tmp_path / "ce") == 0
    assert yaml.safe_load((tmp_path / "ce" / "config.yaml").read_text())["sampler"] == kind


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sampler shuffle", "got 'shuffle' with min_per_class 2"),
        ("--min-per-class 1", "got 'inverse-frequency' with min_per_class 1"),
        ("--batch-size 13", "batch_size: expected at least 14 (7 classes * 2 min_per_class), got 13"),
        ("--batch-size 15", "batch_size: expected one that keeps 1 in 100 drawn batches or more, got 15"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ferkit("train dmue", SMALL, "--setting released", words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_unknown_sampler():
    with pytest.raises(
        ValueError, match="sampler: expected one of 'coverage', 'shuffle', 'inverse-frequency', got 'every'"
    ):
        FitOptions(sampler="every")
