"""What a run predicts, scored against loops, and the table it is written to."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ferkit.cli import main
from ferkit.data import LabelSetDataset, Manifest, SyntheticFaces
from ferkit.data.arrays import ImageArray
from ferkit.data.predictions import join_predictions, read_predictions
from ferkit.recipes import VGG, CrossEntropy
from ferkit.tasks.evaluation import score_values
from ferkit.tasks.predictions import Predictions, annotate, predict, save_predictions
from ferkit.tasks.run import Run, load_recipe


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


def concordance(x, y):
    count, mean_x, mean_y = len(x), sum(x) / len(x), sum(y) / len(y)
    product = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / count
    spread = sum((a - mean_x) ** 2 for a in x) / count + sum((b - mean_y) ** 2 for b in y) / count
    return 2 * product / (spread + (mean_x - mean_y) ** 2)


def test_values_are_scored_where_they_are_known():
    generator = torch.Generator().manual_seed(0)
    given, truth = torch.rand(9, 2, generator=generator), torch.rand(9, 3, generator=generator) - 0.5
    truth[2, 0] = truth[5, 0] = truth[:, 1] = math.nan
    found = Predictions(None, given, ("arousal", "valence"))
    names = ("arousal", "unknown", "valence")
    for dataset in (
        SimpleNamespace(true_values=truth, values=torch.zeros(9, 3), value_names=names),
        SimpleNamespace(true_values=None, values=truth, value_names=names),
    ):
        figures = score_values(found, dataset)
        rows = [i for i in range(9) if i not in (2, 5)]
        x, y = [float(given[i, 0]) for i in rows], [float(truth[i, 0]) for i in rows]
        assert figures["ccc_arousal"] == pytest.approx(concordance(x, y), abs=1e-9)
        assert figures["mse_arousal"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(x, y)) / 7, abs=1e-9)
        x, y = given[:, 1].tolist(), truth[:, 2].tolist()
        assert figures["ccc_valence"] == pytest.approx(concordance(x, y), abs=1e-9)
        assert figures["ccc"] == pytest.approx((figures["ccc_arousal"] + figures["ccc_valence"]) / 2)
        assert len(figures) == 5
    found = found._replace(value_names=("unknown", "dominance"))
    assert score_values(found, dataset) == {} and score_values(found, SimpleNamespace()) == {}


@pytest.mark.parametrize("head", ["average", "first"])
def test_one_pass_gives_what_forward_gives(head):
    torch.manual_seed(0)
    faces = SyntheticFaces(5, size=32)
    dataset = LabelSetDataset(faces, {"a": faces.labels, "b": faces.labels}, {"valence": faces.valence})
    recipe = VGG(7, sources=("a", "b"), values=("valence",), width=0.02, head=head)
    found = annotate(recipe, dataset, batch_size=2)
    assert recipe.training and found.value_names == ("valence",)
    recipe.eval()
    images = torch.stack([faces[i]["image"] for i in range(5)])
    torch.testing.assert_close(found.probabilities, recipe(images).softmax(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.values, recipe.annotate(images).values, rtol=1e-5, atol=1e-6)
    assert torch.equal(predict(recipe, dataset, 2), found.probabilities)


def test_no_image_and_no_class():
    recipe = VGG(3, sources=("a", "b"), values=("valence",), width=0.02)
    found = annotate(recipe, [])
    assert found.probabilities.shape == (0, 3) and found.values.shape == (0, 1)
    recipe = VGG(3, sources=(), values=("valence",), width=0.02)
    assert annotate(recipe, []).probabilities is None
    with pytest.raises(ValueError, match="recipe: expected one that predicts classes"):
        predict(recipe, [])
    assert annotate(CrossEntropy(3), []).values.shape == (0, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("faces")
    for name in ("happy", "sad"):
        (root / name).mkdir()
        for number in range(4):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ce"
    words = "--classes [happy,sad] --size 32 --batch-size 4 --epochs 1 --validation-share 0.5 --progress false"
    assert ferkit("train ce --accelerator cpu --data folder --root", folder, words, "--out", out) == 0
    return out


def test_table_of_any_recipe(run, folder, tmp_path):
    table = tmp_path / "new" / "found.csv"
    data = ("--data folder --validation-share 0.5 --root", folder)
    assert ferkit("evaluate", run, *data, "--split train --save-predictions", table) == 0
    rows = list(csv.DictReader(table.open()))
    assert list(rows[0]) == ["index", "image", "split", "predicted", "p_happy", "p_sad"] and len(rows) == 4
    labels = {row["image"]: row for row in csv.DictReader((run / "labels.csv").open())}
    for number, row in enumerate(rows):
        shares = {name: float(row[f"p_{name}"]) for name in ("happy", "sad")}
        assert row["index"] == str(number) and row["split"] == "train"
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5) and row["predicted"] == max(shares, key=shares.get)
        assert shares["sad"] == pytest.approx(float(labels[row["image"]]["p_sad"]), abs=1e-4)
    assert [path.name for path in table.parent.iterdir()] == ["found.csv"]


def test_table_of_values(tmp_path):
    found = Predictions(torch.tensor([[0.25, 0.75], [0.5, 0.5]]), torch.tensor([[0.125, -1.5], [0, 1]]), ("v", "a"))
    save_predictions(tmp_path / "found.csv", found, [0, 0], "validation", ("x", "y"))
    assert (tmp_path / "found.csv").read_text() == (
        "index,split,predicted,p_x,p_y,v,a\n"
        "0,valid,y,0.250000,0.750000,0.125000,-1.500000\n"
        "1,valid,x,0.500000,0.500000,0.000000,1.000000\n"
    )


def test_an_image_of_several_rows_is_one_prediction(tmp_path):
    found = Predictions(torch.eye(3), torch.zeros(3, 0), ())
    manifest = Manifest(["a", "b", "a"], ["train"] * 3, [0, 1, 2], ("x", "y", "z"))
    faces = ImageArray(manifest, torch.zeros(3, 3, 8, 8, dtype=torch.uint8), 8)
    save_predictions(tmp_path / "found.csv", found, faces, "train", faces.classes)
    read = read_predictions(tmp_path / "found.csv", faces.classes)
    assert read.image == ["a", "b"] and read.label.tolist() == [0, 1]
    assert join_predictions(manifest, read, "m").source_labels["m"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["found.txt", "a_folder.csv", "a_file/found.csv"])
def test_places_that_hold_no_table_are_refused_first(run, folder, tmp_path, capsys, name):
    (tmp_path / "a_folder.csv").mkdir()
    (tmp_path / "a_file").touch()
    before = sorted(path.name for path in run.iterdir())
    words = ("--data folder --root", folder, "--save-predictions", tmp_path / name)
    assert ferkit("evaluate", run, *words) == 2
    assert "save_predictions: expected a .csv file" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == before and not list((tmp_path / "a_folder.csv").iterdir())


def test_table_is_whole_or_not_there(monkeypatch, tmp_path):
    found = Predictions(torch.tensor([[0.25, 0.75]]), torch.zeros(1, 0), ())
    table = tmp_path / "found.csv"
    table.write_text("what was there\n")

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_predictions(table, found, [0], "test", ("x", "y"))
    assert table.read_text() == "what was there\n" and [path.name for path in tmp_path.iterdir()] == ["found.csv"]


def test_recipe_without_pretrained_loads(run):
    assert isinstance(load_recipe(Run(run)), CrossEntropy)


def test_other_files_are_not_written_over(run, folder, tmp_path, capsys):
    for kept in (run / "labels.csv", tmp_path / "manifest.csv"):
        if kept.name == "manifest.csv":
            kept.write_text("image,split,label\na.png,test,happy\n")
        before = kept.read_bytes()
        assert ferkit("evaluate", run, "--data folder --root", folder, "--save-predictions", kept) == 2
        assert "save_predictions: expected a new file, or predictions to replace" in capsys.readouterr().err
        assert kept.read_bytes() == before
