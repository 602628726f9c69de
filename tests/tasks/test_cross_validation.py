"""Folds of every kind of data: what is trained on is never scored, and everything is scored once."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ferkit.data import EMOTIONS, Manifest
from ferkit.data.readers.ferplus_targets import COLUMNS
from ferkit.tasks import DataOptions, FitOptions, evaluate, train
from ferkit.tasks.data import build_dataset

SHEET = ("neutral", "happy", "anger")


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16), value % 256, dtype=np.uint8)).save(path)


def diffusionfer_files(root):
    """23 faces of three emotions; each fifth has another label in its prompt."""
    lines = ["image,valence,arousal,expression,folder_label,AU01,AU12"]
    for i in range(23):
        true, prompt = SHEET[i % 3], SHEET[(i + (i % 5 == 0)) % 3]
        picture(root / f"images/{i:04d}.png", i)
        lines.append(f"images/{i:04d}.png,{i / 50},{-i / 50},{true},{prompt},{i / 30},0.5")
    (root / "sheet.csv").write_text("\n".join(lines))
    return DataOptions("diffusionfer", str(root), size=16)


def folder_files(root):
    for i in range(22):
        picture(root / ("Happiness" if i % 3 else "Sad") / f"{i}.png", i)
    return DataOptions("folder", str(root), classes=["happy", "sad"], size=16)


def manifest_files(root):
    """Two rows of each image, a split of its own, and an unlabelled image."""
    names = [f"{i:02d}.png" for i in range(15)]
    for i, name in enumerate(names):
        picture(root / name, i)
    images = np.repeat(np.array(names, dtype=object), 2)
    label = np.repeat(np.arange(15) % 3, 2)
    label[:2] = -1
    split = ["train"] * 26 + ["valid"] * 4
    Manifest(images, split, label, EMOTIONS[:7], root).write(root / "faces.csv")
    return DataOptions("manifest", str(root / "faces.csv"), size=16)


def ferplus_files(root):
    """Which faces are kept depends on the labels: each fourth has a majority, but for an unknown one."""
    lines = [f"Usage,Image name,{','.join(COLUMNS)}"]
    original = ["Image name,emotion"]
    for i in range(24):
        votes = [0] * 10
        votes[i % 3], votes[3], votes[8] = (6, 3, 1) if i % 4 else (4, 1, 5)
        for usage, folder, shift in (("Training", "FER2013Train", 0), ("PublicTest", "FER2013Valid", 1000)):
            name = f"fer{i + shift:07d}.png"
            picture(root / folder / name, i + shift)
            lines.append(f"{usage},{name},{','.join(map(str, votes))}")
            original.append(f"{name},{(i * 5) % 7}")
    (root / "fer2013new.csv").write_text("\n".join(lines))
    (root / "fer2013_label.csv").write_text("\n".join(original))
    return DataOptions("ferplus", str(root), labels="fer2013", size=16)


KINDS = {
    "diffusionfer": diffusionfer_files,
    "folder": folder_files,
    "manifest": manifest_files,
    "ferplus": ferplus_files,
}


@pytest.fixture(params=list(KINDS))
def options(request, tmp_path):
    return KINDS[request.param](tmp_path)


def test_every_image_is_held_out_once(options):
    folds = 4
    held, whole = Counter(), set()
    for fold in range(folds):
        chosen = replace(options, folds=folds, fold=fold)
        training = build_dataset(chosen, "train")
        validation = build_dataset(chosen, "validation", classes=training.classes)
        train, valid = set(training.manifest.image), set(validation.manifest.image)
        assert train and valid and not train & valid
        assert build_dataset(chosen, "test", classes=training.classes).manifest.image.tolist() == [
            *validation.manifest.image
        ]
        held.update(valid)
        whole |= train
    assert set(held.values()) == {1} and set(held) <= whole
    if options.data != "ferplus":  # there, faces that are never scored are trained on all the same
        assert set(held) == whole
    assert not any("FER2013Valid" in image for image in whole)  # another split is not used
    assert len(held) == {"diffusionfer": 23, "folder": 22, "manifest": 13, "ferplus": 18}[options.data]


def test_class_shares_are_equal(options):
    counts = []
    for fold in range(3):
        validation = build_dataset(replace(options, folds=3, fold=fold), "validation")
        # an image of two rows counts once
        labels = dict(zip(validation.manifest.image, validation.labels.tolist()))
        counts.append(np.bincount(np.array(list(labels.values())) + 1, minlength=8))
    assert np.ptp(np.stack(counts), axis=0).max() <= 1
    assert np.ptp(np.stack(counts).sum(axis=1)) <= 1


def test_the_seed_chooses_the_folds(options):
    def draw(seed):
        rows = build_dataset(replace(options, folds=3, fold=1, subset_seed=seed), "validation").manifest
        return rows.image.tolist()

    assert draw(0) == draw(0) and len({str(draw(seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize("folds", [None, 4])
def test_diffusionfer_is_scored_against_the_sheet_whatever_is_trained_on(tmp_path, folds):
    base = replace(diffusionfer_files(tmp_path), folds=folds, fold=None if folds is None else 2)
    sheet, folder = (replace(base, labels=name) for name in ("sheet", "folder"))
    clean, noisy = build_dataset(sheet, "train"), build_dataset(folder, "train")
    assert clean.manifest.image.tolist() == noisy.manifest.image.tolist()
    numbers = [int(name[7:11]) for name in noisy.manifest.image]
    classes = [noisy.classes.index(name) for name in SHEET]
    assert noisy.labels.tolist() == [classes[(i + (i % 5 == 0)) % 3] for i in numbers]
    assert noisy.true_labels.tolist() == clean.labels.tolist() == [classes[i % 3] for i in numbers]
    held = [build_dataset(options, "validation") for options in (sheet, folder, base)]
    assert len({tuple(data.manifest.image) for data in held}) == 1
    for data in held:
        assert data.labels.tolist() == [classes[int(name[7:11]) % 3] for name in data.manifest.image]
    assert not set(held[0].manifest.image) & set(clean.manifest.image)


def test_fewer_classes_of_diffusionfer(tmp_path):
    options = replace(diffusionfer_files(tmp_path), classes=["anger", "happy"], labels="folder", folds=4, fold=0)
    training, validation = (build_dataset(options, split) for split in ("train", "validation"))
    assert training.classes == ("anger", "happy") and set(training.labels.tolist()) == {-1, 0, 1}
    assert set(validation.labels.tolist()) == {-1, 0, 1}


def test_fewer_classes_of_ferplus(tmp_path):
    options = replace(ferplus_files(tmp_path), labels="votes", classes=["neutral", "surprise"])
    training = build_dataset(options, "train")
    assert training.classes == ("neutral", "surprise") and 0 < len(training) < 24
    assert training.distributions.sum(1).allclose(torch.ones(len(training)))


def test_subsets_and_noise_stay_within_the_fold(tmp_path):
    options = replace(diffusionfer_files(tmp_path), folds=4, fold=1)
    whole = build_dataset(options, "train")
    fewer = build_dataset(replace(options, train_images=10, validation_images=3, noise=0.5), "train")
    assert len(fewer) == 10 and set(fewer.manifest.image) <= set(whole.manifest.image)
    assert int((fewer.labels != fewer.true_labels).sum()) == 5


def test_without_folds_nothing_changes(tmp_path):
    """The hold-out of a data set without a validation split, as it was before there were folds."""
    options = folder_files(tmp_path)
    assert options.folds is None and options.fold is None
    training, validation = (build_dataset(options, split).manifest for split in ("train", "validation"))
    assert sorted(validation.image) == [
        *("Happiness/14.png", "Happiness/19.png", "Happiness/20.png", "Sad/15.png", "Sad/3.png")
    ]
    assert len(training) == 22 - len(validation) and not set(training.image) & set(validation.image)


def test_a_run_is_scored_by_its_labels_where_there_are_no_others(tmp_path):
    options = folder_files(tmp_path / "faces")
    rows = build_dataset(options, "validation").manifest, build_dataset(options, "train").manifest
    lines = [
        f"{path},{part.split[i]},,{part.classes[part.label[i]]}" for part in rows for i, path in enumerate(part.paths())
    ]
    (tmp_path / "faces.csv").write_text("\n".join(["image,split,label,source_label_a", *lines]))
    manifest = DataOptions("manifest", str(tmp_path / "faces.csv"), classes=options.classes, labels="a", size=16)
    out = tmp_path / "run"
    fit = FitOptions(epochs=1, batch_size=8, min_per_class=1, out=str(out), accelerator="cpu", progress=False)
    trained = train("ce", manifest, fit)
    assert evaluate(str(out), replace(manifest, labels=None))["accuracy"] == trained["accuracy"]


def test_copies_that_a_run_left_out_are_not_scored(tmp_path):
    options = replace(ferplus_files(tmp_path), labels="votes", classes=["neutral", "happy", "surprise"])
    picture(tmp_path / "FER2013Valid" / "fer0001001.png", 1)  # that of training picture 1
    out = tmp_path / "run"
    fit = FitOptions(epochs=1, batch_size=8, sampler="shuffle", out=str(out), accelerator="cpu", progress=False)
    trained = train("ce", replace(options, exclude_duplicates=True), fit)
    assert evaluate(str(out), options)["images"] == trained["images"] == len(build_dataset(options, "validation")) - 1


def rows_of(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    for image, *_ in rows:
        picture(path.parent / image, 0)
    path.write_text("\n".join(["image,split,label", *(",".join(row) for row in rows)]))
    return DataOptions("manifest", str(path), validation_share=0.5, size=16)


def test_the_rows_of_an_image_are_held_out_together(tmp_path):
    rows = [(f"{number % 10}.png", "train", "happy" if number < 13 else "sad") for number in range(20)]
    options = rows_of(tmp_path / "faces.csv", rows)
    training, validation = (build_dataset(options, split).manifest.image for split in ("train", "validation"))
    assert len(training) == len(validation) == 10 and not set(training) & set(validation)


def test_an_image_in_several_splits_is_told(tmp_path):
    rows = [(f"{number}.png", "train", "happy") for number in range(3)]
    options = rows_of(tmp_path / "faces.csv", [*rows, ("1.png", "val", "happy")])
    with pytest.warns(UserWarning, match=r"faces\.csv: 1 images are in several splits, as 1\.png in train, valid"):
        build_dataset(options, "validation")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": 1}, "folds: expected their number beside fold 1, got none"),
        ({"folds": 5}, "fold: expected one of 0..4 beside folds 5, got none"),
        ({"folds": 5, "fold": 5}, r"fold: expected a value in \[0, 4\], got 5"),
        ({"folds": 1, "fold": 0}, "folds: expected a value in"),
        ({"data": "synthetic", "root": None, "folds": 5, "fold": 0}, "folds: expected data other than 'synthetic'"),
        ({"data": "diffusionfer", "labels": "votes"}, "labels: expected one of 'sheet', 'folder', got 'votes'"),
    ],
)
def test_bad_requests(changes, message):
    with pytest.raises(ValueError, match=message):
        DataOptions(**{"data": "folder", "root": "faces", **changes})


def test_too_many_folds(tmp_path):
    options = replace(folder_files(tmp_path), folds=30, fold=0)
    with pytest.raises(ValueError, match="folds: expected at most the 22 images, got 30"):
        build_dataset(options, "train")


def test_data_without_training_images(tmp_path):
    picture(tmp_path / "a.png", 0)
    Manifest(["a.png"], ["test"], [0], EMOTIONS[:7], tmp_path).write(tmp_path / "faces.csv")
    with pytest.raises(ValueError, match=r"folds: expected training images in .*, got only test"):
        build_dataset(DataOptions("manifest", str(tmp_path / "faces.csv"), folds=2, fold=0), "validation")


def test_a_cross_validated_run_is_evaluated_on_its_own_fold(tmp_path, capsys):
    from ferkit.cli import main

    options, out = diffusionfer_files(tmp_path / "data"), tmp_path / "run"
    words = (
        f"train ce --data diffusionfer --root {options.root} --labels folder --folds 4 --fold 3 --size 16 --epochs 1"
    )
    classes = "--classes [neutral,happy,anger] --batch-size 9 --progress false --accelerator cpu"
    assert main([*words.split(), *classes.split(), "--out", str(out)]) == 0
    own = json.loads((out / "metrics.json").read_text())
    figures = evaluate(str(out), DataOptions("diffusionfer", options.root))
    assert figures["images"] == own["images"] == 5 and figures["accuracy"] == own["accuracy"]
    other = evaluate(str(out), DataOptions("diffusionfer", options.root, folds=2, fold=0))
    assert other["images"] in (11, 12)


def test_a_run_is_scored_on_what_it_held_out(tmp_path):
    options = folder_files(tmp_path / "faces")
    out = tmp_path / "run"
    chosen = replace(options, validation_share=0.5, subset_seed=3)
    fit = FitOptions(epochs=1, batch_size=8, min_per_class=1, out=str(out), accelerator="cpu", progress=False)
    trained = train("ce", chosen, fit)
    figures = evaluate(str(out), options)
    assert {name: figures[name] for name in ("images", "accuracy")} == {
        name: trained[name] for name in ("images", "accuracy")
    }
    held, taken = (set(build_dataset(chosen, split).manifest.image) for split in ("validation", "train"))
    table = tmp_path / "predictions.csv"
    evaluate(str(out), options, save=str(table))
    scored = {row["image"] for row in csv.DictReader(table.open())}
    assert scored == held and not scored & taken
    assert evaluate(str(out), replace(options, validation_share=0.25))["images"] != figures["images"]
    (tmp_path / "link").symlink_to(tmp_path / "faces")
    for root in (f"{options.root}/", os.path.relpath(options.root), str(tmp_path / "link")):
        evaluate(str(out), replace(options, root=root), save=str(table))
        assert {row["image"] for row in csv.DictReader(table.open())} == held, root
