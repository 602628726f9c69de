"""``ferkit.Predictor`` and ``ferkit predict`` on real files: any kind of image, any place, and what goes wrong."""

import csv
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import ferkit
from ferkit.cli import main
from ferkit.data.images import decode
from ferkit.tasks import predict_images
from ferkit.tasks.run import Run, load_recipe

COMMON = "--data synthetic --train-images 40 --validation-images 14 --batch-size 14 --epochs 1 --progress false"


def run_ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ce"
    assert run_ferkit("train ce", COMMON, "--accelerator cpu --out", out) == 0
    return out


@pytest.fixture(scope="module")
def affect_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "vgg"
    assert run_ferkit("train vgg", COMMON, "--width 0.1 --accelerator cpu --out", out) == 0
    return out


@pytest.fixture
def folder(tmp_path):
    """Five pictures in two folders, of several kinds, and a file that is none."""
    rng = np.random.default_rng(0)
    place = tmp_path / "my faces"
    (place / "deep").mkdir(parents=True)
    for name, shape in {
        "b.png": (60, 50, 3),
        "a.jpg": (48, 48, 3),
        "deep/c.png": (31, 77),
        "deep/d.bmp": (9, 9, 3),
    }.items():
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(place / name)
    (place / "notes.txt").write_text("no picture")
    return place


def rows_of(path):
    return list(csv.DictReader(path.open()))


def test_a_folder_gives_a_row_an_image(run, folder, tmp_path, capsys):
    out = tmp_path / "said.csv"
    assert run_ferkit("predict", run, folder, "--batch-size 3 --out", out, "--progress false") == 0
    assert re.search(r"images +4\nskipped +0", capsys.readouterr().out)
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [
        str(folder / name) for name in ("a.jpg", "b.png", "deep/c.png", "deep/d.bmp")
    ]
    recipe = load_recipe(Run(run))
    for row in rows:
        pixels = torch.from_numpy(decode(folder / row["image"], 48))[None]
        expected = recipe(pixels).softmax(1)[0].tolist()
        shares = {name[2:]: float(value) for name, value in row.items() if name.startswith("p_")}
        assert list(shares.values()) == pytest.approx(expected, abs=2e-6)
        assert row["predicted"] == max(shares, key=shares.get)
        assert float(row["probability"]) == max(shares.values())
        entropy = -sum(p * math.log(p) for p in expected) / math.log(7)
        assert float(row["uncertainty"]) == pytest.approx(entropy, abs=1e-5)


