"""The ``ferkit`` command on real files: runs, resumed runs, evaluation, and what goes wrong."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ferkit.cli import main
from ferkit.recipes import DMUE
from ferkit.tasks.run import Run, load_recipe
from ferkit.tasks.training import ShuffleBatchSampler

SMALL = "--data synthetic --train-images 60 --validation-images 20 --batch-size 20 --progress false --accelerator cpu"


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short DMUE run with flipped labels."""
    out = tmp_path_factory.mktemp("runs") / "dmue"
    assert ferkit("train dmue", SMALL, "--noise 0.3 --epochs 2 --seed 1 --out", out) == 0
    return out


@pytest.fixture
def folder(tmp_path):
    """Class folders with three images each."""
    rng = np.random.default_rng(0)
    for name in ("Happiness", "Sad"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "faces" / name / f"{number}.png")
    return tmp_path / "faces"


FOLDER = "--classes [happy,sad] --batch-size 4 --epochs 1 --validation-share 0.5 --progress false --accelerator cpu"


def test_run_folder(run):
    assert sorted(path.name for path in run.iterdir()) == [
        *(".lock", "checkpoints", "config.yaml", "figures", "labels.csv", "metrics.csv", "metrics.json")
    ]
    assert sorted(path.name for path in (run / "figures").iterdir()) == ["confusion.png", "curves.png", "faces.png"]
    figures = json.loads((run / "metrics.json").read_text())
    assert set(figures) == {
        *("images", "accuracy", "mean_class_accuracy", "total_variation", "kl", "jeffreys", "flip_auc")
    }
    assert figures["images"] == 20 and 0 <= figures["accuracy"] <= 1 and figures["kl"] > 0
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"] and float(rows[1]["train_wce"]) > 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["noise"] == 0.3 and config["seed"] == 1 and config["gamma"] is not None and config["method"] == "dmue"


def test_labels_to_review(run):
    rows = list(csv.DictReader((run / "labels.csv").open()))
    doubts = [float(row["suspicion"]) for row in rows]
    assert len(rows) == 60 and doubts == sorted(doubts, reverse=True)
    for row in rows:
        mined = [float(value) for name, value in row.items() if name.startswith("mined_")]
        assert sum(mined) == pytest.approx(1, abs=1e-3) and float(row[f"mined_{row['label']}"]) == 0
        assert 0 < float(row["confidence"]) < 1


def test_checkpoint_holds_tensors_and_plain_values_only(run):
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["epoch"] == 1
    recipe = load_recipe(Run(run))
    assert isinstance(recipe, DMUE) and not recipe.training
    assert torch.equal(recipe.state_dict()["model.trunk.conv1.weight"], state["state_dict"]["model.trunk.conv1.weight"])


def test_evaluate_repeats_the_runs_own_figures(run, capsys):
    assert ferkit("evaluate", run, "--data synthetic --validation-images 20") == 0
    figures = json.loads((run / "metrics.json").read_text())
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    for name in ("accuracy", "total_variation", "kl", "jeffreys"):
        assert float(printed[name]) == pytest.approx(figures[name], abs=1e-4)
    assert (run / "figures" / "confusion-synthetic-validation.png").stat().st_size > 1000


