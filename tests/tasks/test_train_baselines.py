"""``ferkit train sce|co-teaching|scn|ltnet`` on real files: what a run holds, and the same run after a cut."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml

from ferkit.cli import main
from ferkit.recipes import SCN
from ferkit.tasks.run import METHODS, Run, load_recipe

SMALL = (
    "--train-images 60 --validation-images 20 --batch-size 20 --epochs 2 --progress false --accelerator cpu --seed 1"
)
METHOD_OPTIONS = {
    "sce": "--noise 0.3 --alpha 0.5",
    "co-teaching": "--noise 0.3 --forget-rate 0.3 --networks both",
    "scn": "--noise 0.3 --relabel-from 0 --relabel-margin 0 --relabel all",
    "ltnet": "--width 0.1 --diagonal 0.7 --learning-rate 5e-3",
}


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A short run of each, made once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(method):
        if method not in made:
            made[method] = folder / method
            assert ferkit(f"train {method} --data synthetic {SMALL} {METHOD_OPTIONS[method]} --out", made[method]) == 0
        return made[method]

    return run


@pytest.mark.parametrize("method", METHOD_OPTIONS)
def test_a_run_is_written_scored_and_loaded(runs, method, capsys):
    run = runs(method)
    config = yaml.safe_load((run / "config.yaml").read_text())
    given = dict(zip(METHOD_OPTIONS[method].split()[::2], METHOD_OPTIONS[method].split()[1::2]))
    for name, value in given.items():
        assert config[name[2:].replace("-", "_")] == yaml.safe_load(value.replace("5e-3", "0.005")), name
    figures = json.loads((run / "metrics.json").read_text())
    assert {"accuracy", "flip_auc"} <= set(figures)
    recipe = load_recipe(Run(run))
    assert isinstance(recipe, METHODS[method]) and not recipe.training
    assert ferkit("evaluate", run, "--split test --validation-images 20") == 0
    assert "accuracy" in capsys.readouterr().out
    rows = list(csv.DictReader((run / "labels.csv").open()))
    assert len(rows) == 60
    assert all(
        sum(float(v) for k, v in row.items() if k.startswith("p_")) == pytest.approx(1, abs=1e-3) for row in rows
    )


def test_scn_lists_what_it_relabelled(runs):
    rows = list(csv.DictReader((runs("scn") / "labels.csv").open()))
    recipe = load_recipe(Run(runs("scn")))
    names = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")
    assert any(row["relabelled"] for row in rows)
    for row in rows:
        index = int(row["index"])
        assert row["label"] == names[recipe.given[index]]
        assert row["relabelled"] == ("" if recipe.cured[index] == recipe.given[index] else names[recipe.cured[index]])
        assert 0 < float(row["confidence"]) < 1


def test_ltnet_says_what_each_annotator_does(runs):
    run = runs("ltnet")
    rows = list(csv.DictReader((run / "annotators.csv").open()))
    assert [row["source"] for row in rows] == ["annotator1"] * 7 + ["annotator2"] * 7
    table = np.array([[float(value) for value in list(row.values())[2:]] for row in rows]).reshape(2, 7, 7)
    np.testing.assert_allclose(table.sum(2), 1, atol=1e-3)
    np.testing.assert_allclose(table, load_recipe(Run(run)).annotators().numpy(), atol=1e-4)
    assert np.abs(table - table[0, 0]).max() > 0.01 and (run / "figures" / "annotators.png").stat().st_size > 1000


@pytest.mark.parametrize("method", METHOD_OPTIONS)
def test_resume_continues_the_same_run(runs, tmp_path, monkeypatch, method):
    cut, kind, calls = tmp_path / "cut", METHODS[method], []
    words = (f"train {method} --data synthetic {SMALL} {METHOD_OPTIONS[method]} --out", cut)
    loss = kind.batch_loss

    def breaks_in_the_second_epoch(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise OSError("power cut")
        return loss(self, *arguments)

    monkeypatch.setattr(kind, "batch_loss", breaks_in_the_second_epoch)
    assert ferkit(*words) == 2
    monkeypatch.undo()
    assert ferkit(*words, "--resume true") == 0
    whole, resumed = (torch.load(Run(out).checkpoint, weights_only=True)["state_dict"] for out in (runs(method), cut))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    for name in ("labels.csv", "metrics.csv", "metrics.json"):
        assert (cut / name).read_text() == (runs(method) / name).read_text()


def test_scn_without_relabelling_needs_no_column(tmp_path):
    assert ferkit(f"train scn --data synthetic {SMALL} --relabel none --out", tmp_path / "scn") == 0
    header = (tmp_path / "scn" / "labels.csv").read_text().splitlines()[0].split(",")
    assert "confidence" in header and "relabelled" not in header
    assert isinstance(load_recipe(Run(tmp_path / "scn")), SCN)


def test_bad_requests_are_one_line(tmp_path, capsys):
    for words, message in (
        ("train co-teaching --forget-rate 1.0", "forget_rate: expected a value in [0, 1), got 1.0"),
        ("train scn --share 0", "share: expected a value in"),
        ("train sce --form code", "form: expected one of 'paper', 'released', got 'code'"),
        ("train ltnet --sources []", "sources: expected at least one label set"),
    ):
        assert ferkit(f"{words} --data synthetic {SMALL} --out", tmp_path / "run") == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
