from __future__ import annotations

import builtins
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.data import EMOTIONS, Manifest

FORMATS = [".csv", ".parquet"]


def full(n=5, classes=EMOTIONS, root=".", seed=0):
    rng = np.random.default_rng(seed)
    valence = rng.normal(size=n)
    valence[0] = np.nan
    label = rng.integers(-1, len(classes), n)
    label[-1] = len(classes) - 1
    return Manifest(
        image=[f"faces/ä, {i}.png" for i in range(n)],
        split=rng.choice(["train", "valid", "test"], n),
        label=label,
        classes=classes,
        root=root,
        valence=valence,
        arousal=rng.normal(size=n),
        votes=np.append(rng.integers(0, 10, (n - 1, len(classes))), [[0.1] * len(classes)], axis=0) + 0.0,
        action_units={"01": rng.uniform(0, 5, n), "12_r": rng.uniform(0, 5, n)},
        landmarks=rng.uniform(0, 48, (n, 3, 2)),
        source_labels={"true": rng.integers(-1, len(classes), n)},
    )


def same(a, b):
    assert a.image.tolist() == b.image.tolist() and a.split.tolist() == b.split.tolist() and a.classes == b.classes
    for name in ("label", "valence", "arousal", "votes", "landmarks"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("action_units", "source_labels"):
        left, right = getattr(a, name), getattr(b, name)
        assert list(left) == list(right)
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])


@pytest.mark.parametrize("suffix", FORMATS)
def test_round_trip(tmp_path, suffix):
    manifest = full(root=tmp_path)
    path = tmp_path / f"m{suffix}"
    manifest.write(path)
    again = Manifest.read(path)
    same(manifest, again)
    assert again.root == tmp_path and again.rows.tolist() == [2, 3, 4, 5, 6]
    assert os.listdir(tmp_path) == [path.name]  # no temporary file


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 9), st.sampled_from(FORMATS))
def test_round_trip_of_random_tables(tmp_path_factory, n, seed, suffix):
    folder = tmp_path_factory.mktemp("m")
    manifest = full(n, ("cat", "angry dog", "7"), folder, seed)
    manifest.write(folder / f"m{suffix}")
    same(manifest, Manifest.read(folder / f"m{suffix}", classes=("cat", "angry dog", "7")))


