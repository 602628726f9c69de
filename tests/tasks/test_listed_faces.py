"""Commands on RAF-DB and AffectNet: which labels are learned from, which are scored by, and the lists beside them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ferkit.cli import main
from ferkit.tasks import DataOptions
from ferkit.tasks.data import build_dataset
from ferkit.tasks.label_sets import attach_label_sets

TRAIN = [f"train_{i:05d}.jpg" for i in range(1, 15)]
TEST = ["test_0001.jpg", "test_0002.jpg"]
CODES = [1 + i % 7 for i in range(14)]
TO_EMOTIONS = [None, 3, 4, 5, 1, 2, 6, 0]


@pytest.fixture
def raf(tmp_path):
    """Two training faces of each emotion, whose grey value is their number; the noise list moves each label by one."""
    base = tmp_path / "basic"
    (base / "EmoLabel").mkdir(parents=True)
    (base / "Image/aligned").mkdir(parents=True)
    for i, name in enumerate([*TRAIN, *TEST]):
        pixels = np.full((16, 16), 10 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(base / "Image/aligned" / name.replace(".jpg", "_aligned.jpg"))
    rows = [f"{n} {c}" for n, c in zip([*TRAIN, *TEST], [*CODES, 1, 7])]
    (base / "EmoLabel/list_patition_label.txt").write_text("\n".join(rows))
    noisy = [f"{n} {c % 7 + 1}" for n, c in zip(TRAIN, CODES)]
    (tmp_path / "noise.txt").write_text("\n".join(reversed(noisy)))
    (tmp_path / "va.txt").write_text("\n".join(f"{n} {i / 20} -1.5" for i, n in enumerate([*TRAIN, *TEST])))
    return tmp_path


def numbers(dataset):
    return [round(float(item["image"].float().mean()) / 10) for item in dataset]


def test_noise_list_is_learned_and_the_official_labels_are_scored(raf):
    plain = DataOptions("rafdb", str(raf), size=16, validation_share=0.5)
    noisy = DataOptions("rafdb", str(raf), size=16, validation_share=0.5, labels=str(raf / "noise.txt"))
    training = build_dataset(noisy, "train")
    assert len(training) == 7
    official = [TO_EMOTIONS[CODES[i]] for i in numbers(training)]
    assert training.labels.tolist() == [TO_EMOTIONS[CODES[i] % 7 + 1] for i in numbers(training)]
    assert training.true_labels.tolist() == official
    for split in ("train", "validation", "test"):
        assert (
            build_dataset(plain, split).manifest.image.tolist() == build_dataset(noisy, split).manifest.image.tolist()
        )
    validation = build_dataset(noisy, "validation")
    assert validation.labels.tolist() == [TO_EMOTIONS[CODES[i]] for i in numbers(validation)]
    assert build_dataset(noisy, "test").labels.tolist() == [3, 0]
    fold = build_dataset(DataOptions("rafdb", str(raf), size=16, labels=noisy.labels, folds=2, fold=0), "train")
    assert fold.labels.tolist() == [TO_EMOTIONS[CODES[i] % 7 + 1] for i in numbers(fold)]


def test_machine_labels_and_affect_become_label_sets(raf):
    options = DataOptions(
        "rafdb", str(raf), size=16, machine_labels={"model": str(raf / "noise.txt")}, affect=str(raf / "va.txt")
    )
    data = build_dataset(options, "train")
    sets = attach_label_sets(data, options, "train")
    assert sets.source_names == ("model",) and sets.value_names == ("valence", "arousal")
    assert sets.sources[:, 0].tolist() == [TO_EMOTIONS[CODES[i] % 7 + 1] for i in numbers(data)]
    np.testing.assert_allclose(sets.values, [[i / 20, -1] for i in numbers(data)], rtol=1e-6)
    assert sets.true_labels.tolist() == [TO_EMOTIONS[CODES[i]] for i in numbers(data)]


def test_affectnet(tmp_path):
    for folder, labels in {"train": [0, 7, 3, 9], "valid": [7, 1]}.items():
        (tmp_path / f"{folder}_set/images").mkdir(parents=True)
        for i, _ in enumerate(labels):
            Image.fromarray(np.full((16, 16), 10 * i, dtype=np.uint8)).save(tmp_path / f"{folder}_set/images/{i}.png")
        text = "\n".join(f"{i}.png {label}" for i, label in enumerate(labels))
        (tmp_path / f"{folder}_set/{folder}_annotations_8class.txt").write_text(text)
    (tmp_path / "machine.txt").write_text(
        "train_set/images/0.png 1\ntrain_set/images/1.png 2\ntrain_set/images/2.png 7"
    )
    options = DataOptions("affectnet", str(tmp_path), size=16, machine_labels={"model": str(tmp_path / "machine.txt")})
    assert build_dataset(options, "train").labels.tolist() == [0, 7, 3]
    assert build_dataset(options, "validation").labels.tolist() == [7, 1]
    seven = ["happy", "neutral", "surprise", "sad", "fear", "disgust", "anger"]
    training = build_dataset(options, "train", classes=seven)
    assert training.labels.tolist() == [1, 2] and numbers(training) == [0, 2]
    assert training.manifest.source_labels["model"].tolist() == [0, -1]
    with pytest.raises(ValueError, match=r"split: expected one of train, valid in .*, got 'test'"):
        build_dataset(options, "test")


def test_wrong_options(tmp_path):
    for name, value in {"machine_labels": {"a": "a.txt"}, "affect": "va.txt"}.items():
        with pytest.raises(ValueError, match=f"{name}: expected data 'rafdb' or 'affectnet' beside it, got 'folder'"):
            DataOptions("folder", str(tmp_path), **{name: value})
    with pytest.raises(ValueError, match="labels: expected none for data 'affectnet', got 'x'"):
        DataOptions("affectnet", str(tmp_path), labels="x")


def test_command_line(raf, tmp_path, capsys):
    words = ["train", "ce", "--data", "rafdb", "--root", str(raf), "--machine-labels.model", str(raf / "noise.txt")]
    options = {"size": 16, "epochs": 1, "batch-size": 14, "validation-share": 0.5, "accelerator": "cpu"}
    words += [f"--{name}={value}" for name, value in {**options, "progress": "false"}.items()]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert main([*words, "--machine-labels.other", "none.txt", "--out", str(tmp_path / "other")]) == 2
    assert "machine_labels: no such file: none.txt" in capsys.readouterr().err


def test_names_of_lists_are_the_user_s():
    from ferkit.cli.parser import build_parser, underscored

    words = "train vgg --data rafdb --root x --machine-labels.web-model a.txt --machine-labels.b=b-c.txt --batch-size 4"
    options = build_parser().parse_args([underscored(word) for word in words.split()]).train.vgg
    assert options.machine_labels == {"web-model": "a.txt", "b": "b-c.txt"} and options.batch_size == 4