def test_unknown_key_of_a_config(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("epochs: 1\nepcohs: 2\n")
    assert ferkit("train ce --config", tmp_path / "config.yaml", "--out", tmp_path / "out") == 2
    assert "config: expected options of the command, got a file with others" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_config_of_a_run_is_a_config_for_a_run(run, tmp_path):
    again = tmp_path / "again"
    assert ferkit("train dmue --config", run / "config.yaml", "--progress false --accelerator cpu --out", again) == 0
    assert (again / "metrics.csv").read_text() == (run / "metrics.csv").read_text()
    assert (again / "config.yaml").read_text() == (run / "config.yaml").read_text()


def test_validation_every_other_epoch(tmp_path):
    words = "--epochs 3 --validate-every 2 --backbone small --out"
    assert ferkit("train ce", SMALL, words, tmp_path / "ce") == 0
    rows = list(csv.DictReader((tmp_path / "ce" / "metrics.csv").open()))
    assert [bool(row["val_accuracy"]) for row in rows] == [False, True, False]
    assert all(row["train_loss"] for row in rows)


def test_resume_continues_the_same_run(run, tmp_path, monkeypatch):
    cut = tmp_path / "cut"
    words = ("train dmue", SMALL, "--noise 0.3 --epochs 2 --seed 1 --out", cut)
    loss, calls = DMUE.training_loss, []

    def breaks_in_the_second_epoch(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise OSError("power cut")
        return loss(self, *arguments)

    monkeypatch.setattr(DMUE, "training_loss", breaks_in_the_second_epoch)
    assert ferkit(*words) == 2
    monkeypatch.undo()
    assert not (cut / "metrics.json").exists()
    assert ferkit(*words) == 2, "a folder that holds a run is not written over"
    assert ferkit(*words, "--resume true") == 0
    whole, resumed = (torch.load(Run(out).checkpoint, weights_only=True)["state_dict"] for out in (run, cut))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (cut / "metrics.csv").read_text() == (run / "metrics.csv").read_text()
    assert (cut / "metrics.json").read_text() == (run / "metrics.json").read_text()


def test_interrupted_training_is_one_line_and_goes_on(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "cut"
    words = ("train dmue", SMALL, "--noise 0.3 --epochs 2 --seed 1 --out", out)
    loss, calls = DMUE.training_loss, []

    def interrupted_in_the_second_epoch(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return loss(self, *arguments)

    monkeypatch.setattr(DMUE, "training_loss", interrupted_in_the_second_epoch)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert ferkit(*words) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ferkit: ")]
    assert said == ["ferkit: interrupted: the same command with --resume true goes on after the last whole epoch"]
    monkeypatch.undo()
    assert ferkit(*words, "--resume true") == 0
    assert (out / "metrics.json").read_text() == (run / "metrics.json").read_text()
    monkeypatch.setattr("ferkit.tasks.training.build_dataset", interrupted_in_the_second_epoch)
    calls[:] = [1] * 4
    assert ferkit(*words[:-1], tmp_path / "new") == 130 and not (tmp_path / "new").exists()
    assert capsys.readouterr().err.splitlines()[-1] == said[0]


def test_places_for_no_run_are_told_before_images_are_read(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "labels.csv").write_text("mine")
    monkeypatch.setattr("ferkit.tasks.training.build_dataset", None)
    places = {
        run: "already holds a run: choose another folder, or add --resume true",
        tmp_path / "file": "out: expected a folder that can be written, got",
        tmp_path / "file" / "run": "out: expected a folder that can be written, got",
        tmp_path / "mine": "out: expected a folder without labels.csv, which a run writes, got",
    }
    for out, message in places.items():
        assert ferkit("train dmue", SMALL, "--out", out) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "mine" / "labels.csv").read_text() == "mine"


@pytest.mark.parametrize("text", ["][", "method: dmue", "method: dmue\nclasses: [a", "\xff"])
def test_damaged_configuration_is_one_line(run, tmp_path, capsys, text):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.yaml").write_bytes(text.encode("latin-1"))
    for words in (("evaluate", copy), ("train dmue", SMALL, "--resume true --out", copy)):
        assert ferkit(*words) == 2
        assert "config.yaml is not a configuration written by ferkit" in capsys.readouterr().err


def test_resume_with_other_settings_is_refused(run, capsys):
    assert ferkit("train dmue", SMALL, "--noise 0.2 --epochs 2 --seed 1 --resume true --out", run) == 2
    assert "noise (was 0.3, now 0.2)" in capsys.readouterr().err


def test_folder_of_faces(folder, tmp_path):
    out = tmp_path / "out"
    assert ferkit("train ce --data folder --root", folder, FOLDER, "--out", out) == 0
    rows = list(csv.DictReader((out / "labels.csv").open()))
    assert len(rows) == 4 and {row["image"].split("/")[0] for row in rows} == {"Happiness", "Sad"}
    own = json.loads((out / "metrics.json").read_text())
    assert own["images"] == 4
    assert ferkit("evaluate", out) == 0, "of the run's own data"
    assert json.loads((out / "evaluate-folder-validation.json").read_text()) == own
    (tmp_path / "others").symlink_to(folder)
    assert ferkit("evaluate", out, "--split train --validation-share 0 --root", tmp_path / "others") == 0
    assert json.loads((out / "evaluate-folder-train.json").read_text())["images"] == 8


def test_another_folder_with_some_of_the_classes(folder, tmp_path, capsys):
    shutil.copytree(folder / "Sad", folder / "Angry")
    out, other, table = tmp_path / "out", tmp_path / "other", tmp_path / "found.csv"
    words = (FOLDER.replace("happy,", "anger,happy,"), "--batch-size 6")
    assert ferkit("train ce --data folder --root", folder, *words, "--out", out) == 0
    shutil.copytree(folder / "Sad", other / "sadness")
    shutil.copytree(folder / "Happiness", other / "joy")
    scored = ("evaluate", out, "--data folder --split train --validation-share 0")
    with pytest.warns(UserWarning, match="no image of anger in the train set: .* the mean over the other 2 classes"):
        assert ferkit(*scored, "--root", other, "--save-predictions", table) == 0
    figures = json.loads((out / "evaluate-folder-train.json").read_text())
    assert figures["images"] == 8 and figures["mean_class_accuracy"] == figures["accuracy"], "4 of each of two"
    rows = list(csv.DictReader(table.open()))
    names = {"joy": "happy", "sadness": "sad"}
    hits = [row["predicted"] == names[row["image"].split("/")[0]] for row in rows]
    assert figures["accuracy"] == np.mean(hits) and set(rows[0]) >= {"p_anger", "p_happy", "p_sad"}
    assert (out / "figures" / "confusion-folder-train.png").exists()
    (other / "cat").mkdir()
    assert ferkit(*scored, "--root", other) == 2
    assert "to be one of the classes (anger, happy, sad), got ['cat']" in capsys.readouterr().err
    shutil.rmtree(folder / "Angry")
    assert ferkit("train ce --data folder --root", folder, *words, "--out", tmp_path / "new") == 2
    assert "root: expected an image of each class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--validation-share 0", "validation_share: expected one that leaves training and validation images"),
        ("--validation-share 1", "validation_share: expected one that leaves training and validation images"),
        ("--validation-share 0.01", "validation_share: expected one that leaves training and validation images"),
        ("--classes [sad]", "classes: expected at least 2, got sad"),
    ],
)
def test_folders_that_cannot_be_trained_on(folder, tmp_path, capsys, words, message):
    if "--classes" in words:
        shutil.rmtree(folder / "Happiness")
    out = tmp_path / "out"
    assert ferkit("train ce --data folder --root", folder, FOLDER, words, "--out", out) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_images_without_a_label(folder, tmp_path, capsys):
    rows = [
        f"{name}/{i}.png,{s},{label}"
        for name in ("Happiness", "Sad")
        for i, (s, label) in enumerate([("train", name), ("train", name), ("valid", ""), ("test", name)])
    ]
    (folder / "faces.csv").write_text("\n".join(["image,split,label", *rows]) + "\n")
    words, out = ("train ce --data manifest --root", folder / "faces.csv", FOLDER), tmp_path / "out"
    assert ferkit(*words, "--out", out) == 2 and not out.exists()
    assert "data: expected validation images with a label, got 2 without" in capsys.readouterr().err
    assert ferkit("study dmue --data manifest --root", folder / "faces.csv", "--classes [happy,sad] --out", out) == 2
    assert "data: expected validation images with a label, got 2 without" in capsys.readouterr().err
    assert ferkit("train ce --data folder --root", folder, FOLDER, "--out", out) == 0
    words, table = ("evaluate", out, "--data manifest --root", folder / "faces.csv"), tmp_path / "found.csv"
    assert ferkit(*words) == 2
    assert "data: expected validation images with a label, got 2 without" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="no image of the validation set has a label: there is no accuracy"):
        assert ferkit(*words, "--save-predictions", table) == 0
    assert len(list(csv.DictReader(table.open()))) == 2 and "nan" not in capsys.readouterr().out
    assert json.loads((out / "evaluate-manifest-validation.json").read_text()) == {"images": 2}


