"""Predictions joined to a manifest: the table read, the join, and ``ferkit manifest join``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ferkit.data import Manifest, join_predictions, read_predictions

CLASSES = ("neutral", "happy", "sad")
FACES = (
    "image,split,label,source_label_true,valence\n"
    "a.png,train,happy,happy,0.5\nsub/b.png,train,sad,happy,0.25\na.png,train,neutral,neutral,\nc.png,val,sad,sad,1\n"
)
PREDICTED = (
    "index,image,split,predicted,p_neutral,p_happy,p_sad,valence,arousal\n"
    "0,a.png,train,Happiness,0.1,0.8,0.1,-1.25,0.125\n2,sub/b.png,train,sad,0,0.4,0.6,,0.5\n"
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    faces, predictions = tmp_path / "faces.csv", tmp_path / "predictions.csv"
    faces.write_text(FACES)
    predictions.write_text(PREDICTED)
    return faces, predictions


def test_a_table_is_read_by_name(files: tuple[Path, Path]) -> None:
    found = read_predictions(files[1], CLASSES)
    assert found.image == ["a.png", "sub/b.png"] and found.label.tolist() == [1, 2] and found.rows == [2, 3]
    assert found.classes == CLASSES and found.probabilities is not None
    np.testing.assert_array_equal(found.probabilities, [[0.1, 0.8, 0.1], [0, 0.4, 0.6]])
    assert found.valence is not None and found.valence[0] == -1.25 and np.isnan(found.valence[1])
    files[1].write_text("image,arousal\na.png,0.5\n")
    bare = read_predictions(files[1], CLASSES)
    assert bare.label.tolist() == [-1] and bare.probabilities is None and bare.valence is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,predicted\n0,happy\n", "row 1: expected the column image .*data without a manifest"),
        ("image,p_happy\na.png,1\n", "row 1: expected the column image and one of predicted"),
        ("image,predicted,predicted\n", "row 1: expected every column once"),
        ("image,predicted\na.png\n", "row 2: expected 2 cells"),
        ("image,predicted\na.png,cat\n", "row 2, column 'predicted': expected one of neutral, happy, sad, got 'cat'"),
        ("image,predicted\n,happy\n", "row 2, column 'image': expected a name"),
        ("image,predicted\na.png,sad\nb.png,sad\na.png,sad\n", r"row 4, column 'image': 'a.png' is there .* row 2"),
        ("image,predicted,valence\na.png,sad,much\n", "row 2, column 'valence': expected a number, got 'much'"),
    ],
)
def test_a_faulty_table_names_file_and_row(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"p.csv: {message}"):
        read_predictions(path, CLASSES)


def test_joined_by_name_and_counted(files: tuple[Path, Path]) -> None:
    manifest = Manifest.read(files[0], classes=CLASSES)
    found = read_predictions(files[1], CLASSES)
    joined = join_predictions(manifest, found, "machine", values=True)
    assert joined.source_labels["machine"].tolist() == [1, 2, 1, -1]  # both rows of an image; none for c.png
    assert joined.notes["without prediction"] == 1
    assert joined.valence is not None and joined.arousal is not None
    np.testing.assert_array_equal(
        joined.valence, [-1, np.nan, -1, 1]
    )  # clipped, missing, clipped, kept: of another split
    np.testing.assert_array_equal(joined.arousal, [0.125, 0.5, 0.125, np.nan])
    assert joined.label.tolist() == manifest.label.tolist() and list(joined.source_labels) == ["true", "machine"]
    label_only = join_predictions(manifest, found, "source_label_machine")
    np.testing.assert_array_equal(label_only.valence, manifest.valence)
    assert label_only.arousal is None and "machine" in label_only.source_labels
    values_only = join_predictions(manifest, found, values=True)
    assert list(values_only.source_labels) == ["true"]


def test_the_end_of_a_name_is_enough_where_it_is_one_image_s(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    manifest = Manifest(["x/1.png", "x/2.png", "y/2.png", "2.png"], ["train"] * 4, [0] * 4, CLASSES)

    def joined(*names: str) -> list[int]:
        path.write_text("\n".join(["image,predicted", *(f"{name},sad" for name in names)]) + "\n")
        return join_predictions(manifest, read_predictions(path, CLASSES), "m").source_labels["m"].tolist()

    assert joined("1.png", "../faces/y/2.png") == [2, -1, 2, -1]
    assert joined("2.png") == [-1, -1, -1, 2]  # the whole name goes before ends
    with pytest.raises(ValueError, match=r"row 3, column 'image': '1\.png' is the image of row 2 already"):
        joined("x/1.png", "1.png")
    with pytest.raises(ValueError, match=r"row 2, column 'image': expected an image of manifest, got 'z/1\.png'"):
        joined("z/1.png")
    manifest = manifest.filter([0, 1, 2])
    with pytest.raises(ValueError, match=r"row 2, column 'image': '2\.png' is the end of several"):
        joined("2.png")


def test_what_cannot_be_joined_is_told(files: tuple[Path, Path]) -> None:
    manifest = Manifest.read(files[0], classes=CLASSES)
    found = read_predictions(files[1], CLASSES)
    with pytest.raises(ValueError, match="got neither"):
        join_predictions(manifest, found)
    for name in ("true", "label", "source_label_majority"):
        with pytest.raises(ValueError, match=f"name: expected none of true, label, majority, .*, got '{name}'"):
            join_predictions(manifest, found, name)
    joined = join_predictions(manifest, found, "machine")
    with pytest.raises(ValueError, match="name: expected none of true, machine, got 'machine'"):
        join_predictions(joined, found, "machine")
    with pytest.raises(ValueError, match=r"predictions.csv: row 3, column 'image': .* got 'sub/b.png'"):
        join_predictions(manifest.filter([0]), found, "machine")
    files[1].write_text("image,predicted\na.png,sad\n")
    with pytest.raises(ValueError, match=r"values: expected the columns valence or arousal in .*predictions\.csv"):
        join_predictions(manifest, read_predictions(files[1], CLASSES), values=True)
    files[1].write_text("image,valence\na.png,0.5\n")
    with pytest.raises(ValueError, match=r"name: expected predicted classes in .*predictions\.csv"):
        join_predictions(manifest, read_predictions(files[1], CLASSES), "machine")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("lightning")
    from ferkit.cli import main

    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


def test_the_command_writes_a_manifest_that_trains(files: tuple[Path, Path], command) -> None:
    faces, predictions = files
    out = faces.parent / "faces2.csv"
    given = ["--manifest", faces, "--predictions", predictions, "--out", out]
    code, printed, _ = command("manifest", "join", *given, "--name", "machine", "--values", "true")
    assert code == 0
    figures = dict(line.split() for line in printed.splitlines())
    assert figures == {"rows": "4", "predicted": "3", "without_prediction": "1", "agreement": "0.6667"}
    written = Manifest.read(out)
    assert written.source_labels["machine"].tolist() == [1, 2, 1, -1] and written.root == faces.parent
    assert np.array_equal(written.valence, [-1, np.nan, -1, 1], equal_nan=True)


def test_the_command_s_errors_are_one_line_and_leave_no_file(files: tuple[Path, Path], command) -> None:
    faces, predictions = files
    out = faces.parent / "faces2.csv"
    predictions.write_text("image,predicted\nd.png,sad\n")
    given = ["--manifest", faces, "--predictions", predictions, "--out", out, "--name", "machine"]
    code, _, error = command("manifest", "join", *given)
    assert code == 2 and "row 2, column 'image'" in error and "'d.png'" in error and len(error.splitlines()) == 1
    assert not out.exists()
    for name, place in (("manifest", given[1]), ("predictions", given[3])):
        words = [f"{place}.csv" if word is place else word for word in given]
        code, _, error = command("manifest", "join", *words)
        assert code == 2 and f"error: {name}: no such" in error
    code, _, error = command("manifest", "write", "--data", "manifest", "--root", faces, "--labels", "x", "--out", out)
    assert code == 2 and "error: labels: expected 'label' or one of ['true'], got 'x'" in error
    for place, message in (("none/a.csv", "expected a file in an existing folder"), ("a.txt", "expected a .csv or")):
        code, _, error = command("manifest", "join", *given[:-3], out.parent / place, "--name", "machine")
        assert code == 2 and f"out: {message}" in error, "before the predictions are read"


def test_other_classes_are_given(tmp_path: Path, command) -> None:
    (tmp_path / "m.csv").write_text("image,split,label\na.png,train,cat\n")
    (tmp_path / "p.csv").write_text("image,predicted\na.png,dog\n")
    given = ["--manifest", tmp_path / "m.csv", "--predictions", tmp_path / "p.csv", "--out", tmp_path / "o.csv"]
    code, _, error = command("manifest", "join", *given, "--name", "machine", "--classes", '["cat", "dog"]')
    assert code == 0, error
    assert Manifest.read(tmp_path / "o.csv", classes=("cat", "dog")).source_labels["machine"].tolist() == [1]


def two_folders(root: Path) -> Path:
    """A folder of classes with a test part: 8 and 2 faces, of which a run holds out 2."""
    image = pytest.importorskip("PIL.Image")
    for split, count in (("train", 4), ("test", 1)):
        for position, name in enumerate(("happy", "sad")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image.new("RGB", (8, 8), (50 * i, 100 * position, 0)).save(root / split / name / f"{i}.png")
    return root


def test_the_manifest_of_a_data_set_is_what_a_run_has(tmp_path: Path, command) -> None:
    from ferkit.tasks import DataOptions
    from ferkit.tasks.data import build_dataset

    root, out = two_folders(tmp_path / "faces"), tmp_path / "faces.csv"
    words = ["manifest", "write", "--data", "folder", "--root", root, "--validation-share", 0.25, "--progress", "false"]
    code, printed, error = command(*words, "--classes", "[happy, sad]", "--out", out)
    assert code == 0, error
    assert dict(line.split() for line in printed.splitlines()) == {
        "rows": "10",
        "train": "6",
        "valid": "2",
        "test": "2",
    }
    given = DataOptions("folder", str(root), size=8, validation_share=0.25, classes=["happy", "sad"])
    for split in ("train", "validation", "test"):
        wanted = build_dataset(given, split)
        data = build_dataset(DataOptions("manifest", str(out), size=8, classes=list(wanted.classes)), split)
        assert data.labels.tolist() == wanted.labels.tolist() and len(data) == len(wanted)
        assert all(bool((data[i]["image"] == wanted[i]["image"]).all()) for i in range(len(data)))


def test_training_rows_have_the_labels_learned_from_the_others_those_scored_by(tmp_path: Path, command) -> None:
    lines = ["image,split,clean_label,random_label1,random_label2"]
    lines += [f"{i}.png,train,{('cat', 'dog')[i % 2]},{('dog', 'cat')[i % 2]},cat" for i in range(8)]
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "t.png,test,dog,,"]) + "\n")
    out = tmp_path / "new" / "cifar.parquet"
    out.parent.mkdir()
    code, _, error = command("manifest", "write", "--data", "cifar10n", "--root", tmp_path, "--out", out)
    assert code == 0, error
    rows = Manifest.read(out)
    assert rows.splits == ("train", "valid", "test") and rows.classes[3] == "cat"
    truth = rows.source_labels["true"]
    train = rows.split == "train"
    assert (rows.label[~train] == truth[~train]).all() and (rows.label[train] != truth[train]).all()
    assert rows.source_labels["random_label2"].tolist() == [3] * 8 + [-1]
    assert rows.paths()[0].resolve().parent == tmp_path and rows.image[0].startswith("..")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "synthetic"}, "data: expected images in files, got 'synthetic'"),
        ({"data": "cifar10", "root": "x"}, "data: expected images in files, got 'cifar10'"),
        ({"data": "cifar10n", "root": "x"}, "data: expected images in files, got 'cifar10n'"),
        ({"data": "folder", "root": "x", "folds": 2, "fold": 0}, "folds: expected none"),
        ({"data": "folder", "root": "x", "noise": 0.5}, "noise: expected none"),
    ],
)
def test_what_is_no_manifest_of_files_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    pytest.importorskip("lightning")
    from ferkit.tasks import DataOptions, write_manifest

    with pytest.raises(ValueError, match=message):
        write_manifest(DataOptions(**options), str(tmp_path / "out.csv"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"out: expected a \.csv or \.parquet file"):
        write_manifest(DataOptions("folder", "x"), str(tmp_path / "out.txt"))
    with pytest.raises(ValueError, match="out: expected a file in an existing folder"):
        write_manifest(DataOptions("folder", "x"), str(tmp_path / "none" / "out.csv"))
    assert not list(tmp_path.iterdir())


def test_sets_of_the_training_labels_alone(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from ferkit.tasks.manifest import _together

    one = Manifest(["a"], ["train"], [1], CLASSES, votes=[[1, 0, 0]], source_labels={"true": np.array([0])})
    joined = _together([one, Manifest(["b"], ["valid"], [2], CLASSES)])
    assert joined.source_labels["true"].tolist() == [0, -1] and joined.votes is None and joined.label.tolist() == [1, 2]
