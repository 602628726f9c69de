"""A study's plan, what it refuses, and that a killed one goes on to the same tables."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from ferkit.cli import main
from ferkit.recipes import DMUE, TrainingDiverged
from ferkit.tasks import DataOptions, FitOptions, StudyOptions, study, study_runs, train
from ferkit.tasks._label_figures import label_figures
from ferkit.tasks.run import Run
from ferkit.tasks.study_plan import ABLATION, merged, plan

DATA = "--data synthetic --train-images 30 --validation-images 10 --size 24 --noise 0.3"
FIT = "--batch-size 14 --accelerator cpu --epochs 2 --validate-every 2"


def base(**options):
    return dict(DMUE(7, **options).hparams)


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


def test_plan_has_the_rows_of_table_2_once():
    asked = StudyOptions(["ablation", "mining"]).asked(base())
    variants = plan(asked, base(), 0.3)
    assert asked == {"parts": ["ablation", "mining"], "seeds": [0, 1, 2]}
    assert len(set(ABLATION)) == len(set(variants["ablation"].values())) == 8
    assert variants["ablation"][False, False, False] == variants["base"]["ce"], "nothing left of DMUE: cross-entropy"
    assert variants["ablation"][True, True, True] == variants["mining"]["leave-one-out"] == variants["base"]["dmue"]
    for row, variant in variants["ablation"].items():
        if variant.method == "dmue":
            recipe = DMUE(7, **dict(variant.options))
            assert (recipe.use_distribution, recipe.use_similarity, recipe.uncertainty is not None) == row
    assert dict(variants["mining"]["all-class"].options) == {"mining": "all-class"}


def test_sweeps_share_the_value_that_the_study_has():
    every = StudyOptions(["omega", "temperature", "beta", "gamma", "noise"], [0], noise_rates=[0.3, 0.1])
    published = every.asked(base(setting="published"))
    assert published["betas"] == [2, 4, 6, 8, 10] and published["omegas"] == [0.1, 0.3, 0.5, 0.7, 1]
    assert published["gammas"] == [100, 500, 1000, 2000, 10000] and published["noise_rates"] == [0.1, 0.3]
    assert published["temperatures"] == [0.9, 1, 1.2, 1.5, 2.4]
    variants = plan(published, base(setting="published"), 0.3)
    whole = variants["base"]["dmue"]
    assert {variants["omega"][0.5], variants["beta"][6.0], variants["gamma"][1000.0]} == {whole}
    assert variants["noise"]["dmue", 0.3] == whole and variants["noise"]["ce", 0.3] == variants["base"]["ce"]
    assert variants["noise"]["ce", 0.1].name == "ce-noise0.1" and variants["noise"]["ce", 0.1].noise == 0.1
    assert variants["omega"][0.1].options == (("omega", 0.1),) and variants["omega"][0.1].name == "dmue-omega0.1"
    names = [v.name for rows in variants.values() for v in set(rows.values())]
    assert len(set(names)) == len({v for rows in variants.values() for v in rows.values()})


def test_values_that_differ_little_are_runs_of_their_own():
    odd = base(beta=1 / 3, gamma=0.0012345678)
    asked = StudyOptions(["beta", "gamma", "omega"], [0], omegas=[0.1234567, 0.1234568]).asked(odd)
    variants = plan(asked, odd, 0.3)
    assert variants["beta"][1 / 3] == variants["gamma"][0.0012345678] == variants["base"]["dmue"], "the study's own"
    assert [v.name for v in variants["omega"].values()] == ["dmue-omega0.1234567", "dmue-omega0.1234568"]


def test_asking_again_adds():
    before = {"parts": ["mining"], "seeds": [0], "omegas": [1.0]}
    now = {"parts": ["ablation", "omega"], "seeds": [2, 0], "omegas": [0.5]}
    assert merged(before, now) == {"parts": ["ablation", "mining", "omega"], "seeds": [0, 2], "omegas": [0.5, 1.0]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--parts ablation,colour", "parts: expected one of 'ablation', 'mining'"),
        ("--seeds []", "seeds: expected at least one, got none"),
        ("--seeds 0,0", "seeds: expected each once, got 0, 0"),
        ("--seeds -1", "seeds: expected a value in"),
        ("--parts temperature --temperatures 0,1", "temperatures: expected a value in (0"),
        ("--parts noise --noise-rates 0.1,1.5", "noise_rates: expected a value in [0, 1]"),
        ("--gamma -1", "gamma: expected a value in"),
        ("--batch-size 8", "batch_size: expected at least 14"),
        ("--data folder --root nowhere", "root: expected a folder, got 'nowhere'"),
        ("--backbone vgg", "backbone: expected one of"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_runs, "train", None)
    assert ferkit("study dmue", DATA, FIT, words, "--out", tmp_path / "study") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ferkit: error")]
    assert len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "study").exists()


def test_what_the_study_varies_is_not_given(tmp_path):
    data, fit = DataOptions(train_images=30), FitOptions(out=str(tmp_path / "study"))
    with pytest.raises(ValueError, match="use_similarity: expected none of a study"):
        study(data, fit, options={"use_similarity": False})
    with pytest.raises(ValueError, match="seed, resume: expected none of a study"):
        study(data, FitOptions(seed=1, out=fit.out))
    assert not (tmp_path / "study").exists()


def test_folders_of_others_are_left_alone(tmp_path, monkeypatch, capsys):
    def no_training(*_, **__):
        raise OSError("trained")

    monkeypatch.setattr(study_runs, "train", no_training)
    words = ("study dmue --seeds 0 --parts mining", DATA, FIT, "--out", tmp_path / "study")
    assert ferkit(*words) == 2 and "trained" in capsys.readouterr().err
    before = (tmp_path / "study" / "study.yaml").read_text()
    assert ferkit(*words, "--epochs 3 --omega 2") == 2
    assert "had other settings: epochs (was 2, now 3), omega (was 5.0, now 2.0)" in capsys.readouterr().err
    assert (tmp_path / "study" / "study.yaml").read_text() == before
    assert ferkit(*words, "--parts omega --workers 1") == 2 and "trained" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "study" / "study.yaml").read_text())["asked"]["parts"] == ["mining", "omega"]
    (tmp_path / "study" / "study.yaml").write_text("asked: [")
    assert ferkit(*words) == 2 and "study.yaml' is not a file written by ferkit study" in capsys.readouterr().err


def test_places_for_no_study_are_told_before_data_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_runs, "build_dataset", None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    places = {
        "mine": "out: expected a new or empty folder or one with a study, got",
        "mine/note.txt": "out: expected a folder that can be written, got",
        "mine/note.txt/study": "out: expected a folder that can be written, got",
    }
    for out, message in places.items():
        assert ferkit("study dmue", DATA, FIT, "--out", tmp_path / out) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "sampler", "augmentation", "schedule"),
    [("scratch", "coverage", "crop-flip", "one-cycle"), ("released", "inverse-frequency", "released", "released")],
)
def test_cross_entropy_shares_what_dmue_stands_for(setting, sampler, augmentation, schedule, tmp_path, monkeypatch):
    def caught(method, data, fit, options, callbacks):
        assert method == "ce"
        assert (fit.sampler, options["augmentation"], options["schedule"]) == (sampler, augmentation, schedule)
        raise OSError("seen")

    monkeypatch.setattr(study_runs, "train", caught)
    data = DataOptions("synthetic", train_images=70, validation_images=10, size=24)
    fit = FitOptions(batch_size=70, epochs=1, out=str(tmp_path / "study"))
    with pytest.raises(OSError, match="seen"):
        study(data, fit, StudyOptions(["mining"], [0]), {"setting": setting})


def test_rows_that_a_setting_cannot_have_are_told_before_training(tmp_path):
    data = DataOptions("synthetic", train_images=70, validation_images=10, size=24)
    fit = FitOptions(batch_size=70, epochs=1, out=str(tmp_path / "study"))
    with pytest.raises(ValueError, match="parts: dmue-without-distribution-similarity cannot be with these options"):
        study(data, fit, StudyOptions(["ablation"], [0]), {"setting": "released"})
    assert not (tmp_path / "study").exists()


def test_label_figures_are_counts(tmp_path):
    """Four faces: wrong and predicted as given, wrong and corrected, right and predicted, right and not."""
    rows = ["index,label,suggested,suspicion,confidence,mined_a,mined_b,mined_c,p_a,p_b,p_c"]
    rows += ["1,b,a,0.5,0.2,0.7,0.0,0.3,1,0,0", "0,a,a,0.4,0.3,0.0,0.4,0.6,1,0,0"]
    rows += ["2,c,c,0.3,0.9,0.5,0.5,0.0,0,0,1", "3,a,c,0.2,0.25,0.5,0.25,0.25,0,0,1"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    dataset = SimpleNamespace(
        classes=("a", "b", "c"),
        labels=torch.tensor([0, 1, 2, 0]),
        true_labels=torch.tensor([1, 0, 2, 0]),
        distributions=torch.tensor([[0.5, 0.5, 0], [1, 0, 0], [0, 0, 1], [0.8, 0.1, 0.1]]),
    )
    found = label_figures(tmp_path / "labels.csv", dataset)
    # the third face has no vote outside its class; the last is mined with its own class, which is left out
    kl = (torch.tensor([1 / 0.4, 1 / 0.7]).log().sum() / 3).item()
    expected = {"flips_as_given": 0.5, "flips_as_true": 0.5, "right_as_given": 0.5, "confidence_auc": 0.75}
    expected |= {"mined_as_true": 0.5, "mined_total_variation": (0.6 + 0.3) / 3, "mined_kl": kl}
    assert found == pytest.approx(expected, abs=1e-5)
    dataset.true_labels = dataset.distributions = None
    assert label_figures(tmp_path / "labels.csv", dataset) == {}


def stub(variants_that_diverge=()):
    """In place of training: a checkpoint, and figures."""

    def train(method, data, fit, options, callbacks):
        run = Run(Path(fit.out))
        run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        run.checkpoint.touch()
        if run.folder.name in variants_that_diverge:
            raise TrainingDiverged("model.trunk.bn1.weight became NaN or infinite")
        return {"accuracy": 0.5 + fit.seed / 10 + (method == "dmue") / 100}

    return train


def test_a_run_is_finished_before_its_checkpoint_goes(tmp_path, monkeypatch):
    def breaks(*_):
        raise OSError("power cut")

    monkeypatch.setattr(study_runs, "train", stub())
    monkeypatch.setattr(study_runs, "label_figures", lambda *_: {})
    data, fit = DataOptions(train_images=30, validation_images=10, size=24), FitOptions(batch_size=14)
    fit.out, varied = str(tmp_path / "study"), StudyOptions(["mining"], [0], keep_checkpoints=False)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
        patch.setattr(study_runs, "write_json", breaks)
        study(data, fit, varied)
    checkpoints = tmp_path / "study" / "runs"
    assert [path.parts[-3] for path in checkpoints.rglob("*.ckpt")] == ["ce-seed0"]
    study(data, fit, varied)
    assert [path.parts[-3] for path in checkpoints.rglob("*.ckpt")] == ["dmue-seed0"]


def test_a_run_that_diverges_has_no_figures_and_ends_no_study(tmp_path, monkeypatch, capsys):
    calls, trained = [], stub(["dmue-all-class-seed1"])

    def train(*words, **more):
        calls.append(words)
        return trained(*words, **more)

    monkeypatch.setattr(study_runs, "train", train)
    monkeypatch.setattr(study_runs, "label_figures", lambda *_: {})
    data, fit = DataOptions(train_images=30, validation_images=10, size=24), FitOptions(batch_size=14)
    fit.out = str(tmp_path / "study")
    for _ in range(2):
        figures = study(data, fit, StudyOptions(["mining"], [0, 1]))
        assert len(calls) == 6, "nor is it made again"
        assert figures["dmue-all-class"][0]["accuracy"] == 0.51
        assert math.isnan(figures["dmue-all-class"][1]["accuracy"])
    assert "dmue-all-class, seed 1 diverged: model.trunk.bn1.weight became NaN" in capsys.readouterr().out
    lines = (tmp_path / "study" / "tables" / "mining.md").read_text().splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["variant"] == ["accuracy ↑"] and cells["mined leave one out"] == ["0.560 ± 0.071 ▲"]
    assert cells["mined all class"] == ["– (1 of 2 undefined)"]


def test_weights_that_are_not_finite_are_told(tmp_path):
    data = DataOptions(train_images=14, validation_images=7, size=24)
    fit = FitOptions(epochs=2, batch_size=14, out=str(tmp_path / "run"), accelerator="cpu", progress=False)
    with pytest.raises(TrainingDiverged, match="became NaN or infinite: try a smaller learning_rate"):
        train("ce", data, fit, {"learning_rate": 1e30})


def test_predictions_of_finite_weights_that_are_not_finite_are_told(tmp_path):
    class Large(Callback):
        def on_train_end(self, trainer, pl_module):
            with torch.no_grad():
                for weight in pl_module.parameters():
                    weight.fill_(1e30)

    data = DataOptions(train_images=14, validation_images=7, size=24)
    fit = FitOptions(epochs=1, batch_size=14, out=str(tmp_path / "run"), accelerator="cpu", progress=False)
    with pytest.raises(TrainingDiverged, match="predictions became NaN or infinite: try a smaller learning_rate"):
        train("ce", data, fit, callbacks=[Large()])


WORDS = f"study dmue --seeds 0 --parts omega --omegas 5 {DATA} {FIT}"


@pytest.mark.slow
def test_killed_study_goes_on_to_the_same_tables(tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = [sys.executable, "-m", "ferkit", *WORDS.split(), "--out", str(cut)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as process:
        while not (cut / "runs" / "dmue-seed0" / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (cut / "runs" / "dmue-seed0" / "study.json").exists() and not (cut / "study.md").exists()
    first = cut / "runs" / "ce-seed0" / "metrics.csv"
    before = first.stat().st_mtime_ns
    assert ferkit(WORDS, "--out", cut) == ferkit(WORDS, "--out", whole) == 0
    said = capsys.readouterr().out
    assert "2 runs in" in said and "1 of them finished" in said and "[2/2] dmue, seed 0: accuracy" in said
    assert first.stat().st_mtime_ns == before, "a finished run is not made again"
    for name in ("study.md", "tables/omega.md", "tables/omega.csv", "tables/runs.csv", "runs/dmue-seed0/course.csv"):
        assert (cut / name).read_text() == (whole / name).read_text()
    ce, dmue = (yaml.safe_load((whole / "runs" / f"{m}-seed0" / "config.yaml").read_text()) for m in ("ce", "dmue"))
    assert {name for name in ce if name in dmue and ce[name] != dmue[name]} == {"method"}, (
        "same sampler and augmentation"
    )
    written = json.loads((whole / "runs" / "dmue-seed0" / "study.json").read_text())
    assert {"accuracy", "kl", "flip_auc", "flips_as_given", "mined_as_true", "mined_kl"} <= set(written["figures"])