def test_small_batches_need_not_hold_every_class(folder, tmp_path):
    words = ("--sampler shuffle --batch-size 2 --out", tmp_path / "out")
    assert ferkit("train ce --data folder --root", folder, FOLDER, *words) == 0


def test_home_folder_behind_an_equals_sign(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert ferkit("train ce --data folder --root=~/faces --out=~/run", FOLDER) == 0
    assert (tmp_path / "run" / "metrics.json").exists() and not (tmp_path / "~").exists()


def test_unreadable_image(folder, tmp_path, capsys):
    (folder / "Sad" / "2.png").write_bytes(b"not an image")
    out = tmp_path / "out"
    assert ferkit("train ce --data folder --root", folder, FOLDER, "--out", out) == 2
    assert "Sad/2.png" in capsys.readouterr().err and not out.exists()
    with pytest.warns(UserWarning, match=r"1 of 4 images are left out"):
        assert ferkit("train ce --data folder --on-error skip --root", folder, FOLDER, "--out", out) == 0


def test_corrupt_checkpoint(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    (copy / "checkpoints").mkdir(parents=True)
    (copy / "config.yaml").write_text((run / "config.yaml").read_text())
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    (copy / "checkpoints" / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    assert ferkit("evaluate", copy) == 2
    assert "last.ckpt' is not a readable checkpoint" in capsys.readouterr().err
    assert ferkit("train dmue", SMALL, "--noise 0.3 --epochs 2 --seed 1 --resume true --out", copy) == 2
    assert "last.ckpt' is not a readable checkpoint" in capsys.readouterr().err


def test_disk_full_while_writing_a_checkpoint(run, tmp_path):
    """A real refusal by the system to write more: the old checkpoint stays whole, nothing half written is left."""
    path = tmp_path / "last.ckpt"
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    path.write_bytes(before)
    code = (
        "import resource, signal, sys, torch\n"
        "from ferkit.tasks._callbacks import AtomicCheckpointIO\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        f"try: AtomicCheckpointIO().save_checkpoint({{'x': torch.zeros(1_000_000)}}, {str(path)!r})\n"
        "except OSError as error: print(error)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=300)
    assert "could not be written" in result.stdout and "previous one is untouched" in result.stdout, result.stderr
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.ckpt"]


def test_shuffled_order_is_a_function_of_seed_and_epoch():
    sampler = ShuffleBatchSampler(10, 4, seed=3)
    first, again = list(sampler), list(ShuffleBatchSampler(10, 4, seed=3))
    assert first == again and [len(batch) for batch in first] == [4, 4] and len(sampler) == 2
    assert len({index for batch in first for index in batch}) == 8
    sampler.set_epoch(1)
    assert list(sampler) != first and [len(batch) for batch in ShuffleBatchSampler(3, 4, seed=0)] == [3]


def test_help_explains_every_option(capsys):
    for words in ("--help", "train --help", "train dmue --help", "evaluate --help", "study dmue --help", "demo --help"):
        with pytest.raises(SystemExit) as stop:
            main(words.split())
        assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--backbone", "--labels", "--gamma", "--noise", "--config", "--use_confidence", "--temperature"):
        assert option in text
    assert "share of training labels flipped" in text and "weight of the similarity loss" in text


def test_the_runs_own_data_are_known_from_any_folder(folder, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    words = FOLDER.replace("0.5", "0.25")
    assert ferkit("train ce --backbone small --data folder --root faces", words, "--subset-seed 7 --out runs/leak") == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert ferkit("evaluate ../runs/leak --data folder --root ../faces --save-predictions held.csv") == 0
    tables = (tmp_path / "runs" / "leak" / "labels.csv", tmp_path / "elsewhere" / "held.csv")
    trained, held = ({row["image"] for row in csv.DictReader(table.read_text().splitlines())} for table in tables)
    assert held and not trained & held
    monkeypatch.chdir(tmp_path)
    resumed = "--subset-seed 7 --out runs/leak --resume true"
    assert ferkit("train ce --backbone small --data folder --root ./faces/", words, resumed) == 0


def test_a_run_among_its_class_folders_is_refused(folder, capsys):
    for out in (folder, folder / "runs" / "a"):
        assert ferkit("train ce --data folder --root", folder, FOLDER, "--out", out) == 2
        assert "out: expected a folder outside of the data" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["Happiness", "Sad"]


def test_a_file_name_that_is_no_text_is_told_at_once(folder, tmp_path, capsys):
    os.rename(folder / "Sad" / "0.png", os.fsencode(folder / "Sad") + b"/caf\xe9.png")
    assert ferkit("train ce --data folder --root", folder, FOLDER, "--out", tmp_path / "run") == 2
    assert "expected file names in UTF-8, got" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_run_that_is_not_at_its_end_is_told(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "metrics.json").unlink()
    with pytest.warns(UserWarning, match="has not come to the end of its 2 epochs"):
        assert ferkit("evaluate", copy, "--data synthetic --validation-images 9") == 0