def test_parquet_keeps_the_classes_and_csv_needs_them(tmp_path):
    manifest = full(classes=("cat", "dog"), root=tmp_path)
    manifest.write(tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet").classes == ("cat", "dog")
    manifest.write(tmp_path / "m.csv")
    with pytest.raises(ValueError, match=r"m.csv: row .*classes="):
        Manifest.read(tmp_path / "m.csv")


def test_many_blocks(tmp_path):
    n = 20_001  # more than two blocks of the reader
    labels = np.arange(n) % 7
    manifest = Manifest(
        [f"{i}.png" for i in range(n)], ["train"] * n, labels, EMOTIONS[:7], tmp_path, valence=labels / 7
    )
    manifest.write(tmp_path / "m.csv")
    again = Manifest.read(tmp_path / "m.csv")
    assert again.image.tolist() == manifest.image.tolist()
    np.testing.assert_array_equal(again.valence, manifest.valence)
    np.testing.assert_array_equal(again.label, labels)


@pytest.mark.parametrize("suffix", FORMATS)
def test_images_are_found_from_where_the_file_is_written(tmp_path, suffix):
    (tmp_path / "run").mkdir()
    manifest = Manifest(["a.png", "/abs/b.png"], ["train"] * 2, [0, 1], EMOTIONS[:7], tmp_path / "data")
    path = tmp_path / "run" / f"m{suffix}"
    manifest.write(path)
    found = [os.path.normpath(p) for p in Manifest.read(path).paths()]
    assert found == [str(tmp_path / "data" / "a.png"), "/abs/b.png"]
    assert Manifest.read(path, root="/x").root.as_posix() == "/x"


@pytest.mark.parametrize("suffix", FORMATS)
def test_failed_write_keeps_the_old_file(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"m{suffix}"
    full(root=tmp_path).write(path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        full(n=9, root=tmp_path).write(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def read(tmp_path, text, **options):
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    return Manifest.read(path, **options)


def test_names_in_every_spelling(tmp_path):
    text = "image,split,label\na,training,Happiness\nb,val, angry \nc,Test,\nd,Fold 1,SADNESS\n\n"
    manifest = read(tmp_path, "\ufeff" + text)
    assert manifest.label.tolist() == [1, 6, -1, 2]
    assert manifest.classes == EMOTIONS[:7]
    assert manifest.splits == ("train", "valid", "test", "Fold 1")
    assert read(tmp_path, "image,split,label\na,train,contempt\n").classes == EMOTIONS
    assert read(tmp_path, "image,split,label,votes_contempt\na,train,,1\n").classes == EMOTIONS


def test_integers_only_with_classes(tmp_path):
    text = "image,split,label\na,train,1\nb,train,-1\n"
    assert read(tmp_path, text, classes=("cat", "dog")).label.tolist() == [1, -1]
    with pytest.raises(ValueError, match=r"m.csv: row 2, column 'label': expected a class name .* got '1'"):
        read(tmp_path, text)
    with pytest.raises(ValueError, match=r"row 2, column 'label': expected an index in 0..0"):
        read(tmp_path, text, classes=("cat",))
    assert read(tmp_path, text.replace("-1", "2"), classes=("2", "1")).label.tolist() == [1, 0]  # names go first


def test_votes_are_joined_by_name(tmp_path):
    manifest = read(tmp_path, "image,split,label,votes_anger,votes_happiness\na,train,angry,3,1\nb,train,,,2\n")
    assert manifest.votes.tolist() == [[0, 1, 0, 0, 0, 0, 3], [0, 2, 0, 0, 0, 0, 0]]
    shares = manifest.distributions()
    assert shares.dtype == torch.float32 and shares[0].tolist() == [0, 0.25, 0, 0, 0, 0, 0.75]


HEAD = "image,split,label"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"m.csv: row 1: expected the columns image, split, label, missing \['image'"),
        ("image,label\n", r"missing \['split'\]"),
        ("image;split;label\n", r"missing \['image', 'split', 'label'\], got \['image;split;label'\]"),
        (f"{HEAD},label\n", r"more than one \['label'\]"),
        (f"{HEAD}\na,train,sad,3\n", "m.csv: row 2: expected 3 cells as in the header, got 4"),
        (f"{HEAD}\na,train,sad\nb,train\n", "row 3: expected 3 cells"),
        (f"{HEAD}\na,train,sad\nb,train,cat\n", r"row 3, column 'label': expected one of neutral, .* got 'cat'"),
        (f"{HEAD},source_label_x\na,train,sad,cat\n", r"row 2, column 'source_label_x': .* got 'cat'"),
        (f"{HEAD}\n,train,sad\n", "row 2, column 'image': expected a path, got ''"),
        (f"{HEAD}\na,,sad\n", "row 2, column 'split': expected a name, got ''"),
        (f"{HEAD},valence\na,train,sad,\nb,train,sad,x\n", "row 3, column 'valence': expected a number, got 'x'"),
        (f"{HEAD},valence\na,train,sad,inf\n", "row 2, column 'valence': expected a finite number"),
        (f"{HEAD},votes_sad\na,train,sad,-1\n", r"row 2, column 'votes_sad': expected 0 or more votes, got -1\.0$"),
        (f"{HEAD},votes_cat\na,train,sad,1\n", "row 1: expected votes_<class> of .* got 'votes_cat'"),
        (f"{HEAD},votes_sad,votes_sadness\na,train,sad,1,1\n", "'votes_sad' and 'votes_sadness' are one class"),
        (f"{HEAD},lm_x_0,lm_y_1\na,train,sad,1,1\n", "row 1: expected lm_x_<i> and lm_y_<i>"),
        (f'{HEAD}\na,train,"sad\n', r"m.csv: row \d: "),
    ],
)
def test_bad_files_name_file_row_and_column(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_wrong_kinds_of_file(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a .csv or .parquet file"):
        Manifest.read(tmp_path / "m.txt")
    with pytest.raises(ValueError, match=r"path: expected a .csv or .parquet file"):
        full().write(tmp_path / "m.txt")
    with pytest.raises(ValueError, match="existing folder"):
        full().write(tmp_path / "no" / "m.csv")
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        Manifest.read(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_bytes(b"image,split,label\n\xff\xfe,train,sad\n")
    with pytest.raises(ValueError, match="expected UTF-8"):
        Manifest.read(tmp_path / "m.csv")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(ValueError, match="no readable Parquet"):
        Manifest.read(tmp_path / "m.parquet")


def test_parquet_of_another_program(tmp_path):
    """Typed, nullable and dictionary columns."""
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table(
        {
            "image": ["a", "b"],
            "split": pa.array(["train", "val"]).dictionary_encode(),
            "label": pa.array([1.0, None]),
            "valence": pa.array(["0.5", None]),
            "votes_dog": pa.array([3, None], type=pa.int32()),
            "other": [1, 2],
        }
    )
    pa.parquet.write_table(table, tmp_path / "m.parquet")
    with pytest.warns(UserWarning, match=r"ignored: \['other'\]"):
        manifest = Manifest.read(tmp_path / "m.parquet", classes=("cat", "dog"))
    assert manifest.label.tolist() == [1, -1] and manifest.split.tolist() == ["train", "valid"]
    assert manifest.votes.tolist() == [[0, 3], [0, 0]]
    np.testing.assert_array_equal(manifest.valence, [0.5, np.nan])


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    real = builtins.__import__

    def block(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", block)
    with pytest.raises(ImportError, match=r"pip install \"ferkit\[train\]\""):
        full().write(tmp_path / "m.parquet")
    assert os.listdir(tmp_path) == []


def test_select_filter_and_labels():
    manifest = full(30)
    train = manifest.select("training")
    assert set(train.split) == {"train"} and len(train) == (manifest.split == "train").sum()
    picked = manifest.filter(torch.tensor([4, 1]))
    assert picked.image.tolist() == [manifest.image[4], manifest.image[1]]
    assert picked.rows.tolist() == [6, 3]
    np.testing.assert_array_equal(picked.votes, manifest.votes[[4, 1]])
    np.testing.assert_array_equal(picked.landmarks, manifest.landmarks[[4, 1]])
    np.testing.assert_array_equal(picked.action_units["01"], manifest.action_units["01"][[4, 1]])
    assert manifest.labels("true").tolist() == manifest.labels("source_label_true").tolist()
    assert sum(manifest.counts().values()) == (manifest.label >= 0).sum()
    assert len(manifest.filter([])) == 0
    with pytest.raises(ValueError, match="split: expected one of"):
        manifest.select("holdout")
    with pytest.raises(ValueError, match="expected a mask of shape"):
        manifest.filter(np.array([True]))
    with pytest.raises(TypeError, match="rows"):
        manifest.filter(np.array([0.5]))
    with pytest.raises(ValueError, match="column: expected 'label' or one of"):
        manifest.labels("truth")
    assert "30 rows" in repr(manifest)


def test_new_labels_keep_the_old():
    manifest = Manifest(["a", "b"], ["train"] * 2, [0, 1], ("x", "y"))
    noisy = manifest.with_labels(torch.tensor([1, 1]))
    assert noisy.labels().tolist() == [1, 1] and noisy.labels("true").tolist() == [0, 1]
    assert noisy.with_labels([0, 0]).labels("true").tolist() == [0, 1]


def test_arrays_are_read_only_and_apart_from_the_labels_given_out():
    manifest = full()
    with pytest.raises(ValueError, match="read-only"):
        manifest.label[0] = 0
    before = manifest.label.copy()
    manifest.labels()[:] = 0
    np.testing.assert_array_equal(manifest.label, before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label": [0, 9]}, ValueError, r"row 3, column 'label': expected an index in 0..6 .* got 9"),
        ({"label": [0]}, ValueError, "column 'label': expected shape"),
        ({"label": [0.0, 1.0]}, TypeError, "column 'label': expected integers"),
        ({"classes": ("a", "a")}, ValueError, "distinct names"),
        ({"votes": [[1.0] * 7, [np.nan] * 7]}, ValueError, "row 3, column 'votes_neutral'"),
        ({"votes": [[1.0] * 8] * 2}, ValueError, "'votes'"),
        ({"landmarks": np.zeros((2, 5))}, ValueError, "landmarks"),
        ({"source_labels": {"x": [0, 7]}}, ValueError, "source_label_x"),
    ],
)
def test_bad_arrays(change, error, message):
    given = {"image": ["a", "b"], "split": ["train"] * 2, "label": [0, 1], "classes": EMOTIONS[:7], **change}
    with pytest.raises(error, match=message):
        Manifest(**given)


def test_a_row_without_votes_has_no_distribution():
    manifest = Manifest(["a", "b"], ["t"] * 2, [0, 1], ("x", "y"), votes=[[1.0, 1], [0, 0]])
    with pytest.raises(ValueError, match=r"row 3, column 'votes_...': expected at least one vote \(1 row"):
        manifest.distributions()


def test_a_manifest_written_through_a_link_finds_its_images(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "a.png").touch()
    (tmp_path / "deep" / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "a" / "b")
    manifest = Manifest(["a.png"], ["train"], [0], ("x", "y"), root=str(tmp_path / "faces"))
    manifest.write(tmp_path / "link" / "faces.csv")
    assert all(
        Path(path).exists() for path in Manifest.read(tmp_path / "link" / "faces.csv", classes=("x", "y")).paths()
    )