def test_files_and_folders_are_taken_once_in_the_order_given(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("my faces/deep/d.bmp", "my faces", "my faces/b.png")
    assert predict_images(str(run), words, progress=False) == {"images": 4.0, "skipped": 0.0}
    listed = [row["image"] for row in rows_of(tmp_path / "predictions.csv")]
    assert listed == [f"my faces/{name}" for name in ("deep/d.bmp", "a.jpg", "b.png", "deep/c.png")]
    with pytest.raises(ValueError, match="out: expected a new file"):
        predict_images(run, "my faces/b.png", progress=False)
    assert predict_images(run, "my faces/b.png", replace=True, progress=False)["images"] == 1
    assert len(rows_of(tmp_path / "predictions.csv")) == 1
    (tmp_path / "link").symlink_to(folder)
    same = ("link", "my faces", folder / "a.jpg", "my faces/deep/../b.png")
    assert predict_images(run, same, "once.csv", progress=False)["images"] == 4
    assert rows_of(tmp_path / "once.csv")[0]["image"] == "link/a.jpg"


def test_valence_and_arousal_are_columns(affect_run, folder, tmp_path):
    out = tmp_path / "said.csv"
    assert run_ferkit("predict", affect_run, folder, "--out", out, "--progress false") == 0
    found = ferkit.Predictor(affect_run, device="cpu")([folder / "a.jpg"])
    assert found.value_names == ("valence", "arousal") and found.values.shape == (1, 2)
    assert float(rows_of(out)[0]["valence"]) == pytest.approx(float(found.values[0, 0]), abs=2e-6)


def test_every_kind_of_image_is_the_same_image(run, folder):
    predictor = ferkit.Predictor(run, device="cpu")
    assert predictor.size == 48 and predictor.classes[0] == "neutral" and not predictor.recipe.training
    with Image.open(folder / "b.png") as image:
        image.load()
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [folder / "b.png", str(folder / "b.png"), image, array, tensor, image.convert("RGBA")]
    found = predictor(kinds, batch_size=2)
    assert all(torch.equal(found.probabilities[0], other) for other in found.probabilities)
    assert torch.equal(predictor(tensor[None]).probabilities, predictor(folder / "b.png").probabilities)
    assert torch.equal(
        predictor([np.array(image.convert("L"))]).probabilities, predictor([image.convert("L")]).probabilities
    )
    for alone in (image, array, tensor, array[..., 0]):
        assert predictor(alone).probabilities.shape == (1, 7)
    torch.testing.assert_close(predictor(array).probabilities[0], found.probabilities[0])
    nothing = predictor([])
    assert nothing.probabilities.shape == (0, 7) and nothing.uncertainty.shape == (0,)


def test_a_pillow_image_is_seen_as_its_file_is(run, tmp_path):
    """Turned as its camera says, and 16 bits not clipped."""
    rng = np.random.default_rng(1)
    turned, deep = tmp_path / "turned.jpg", tmp_path / "deep.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(turned, exif=exif, quality=95)
    Image.fromarray(rng.integers(0, 65536, (40, 40)).astype(np.uint16)).save(deep)
    predictor = ferkit.Predictor(run, device="cpu")
    for path in (turned, deep):
        with Image.open(path) as image:
            assert np.array_equal(predictor.pixels(0, image), decode(path, 48))
    with pytest.raises(ValueError, match="image cannot be read: image 1: ValueError: expected 8 or 16 bits a pixel"):
        predictor([Image.new("L", (8, 8)), Image.new("F", (8, 8))])


def test_the_global_generator_is_left_alone(run, folder):
    before = torch.get_rng_state()
    ferkit.Predictor(run, device="cpu")(folder / "b.png")
    assert torch.equal(torch.get_rng_state(), before)


def test_uncertainty_runs_from_0_to_1():
    from ferkit.tasks.predictions import Predictions

    shares = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    found = Predictions(shares, torch.zeros(3, 0), ()).uncertainty
    torch.testing.assert_close(found, torch.tensor([0, 1, math.log(2) / math.log(3)], dtype=torch.float64))
    assert Predictions(None, torch.zeros(3, 1), ("valence",)).uncertainty is None


def test_an_unreadable_image_ends_the_work_or_is_named(run, folder, tmp_path, capsys):
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:99])
    out = tmp_path / "said.csv"
    assert run_ferkit("predict", run, folder, "--out", out) == 2
    assert "image cannot be read" in capsys.readouterr().err and not out.exists()
    assert run_ferkit("predict", run, folder, "--on-error skip --out", out) == 0
    said = capsys.readouterr()
    assert (
        "images: 1 of 5 cannot be read:" in said.err
        and "broken.png" in said.err
        and "skipped              1" in said.out
    )
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [
        str(folder / name) for name in ("a.jpg", "b.png", "deep/c.png", "deep/d.bmp")
    ]
    one = ferkit.Predictor(run, device="cpu")(folder / "deep/c.png").probabilities[0]
    assert float(rows[2]["p_happy"]) == pytest.approx(float(one[1]), abs=2e-6)
    assert run_ferkit("predict", run, folder / "broken.png", "--on-error skip --out", tmp_path / "none.csv") == 2
    assert not (tmp_path / "none.csv").exists()


