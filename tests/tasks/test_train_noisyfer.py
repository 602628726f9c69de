"""``ferkit train noisyfer|vgg`` on real files: label sets in the configuration, runs killed and resumed."""

import csv
import json
import os
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
from ferkit.data import Manifest
from ferkit.data.predictions import join_predictions, read_predictions
from ferkit.recipes import VGG, NoisyFER, TrainingDiverged
from ferkit.tasks.run import Run, load_recipe

COMMON = "--progress false --accelerator cpu --seed 1 --width 0.02"
GAME = {"noisyfer": "--warmup 1 --hold 0.45", "vgg": ""}  # whose weight, too, must come back
SMALL = f"--train-images 40 --validation-images 24 --batch-size 10 --epochs 3 {COMMON}"


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Short runs by method, each made once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(method):
        if method not in made:
            made[method] = folder / method
            assert ferkit(f"train {method} {SMALL} {GAME[method]} --out", made[method]) == 0
        return made[method]

    return run


@pytest.fixture
def manifest(tmp_path):
    """Sixteen faces of two classes with two label sets and valence; some cells empty."""
    rng = np.random.default_rng(0)
    rows = ["image,split,label,source_label_a,source_label_b,source_label_true,valence"]
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        first, second = ("happy", "sad")[i % 2], ("happy", "sad", "")[i % 3]
        valence = "" if i % 5 == 0 else f"{rng.uniform(-1, 1):.3f}"
        rows.append(f"{i}.png,{'train' if i < 16 else 'valid'},{first},{first},{second},{first},{valence}")
    (tmp_path / "faces.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "faces.csv"


MANIFEST = f"--data manifest --classes [happy,sad] --batch-size 8 --epochs 1 {COMMON}"


@pytest.mark.parametrize("method", ["noisyfer", "vgg"])
def test_run_folder(runs, method):
    run = runs(method)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["sources"] == ["annotator1", "annotator2"] and config["values"] == ["valence", "arousal"]
    assert "download" not in config  # a run is the same one wherever its images came from
    assert config["size"] == 32 and config["sampler"] == "shuffle" and config["width"] == 0.02
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    game = [bool(row.get("train_discriminator")) for row in rows]
    assert game == ([False, True, True] if method == "noisyfer" else [False] * 3)
    figures = json.loads((run / "metrics.json").read_text())
    assert {"accuracy", "ccc_valence", "mse_arousal", "flip_auc", "total_variation"} < set(figures)
    assert figures["ccc"] == pytest.approx((figures["ccc_valence"] + figures["ccc_arousal"]) / 2)
    pictures = {path.name for path in (run / "figures").iterdir()}
    assert pictures == {"confusion.png", "curves.png", *(["decoder.png"] if method == "noisyfer" else [])}
    rows = list(csv.DictReader((run / "labels.csv").open()))
    assert len(rows) == 40


def test_published_defaults_are_the_command_lines(capsys):
    for method in ("noisyfer", "vgg"):
        with pytest.raises(SystemExit) as stop:
            main(["train", method, "--help"])
        assert stop.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for default in ("(type: int, default: 32)", "(type: int, default: 128)", "default: shuffle)"):
            assert default in text
        assert "weight of the continuous labels" in text and "share of the published channels" in text


def test_recipe_comes_back_from_the_checkpoint(runs):
    for method, kind in (("noisyfer", NoisyFER), ("vgg", VGG)):
        recipe = load_recipe(Run(runs(method)))
        assert type(recipe) is kind and recipe.source_names == ("annotator1", "annotator2") and not recipe.training
        state = torch.load(Run(runs(method)).checkpoint, weights_only=True)
        assert state["epoch"] == 2 and state["state_dict"].keys() == recipe.state_dict().keys()


def test_config_of_a_run_is_a_config_for_a_run(runs, tmp_path):
    before, again = runs("noisyfer"), tmp_path / "again"
    words = "--progress false --accelerator cpu --out"
    assert ferkit("train noisyfer --config", before / "config.yaml", words, again) == 0
    for file in ("metrics.csv", "config.yaml", "metrics.json"):
        assert (again / file).read_text() == (before / file).read_text()


WAITING = """
import sys, time
from ferkit.cli import main
from ferkit.recipes import NoisyFER

step, calls = NoisyFER.training_step, []

def waits_in_the_second_epoch(self, *arguments):
    calls.append(1)
    if len(calls) == 7:
        print("waiting", flush=True)
        time.sleep(600)
    return step(self, *arguments)

NoisyFER.training_step = waits_in_the_second_epoch
sys.exit(main(sys.argv[1:]))
"""


def test_killed_and_resumed_is_the_same_run(runs, tmp_path):
    whole, cut = runs("noisyfer"), tmp_path / "cut"
    words = ["train", "noisyfer", *SMALL.split(), *GAME["noisyfer"].split(), "--out"]
    command = [sys.executable, "-c", WAITING, *words, str(cut)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert any(line == "waiting\n" for line in process.stdout)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    assert not (cut / "metrics.json").exists()
    assert ferkit(*words, cut, "--resume true") == 0
    states = [torch.load(Run(out).checkpoint, weights_only=True) for out in (whole, cut)]
    assert states[0]["global_step"] == states[1]["global_step"]
    a, b = (state["state_dict"] for state in states)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert a["game.lam"] != 0.3
    for file in ("metrics.csv", "metrics.json", "labels.csv", "config.yaml"):
        assert (cut / file).read_text() == (whole / file).read_text()
    assert (cut / "figures" / "decoder.png").read_bytes() == (whole / "figures" / "decoder.png").read_bytes()


def test_a_run_of_a_version_with_fewer_options_goes_on(runs, tmp_path, capsys):
    older = tmp_path / "older"
    shutil.copytree(runs("noisyfer"), older)
    (older / "metrics.json").unlink()
    settings = yaml.safe_load((older / "config.yaml").read_text())
    for name in ("reconstruction", "code_divergence", "label_cycle"):
        assert settings.pop(name) == 0.0
    (older / "config.yaml").write_text(yaml.safe_dump(settings))
    words = f"train noisyfer {SMALL} {GAME['noisyfer']} --resume true"
    assert ferkit(words, "--label-cycle 0.5 --out", older) != 0
    assert "label_cycle (was 0.0, now 0.5)" in capsys.readouterr().err
    assert ferkit(words, "--out", older) == 0
    assert (older / "metrics.json").exists()


@pytest.mark.parametrize("method", ["noisyfer", "vgg"])
def test_evaluate_repeats_the_runs_own_figures(runs, method, capsys):
    run = runs(method)
    assert ferkit("evaluate", run, "--data synthetic --validation-images 24") == 0
    again = json.loads((run / "evaluate-synthetic-validation.json").read_text())
    figures = json.loads((run / "metrics.json").read_text())
    assert set(figures) - set(again) == {"flip_auc"}
    assert all(again[key] == pytest.approx(figures[key], abs=1e-6) for key in again)


def test_label_sets_of_a_manifest(manifest, tmp_path):
    cases = {
        "all": ("", ["a", "b"], ["valence"]),
        "vote": ("--sources [majority] --values []", ["majority"], []),
        "given": ("--sources [label]", ["label"], ["valence"]),
    }
    for name, (words, sources, values) in cases.items():
        out, method = tmp_path / name, "noisyfer" if name == "all" else "vgg"
        assert ferkit(f"train {method}", MANIFEST, words, "--root", manifest, "--out", out) == 0
        config = yaml.safe_load((out / "config.yaml").read_text())
        assert (config["sources"], config["values"]) == (sources, values)
        figures = json.loads((out / "metrics.json").read_text())
        assert ("ccc_valence" in figures) == bool(values) and figures["images"] == 8


def test_data_without_values_are_labelled_by_a_run_that_learned_some(manifest, tmp_path):
    run, bare, table = tmp_path / "run", manifest.with_name("bare.csv"), tmp_path / "found.csv"
    assert ferkit("train vgg", MANIFEST, "--root", manifest, "--out", run) == 0
    lines = [line.split(",")[:3] for line in manifest.read_text().splitlines()]
    bare.write_text("\n".join(map(",".join, lines)) + "\n")
    words = ("--data manifest --split train --root", bare, "--save-predictions", table)
    assert ferkit("evaluate", run, *words) == 0
    figures = json.loads((run / "evaluate-manifest-train.json").read_text())
    assert figures["images"] == 16 and not any("valence" in name or "ccc" in name for name in figures)
    found = read_predictions(table, ("happy", "sad"))
    joined = join_predictions(Manifest.read(bare, classes=("happy", "sad")), found, "machine", values=True)
    assert (joined.source_labels["machine"] >= 0).sum() == 16 and np.isfinite(joined.valence).sum() == 16


def test_values_alone(manifest, tmp_path):
    out, table = tmp_path / "run", tmp_path / "found.csv"
    assert ferkit("train noisyfer", MANIFEST, "--sources [] --root", manifest, "--out", out) == 0
    figures = json.loads((out / "metrics.json").read_text())
    assert set(figures) == {"images", "ccc_valence", "mse_valence", "ccc"}
    words = ("--data manifest --root", manifest, "--save-predictions", table)
    assert ferkit("evaluate", out, *words) == 0
    assert table.read_text().splitlines()[0] == "index,image,split,valence"


def test_validation_images_without_a_label(manifest, tmp_path, capsys):
    lines = [line.split(",") for line in manifest.read_text().splitlines()]
    bare = [[row[0], row[1], *(("",) * 4 if row[1] == "valid" else row[2:6]), row[6]] for row in lines]
    manifest.write_text("\n".join(map(",".join, bare)) + "\n")
    out = tmp_path / "run"
    assert ferkit("train vgg", MANIFEST, "--root", manifest, "--out", out) == 0, "scored by valence"
    assert set(json.loads((out / "metrics.json").read_text())) == {"images", "ccc_valence", "mse_valence", "ccc"}
    row = next(csv.DictReader((out / "metrics.csv").open()))
    assert "val_ccc_valence" in row and not {"val_loss", "val_accuracy"} & set(row)
    assert not (out / "figures" / "confusion.png").exists()
    new = tmp_path / "new"
    assert ferkit("train vgg --values []", MANIFEST, "--root", manifest, "--out", new) == 2
    assert "data: expected validation images with a label, got 8 without" in capsys.readouterr().err
    manifest.write_text("\n".join(",".join([*row[:6], row[6] if row[1] != "valid" else ""]) for row in bare) + "\n")
    assert ferkit("train vgg", MANIFEST, "--root", manifest, "--out", new) == 2
    assert "expected validation images with a label or a known valence, got 8 without" in capsys.readouterr().err
    assert ferkit("train noisyfer --sources []", MANIFEST, "--root", manifest, "--out", new) == 2
    assert "expected validation images with a known valence, got 8 without" in capsys.readouterr().err
    assert not new.exists()


@pytest.mark.parametrize(("warmup", "told"), [("1", True), ("0", False)])
def test_a_run_without_a_game_says_so_at_its_start(manifest, tmp_path, capsys, monkeypatch, warmup, told):
    def stops(self, *arguments):
        raise OSError("started")

    monkeypatch.setattr(NoisyFER, "training_step", stops)
    words = ("--warmup", warmup, "--root", manifest, "--out", tmp_path / "run")
    assert ferkit("train noisyfer", MANIFEST, *words) == 2
    said = capsys.readouterr().err
    message = "no game is played: warmup is 1 epochs, and the run has 1 (give more epochs, or a smaller warmup)"
    assert (message in said.splitlines()) == told and "started" in said


def test_label_sets_are_refused_where_one_is_learned(tmp_path, capsys):
    assert ferkit("train ce --sources [annotator1] --train-images 20 --out", tmp_path / "out") == 2
    assert "sources: expected none with method 'ce'" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert ferkit("train ce --values [valence] --train-images 20 --out", tmp_path / "out") == 2
    assert "values: expected none with method 'ce'" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert ferkit(f"train noisyfer {SMALL} --sources [nobody] --out", tmp_path / "out") == 2
    assert "nobody" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_divergence_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    step, calls = NoisyFER.training_step, []

    def breaks_in_the_second_epoch(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            raise TrainingDiverged("the loss of the discriminator is nan in epoch 2")
        return step(self, *arguments)

    monkeypatch.setattr(NoisyFER, "training_step", breaks_in_the_second_epoch)
    out = tmp_path / "out"
    assert ferkit(f"train noisyfer {SMALL} --out", out) == 1
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ferkit")]
    assert printed == ["ferkit: the loss of the discriminator is nan in epoch 2"]
    assert torch.load(Run(out).checkpoint, weights_only=True)["epoch"] == 0
    assert not (out / "metrics.json").exists() and (out / "figures" / "decoder.png").is_file()
    assert ferkit("evaluate", out, "--validation-images 24") == 0


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    out = tmp_path / "out"
    assert ferkit(f"train noisyfer {SMALL} --schedule constant --learning-rate 1e30 --out", out) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("ferkit: "))
    assert "NaN or infinite" in line
    assert not Run(out).checkpoint.exists() and not (out / "figures").exists() and not (out / "metrics.json").exists()
