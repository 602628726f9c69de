"""Commands on SFEW and on DMUE's list: which images, which splits, and what is trained and scored."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from ferkit.cli import main
from ferkit.data import FaceDataset, Manifest
from ferkit.tasks import DataOptions
from ferkit.tasks.data import build_dataset

FOLDERS = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
LABELS = [6, 5, 4, 1, 0, 2, 3]
TRAINING = {"size": 16, "epochs": 1, "batch-size": 14, "accelerator": "cpu", "progress": "false", "backbone": "small"}


def train(data, root, out, *more):
    words = ["train", "ce", "--data", data, "--root", str(root), "--out", str(out), *more]
    return main([*words, *(f"--{name}={value}" for name, value in TRAINING.items())])


@pytest.fixture
def stills(tmp_path):
    """Two faces a class in the training set; aligned ones are bright."""
    for split, count in {"Train": 2, "Val": 1}.items():
        for folder, value in {split: 10, f"{split}/{split}_Aligned_Faces": 100}.items():
            for number, name in enumerate(FOLDERS):
                for i in range(count):
                    path = tmp_path / folder / name / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(np.full((16, 16), value + number, dtype=np.uint8)).save(path)
    return tmp_path


@pytest.fixture
def listed(tmp_path):
    """Four faces a class and two test images in an LMDB; red is the number of the line."""
    lmdb = pytest.importorskip("lmdb")
    lines = [f"train_train_{i:05d}_aligned.jpg {i % 7}" for i in range(28)] + ["test_a/b_0.jpg 3", "test_a/b_1.jpg 6"]
    (tmp_path / "lb2.txt").write_text("\n".join(lines))
    with lmdb.open(str(tmp_path / "faces_lmdb"), map_size=1 << 26) as store, store.begin(write=True) as write:
        for number, line in enumerate(lines):
            pixels = np.full((256, 256, 3), [number, 0, 255], dtype=np.uint8)
            write.put(line.split()[0].encode(), pixels.tobytes())
    return tmp_path


def test_sfew_is_scored_on_its_own_validation_set(stills):
    options = DataOptions("sfew", str(stills), size=16)
    training, validation = (build_dataset(options, split) for split in ("train", "validation"))
    assert training.labels.tolist() == [label for label in LABELS for _ in range(2)]
    assert validation.labels.tolist() == LABELS
    assert [int(item["image"][0, 0, 0]) for item in validation] == list(range(100, 107))
    original = build_dataset(DataOptions("sfew", str(stills), size=16, alignment="original"), "validation")
    assert [int(item["image"][0, 0, 0]) for item in original] == list(range(10, 17))
    few = build_dataset(options, "validation", classes=["happy", "sad"])
    assert sorted(few.labels.tolist()) == [-1] * 5 + [0, 1]
    with pytest.raises(ValueError, match=r"split: expected one of train, valid in .*, got 'test'"):
        build_dataset(options, "test")


def test_dmue_list_is_held_out_from_and_scored(listed):
    options = DataOptions("dmue_list", str(listed / "lb2.txt"), size=16, validation_share=0.25)
    parts = {split: build_dataset(options, split) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 21, "validation": 7, "test": 2}
    for split, part in parts.items():
        numbers = [int(item["image"][0, 0, 0]) for item in part]
        wanted = [3, 6] if split == "test" else [number % 7 for number in numbers]
        assert part.labels.tolist() == wanted and all(int(item["image"][2, 0, 0]) == 255 for item in part)
    eight = [*parts["train"].classes, "contempt"]
    assert build_dataset(options, "test", classes=eight).classes == tuple(eight)
    raf = ["surprise", "fear", "disgust", "happy", "sad", "anger", "neutral"]
    other = DataOptions("dmue_list", str(listed), size=16, label_order=raf)
    assert build_dataset(other, "test").labels.tolist() == [1, 0]


def test_rafdb_images(tmp_path):
    for folder in ("EmoLabel", "Image/original"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "EmoLabel/list_patition_label.txt").write_text("train_00001.jpg 5\ntest_0001.jpg 4")
    Image.new("L", (16, 16), 7).save(tmp_path / "Image/original/test_0001.jpg")
    data = build_dataset(DataOptions("rafdb", str(tmp_path), size=16, alignment="original"), "test")
    assert data.labels.tolist() == [1] and int(data[0]["image"][0, 0, 0]) == 7
    with pytest.raises(FileNotFoundError, match="root: expected the folder Image/aligned"):
        build_dataset(DataOptions("rafdb", str(tmp_path), size=16), "test")


def test_manifests_are_written_and_read(stills, listed):
    assert main(["manifest", "write", "--data", "sfew", "--root", str(stills), "--out", str(stills / "s.csv")]) == 0
    assert Manifest.read(stills / "s.csv").select("valid").label.tolist() == LABELS
    words = ["--data", "dmue_list", "--root", str(listed), "--validation-share", "0", "--out", str(listed / "d.csv")]
    assert main(["manifest", "write", *words]) == 0
    rows = Manifest.read(listed / "d.csv")
    assert len(rows) == 30 and rows.image[0] == "faces_lmdb/train_train_00000_aligned.jpg"
    assert int(FaceDataset(rows, size=16)[29]["image"][0, 0, 0]) == 29


@pytest.mark.parametrize(("data", "more"), [("sfew", ("--alignment", "original")), ("dmue_list", ("--workers", "2"))])
def test_command_line(data, more, request, tmp_path):
    root = request.getfixturevalue("stills" if data == "sfew" else "listed")
    assert train(data, root, tmp_path / "run", *more) == 0
    before = json.loads((tmp_path / "run/metrics.json").read_text())
    # On the run's own data the images are the run's, without being named again.
    assert main(["evaluate", str(tmp_path / "run"), "--data", data, "--root", str(root)]) == 0
    after = json.loads((tmp_path / f"run/evaluate-{data}-validation.json").read_text())
    assert before["images"] == after["images"] == 7
    assert before["accuracy"] == after["accuracy"]


def test_wrong_options(stills):
    cases = {
        "alignment: expected data 'rafdb' or 'sfew' beside it, got 'folder'": ("folder", {"alignment": "aligned"}),
        "alignment: expected one of .*aligned.*original.*, got 'cropped'": ("sfew", {"alignment": "cropped"}),
        "image_root: expected data 'dmue_list' beside it, got 'rafdb'": ("rafdb", {"image_root": "x_lmdb"}),
        "label_order: expected data 'dmue_list' beside it, got 'sfew'": ("sfew", {"label_order": ["happy"]}),
        "labels: expected none for data 'dmue_list', got 'x'": ("dmue_list", {"labels": "x"}),
    }
    for message, (data, more) in cases.items():
        with pytest.raises(ValueError, match=message):
            DataOptions(data, str(stills), **more)


def test_what_is_wrong_is_one_line(stills, tmp_path, capsys):
    (stills / "Val/Val_Aligned_Faces/Bored").mkdir()
    assert train("sfew", stills, tmp_path / "run") == 2
    assert re.search(r"ferkit: error: root: expected folders named .*, got \['Bored'\]", capsys.readouterr().err)
    assert train("dmue_list", stills, tmp_path / "run") == 2
    assert "root: no such file" in capsys.readouterr().err and not (tmp_path / "run").exists()