def test_bad_requests_are_told_before_an_image_is_read(run, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ferkit.tasks.predictor.decode", None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "faces.csv").write_text("image,split,label\na.png,train,happy\n")
    for words, message in (
        ((run, tmp_path / "nowhere"), "images: expected files or folders, and there is no"),
        ((run, tmp_path / "empty"), "images: expected images in the folder"),
        ((tmp_path / "empty", folder), "run: expected a run folder with config.yaml"),
        ((run, folder, "--out", tmp_path / "said.txt"), "out: expected a .csv file in a folder that can be written"),
        ((run, folder, "--out", tmp_path / "faces.csv"), "out: expected a new file (or replace), got"),
        ((run, folder, "--device meta"), "device: 'meta' cannot be used here"),
        ((run, folder, "--batch-size 0"), "batch_size: expected a value in"),
        ((run, folder, "--device abacus"), "device: 'abacus' cannot be used here"),
    ):
        out = () if "--out" in words else ("--out", tmp_path / "said.csv")
        assert run_ferkit("predict", *words, *out) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "said.csv").exists()
    for nothing, message in (([], "expected at least one, got none"), ([""], "and there is no ''")):
        with pytest.raises(ValueError, match=f"images: .*{message}"):
            predict_images(run, nothing, tmp_path / "said.csv")


def test_an_image_of_a_kind_that_is_not_read_is_told(run, folder, tmp_path, capsys):
    (folder / "e.heic").touch()
    assert run_ferkit("predict", run, folder, "--out", tmp_path / "said.csv") == 0
    assert "images: 1 are left out, of kinds that are not read: 1 .heic" in capsys.readouterr().err
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "e.heic").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="images: expected images in the folder"):
        predict_images(run, (tmp_path / "only", tmp_path / "empty", folder), tmp_path / "more.csv", progress=False)


def test_a_file_whose_name_begins_with_a_dash(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "b.png").rename(folder / "--my-face.png")
    assert main(["predict", "--out", str(tmp_path / "said.csv"), str(run), "--", "--my-face.png"]) == 0
    assert rows_of(tmp_path / "said.csv")[0]["image"] == "--my-face.png"


def test_a_name_that_no_table_can_hold_is_told_first(run, folder, tmp_path, monkeypatch):
    name = os.fsencode(folder) + b"/\xff.png"
    try:
        os.link(os.fsencode(folder / "b.png"), name)
    except OSError:
        pytest.skip("a file system of UTF-8 names only")
    monkeypatch.setattr("ferkit.tasks.predictor.decode", None)
    with pytest.raises(ValueError, match="images: expected file names in UTF-8"):
        predict_images(run, [os.fsdecode(name)], tmp_path / "said.csv", progress=False)


def test_a_run_of_values_alone(folder, tmp_path):
    run, out = tmp_path / "values", tmp_path / "said.csv"
    words = f"train vgg {COMMON} --width 0.1 --sources [] --accelerator cpu --out"
    assert run_ferkit(words, run) == 0
    assert predict_images(run, [folder], out, progress=False)["images"] == 4
    assert list(rows_of(out)[0]) == ["image", "valence", "arousal"]
    found = ferkit.Predictor(run, device="cpu")(folder / "a.jpg")
    assert found.probabilities is None and found.uncertainty is None and found.values.shape == (1, 2)


@pytest.mark.parametrize(
    "image, error, message",
    [
        (torch.zeros(3, 8, 8), TypeError, "images: expected dtype uint8, got float32 at 1"),
        (
            torch.zeros(8, 8, dtype=torch.uint8),
            ValueError,
            r"images: expected tensors of shape \(3, H, W\), got \(8, 8\) at 1",
        ),
        (np.zeros((8, 8, 4), np.uint8), ValueError, r"images: expected arrays of shape \(H, W, 3\) or \(H, W\), got"),
        (np.zeros((0, 8), np.uint8), ValueError, "images: expected arrays of shape"),
        (3, TypeError, "images: expected paths, Pillow images, arrays or tensors, got int at 1"),
    ],
)
def test_what_is_no_image_is_refused(run, image, error, message):
    with pytest.raises(error, match=message):
        ferkit.Predictor(run, device="cpu")([Image.new("L", (8, 8)), image])


def test_ferkit_has_the_predictor_and_imports_without_it():
    program = "import sys, ferkit; assert 'lightning' not in sys.modules and 'Predictor' in dir(ferkit)"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="module 'ferkit' has no attribute 'Predicter'"):
        ferkit.Predicter  # noqa: B018
