"""AffectNet in the three layouts it is found in, with what their files hold in store."""

from __future__ import annotations

import numpy as np
import pytest

from ferkit.data import FaceDataset, affectnet
from ferkit.data.readers.affectnet_npy import load_array

NAN = float("nan")
HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
POINTS = np.arange(136) + 0.5


def csv_row(path, expression, valence, arousal, points=POINTS):
    return f"{path},10,11,120,121,{';'.join(f'{v}' for v in points)},{expression},{valence},{arousal}"


@pytest.fixture
def old(tmp_path):
    """The layout of the file lists; ``write`` puts rows into one of them."""

    def write(rows, file="training.csv", header=HEADER, end="\n"):
        lists = tmp_path / "Manually_Annotated_file_lists"
        lists.mkdir(exist_ok=True)
        (tmp_path / "Manually_Annotated_Images").mkdir(exist_ok=True)
        (lists / file).write_bytes(end.join([*([header] * bool(header)), *rows]).encode())
        return tmp_path

    return write


def rows_of_every_kind():
    return [
        csv_row("689/a.jpg", 1, 0.785714, -0.055556),
        csv_row("689/b.jpg", 8, -2, -2),
        csv_row("25/c.JPG", 0, -2, -2),  # an emotion without valence and arousal
        csv_row("25/d.jpg", 9, -2, -2),
        csv_row("25/e.jpg", 10, -2, -2, points=()),
        csv_row("30/f.png", 7, -0.5, 0.5),
        csv_row("30/g.jpg", 8, 0.3, 0.3),  # left out though its valence is known
        csv_row("31/h.jpg", 6, -1, 1.0000001, points=POINTS * 2),
    ]


def test_csv(old):
    root = old(rows_of_every_kind())
    old([csv_row("1/v.jpg", 4, 0.1, 0.2)], "validation.csv", header="", end="\r\n")  # headerless copy
    manifest = affectnet(root)
    folder = "Manually_Annotated_Images/"
    assert manifest.image.tolist() == [folder + n for n in ("689/a.jpg", "25/c.JPG", "30/f.png", "31/h.jpg", "1/v.jpg")]
    assert manifest.split.tolist() == ["train"] * 4 + ["valid"]
    assert manifest.label.tolist() == [1, 0, 7, 6, 4] and manifest.classes[7] == "contempt"
    assert manifest.rows.tolist() == [2, 4, 7, 9, 1]
    np.testing.assert_array_equal(manifest.valence, [0.785714, NAN, -0.5, -1, 0.1])
    np.testing.assert_array_equal(manifest.arousal, [-0.055556, NAN, 0.5, 1, 0.2])
    assert manifest.landmarks.shape == (5, 68, 2)
    np.testing.assert_array_equal(manifest.landmarks[0, 1], [2.5, 3.5])  # x1, y1
    np.testing.assert_array_equal(manifest.landmarks[3, 67], [269, 271])
    assert {k: v for k, v in manifest.notes.items() if v} == {
        "faces of expression 8 (none)": 2,
        "faces of expression 9 (uncertain)": 1,
        "faces of expression 10 (no face)": 1,
        "arousal outside [-1, 1] (clipped)": 1,
        "faces without valence or arousal (kept)": 1,
    }


def test_seven_classes(old):
    manifest = affectnet(old(rows_of_every_kind()), classes=7)
    assert manifest.label.tolist() == [1, 0, 6] and len(manifest.classes) == 7
    np.testing.assert_array_equal(manifest.valence, [0.785714, NAN, -1])  # of the same rows as the labels
    np.testing.assert_array_equal(manifest.landmarks[2, 67], [269, 271])
    assert manifest.notes["faces of expression 7 (contempt)"] == 1


def test_columns_are_taken_by_name_and_landmarks_may_lack(old):
    rows = ["0.1,3,a\\b.jpg,-0.2", "0.3,4.0,c/d.jpg,"]
    manifest = affectnet(old(rows, header="\ufeffarousal, Expression ,subDirectory_filePath,valence"), layout="csv")
    assert manifest.label.tolist() == [3, 4] and manifest.landmarks is None
    assert manifest.image[0] == "Manually_Annotated_Images/a/b.jpg"
    np.testing.assert_array_equal(manifest.valence, [-0.2, NAN])
    np.testing.assert_array_equal(manifest.arousal, [0.1, 0.3])


def test_unusable_landmarks_cost_no_face(old):
    rows = [csv_row("1/a.jpg", 1, 0, 0, points=points) for points in (POINTS, POINTS[:-1], (), ["x"] * 136)]
    manifest = affectnet(old(rows))
    assert np.isnan(manifest.landmarks).any(axis=(1, 2)).tolist() == [False]  # one picture, listed four times
    rows = [row.replace("1/a", f"1/{i}") for i, row in enumerate(rows)]
    manifest = affectnet(old(rows))
    assert np.isnan(manifest.landmarks).all(axis=(1, 2)).tolist() == [False, True, True, True]
    assert manifest.notes["faces without landmarks (kept)"] == 3
    assert affectnet(old(rows), landmarks=False).landmarks is None


def test_images_listed_twice(old):
    rows = [("a", 1, 0.5), ("b", 2, -0.5), ("a", 1, 0.5), ("b", 2, -0.4), ("c", 3, -2), ("c", 3, -2)]
    manifest = affectnet(old([csv_row(f"1/{name}.jpg", label, v, v) for name, label, v in rows]))
    assert [name[-5:] for name in manifest.image] == ["a.jpg", "c.jpg"]
    assert manifest.notes["rows of images listed twice that agree (left out)"] == 2
    assert manifest.notes["images listed twice whose rows differ (left out)"] == 1


@pytest.mark.parametrize("inside", ["Manually_Annotated", "."])
def test_folders_of_the_archive(old, inside):
    base = old(rows_of_every_kind())
    outer = base / "Manually_Annotated"
    outer.mkdir()
    for name in ("Manually_Annotated_file_lists", "Manually_Annotated_Images"):
        (base / name).rename(outer / name)
    root = base if inside == "Manually_Annotated" else outer / "Manually_Annotated_file_lists"
    manifest = affectnet(root)
    assert manifest.paths()[0].resolve() == outer / "Manually_Annotated_Images/689/a.jpg"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (csv_row("1/a.jpg", 11, 0, 0), r"row 3, column 'expression': expected 0\.\.10 .*, got '11'"),
        (csv_row("1/a.jpg", "", 0, 0), r"row 3, column 'expression': expected 0\.\.10 .*, got ''"),
        (csv_row("1/a.jpg", 1.5, 0, 0), "row 3, column 'expression': .*, got '1.5'"),
        (csv_row("1/a.jpg", 1, "x", 0), "row 3, column 'valence': expected a number, got 'x'"),
        (csv_row("1/a.jpg", 1, 0, 120), r"row 3, column 'arousal': expected a value in \[-1, 1\] or -2 .*, got 120"),
        (csv_row("", 1, 0, 0), "row 3, column 'subDirectory_filePath': expected a path, got ''"),
        ("1/a.jpg,1,0", "row 3: expected 9 cells, got 3"),
    ],
)
def test_wrong_rows(old, row, message):
    with pytest.raises(ValueError, match=rf"training\.csv: {message}"):
        affectnet(old([csv_row("1/b.jpg", 1, 0, 0), row]))


def test_wrong_files(old, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"root: .*file_lists/training\.csv.*val_set/annotations.*_8class\.txt"):
        affectnet(tmp_path)
    with pytest.raises(ValueError, match=r"row 1: expected the columns .* missing .*'expression'"):
        affectnet(old(["a,0,0"], header="subDirectory_filePath,valence,arousal"))
    with pytest.raises(ValueError, match=r"training\.csv: expected the columns .*, got an empty file"):
        affectnet(old([], header=""))
    (tmp_path / "Manually_Annotated_Images").rmdir()
    with pytest.raises(FileNotFoundError, match=r"root: expected the images' folder in .*Manually_Annotated_Images"):
        affectnet(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"looked for train_set/annotations, val_set/annotations$"):
        affectnet(tmp_path, layout="npy")
    for wrong in ({"layout": "zip"}, {"classes": 6}, {"on_error": "ignore"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
            affectnet(tmp_path, **wrong)


FACES = {  # split folder -> id -> exp, val, aro
    "train_set": {"0": (1, 0.5, 0.25), "2": (7, -0.5, 0.5), "10": (0, -2, -2), "x1": (6, -0.75, 1)},
    "val_set": {"0": (3, 0.125, 0.75), "5": (2, -1, -1)},
}


def npy(root, faces=FACES, convert=np.array, points=True):
    for folder, ids in faces.items():
        for name in ("images", "annotations"):
            (root / folder / name).mkdir(parents=True)
        (root / folder / "images/.DS_Store").touch()
        (root / folder / "annotations/Thumbs.db").touch()
        for name, values in ids.items():
            (root / folder / "images" / f"{name}.jpg").touch()
            for kind, value in zip(("exp", "val", "aro"), values):
                np.save(root / folder / "annotations" / f"{name}_{kind}.npy", convert(value))
            if points:
                np.save(root / folder / "annotations" / f"{name}_lnd.npy", convert(POINTS + len(name)))
    return root


CONVERSIONS = {
    "numbers, 0-d": np.array,
    "numbers, one element": np.atleast_1d,
    "text, 0-d": lambda value: np.array(value).astype(str),
    "text, one element": lambda value: np.atleast_1d(value).astype(str),
    "bytes": lambda value: np.array(value).astype(bytes),
    "two axes": lambda value: np.asarray(value).reshape((1, 1) if np.ndim(value) == 0 else (68, 2)),
    "Fortran order": lambda value: (
        np.asarray(value) if np.ndim(value) == 0 else np.asfortranarray(value.reshape(68, 2))
    ),
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_npy(tmp_path, kind):
    manifest = affectnet(npy(tmp_path, convert=CONVERSIONS[kind]))
    names = ["train_set/images/0", "train_set/images/2", "train_set/images/10", "train_set/images/x1"]
    names += ["val_set/images/0", "val_set/images/5"]
    assert manifest.image.tolist() == [f"{name}.jpg" for name in names]
    assert manifest.split.tolist() == ["train"] * 4 + ["valid"] * 2
    assert manifest.label.tolist() == [1, 7, 0, 6, 3, 2]
    np.testing.assert_array_equal(manifest.valence, [0.5, -0.5, NAN, -0.75, 0.125, -1])
    np.testing.assert_array_equal(manifest.arousal, [0.25, 0.5, NAN, 1, 0.75, -1])
    np.testing.assert_array_equal(manifest.landmarks[0], (POINTS + 1).reshape(68, 2))
    np.testing.assert_array_equal(manifest.landmarks[2], (POINTS + 2).reshape(68, 2))


def test_npy_seven_classes_without_landmarks(tmp_path):
    npy(tmp_path, points=False)
    manifest = affectnet(tmp_path, classes=7)
    assert manifest.label.tolist() == [1, 0, 6, 3, 2] and manifest.landmarks is None
    np.testing.assert_array_equal(manifest.valence, [0.5, NAN, -0.75, 0.125, -1])
    assert manifest.notes["faces of expression 7 (contempt)"] == 1


def test_npy_more_faces_than_a_block(tmp_path):
    """Faces keep their order and their own values across the threads' blocks."""
    faces = {"val_set": {str(i): (i % 7, (i % 200) / 200, -(i % 100) / 100) for i in range(1100)}}
    manifest = affectnet(npy(tmp_path, faces))
    assert manifest.image.tolist() == [f"val_set/images/{i}.jpg" for i in range(1100)]
    assert manifest.label.tolist() == [i % 7 for i in range(1100)]
    np.testing.assert_array_equal(manifest.valence, [(i % 200) / 200 for i in range(1100)])
    np.testing.assert_array_equal(manifest.landmarks[:, 0, 0], [0.5 + len(str(i)) for i in range(1100)])
    for name in ("_exp", "_val", "_aro"):
        (tmp_path / f"val_set/annotations/777{name}.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*777_exp\.npy \(1 images"):
        affectnet(tmp_path)


@pytest.mark.parametrize("kind", ["exp", "val", "aro", "lnd"])
def test_npy_missing_file(tmp_path, kind):
    npy(tmp_path)
    (tmp_path / f"train_set/annotations/10_{kind}.npy").unlink()
    with pytest.raises(FileNotFoundError, match=rf"annotations.10_{kind}\.npy \(1 images without all annotations"):
        affectnet(tmp_path)
    manifest = affectnet(tmp_path, on_error="skip")
    assert manifest.label.tolist() == [1, 7, 6, 3, 2] and manifest.notes["images without all annotations"] == 1
    assert len(affectnet(tmp_path, landmarks=False, on_error="skip")) == (6 if kind == "lnd" else 5)


def test_npy_annotation_without_an_image(tmp_path):
    npy(tmp_path)
    (tmp_path / "val_set/images/5.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*5\.jpg \(1 annotations without an image"):
        affectnet(tmp_path)
    assert affectnet(tmp_path, on_error="skip").label.tolist() == [1, 7, 0, 6, 3]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("exp", np.array("happy"), r"expected 0\.\.10 .*, got 'happy'"),
        ("exp", np.array([1, 2]), "expected one value, got 2"),
        ("val", np.array("x"), "expected a number, got 'x'"),
        ("aro", np.array(-5.0), r"expected a value in \[-1, 1\] or -2 \(unknown\), got -5.0"),
        ("lnd", np.zeros(10), "expected 136 numbers, got 10"),
        ("lnd", np.array(["x"] * 136), "could not convert"),
        ("val", np.array({"pickled": 1}, dtype=object), "no readable array: Object arrays cannot be loaded"),
    ],
)
def test_npy_wrong_content(tmp_path, kind, value, message):
    npy(tmp_path)
    np.save(tmp_path / f"val_set/annotations/5_{kind}.npy", value, allow_pickle=True)
    with pytest.raises(ValueError, match=rf"annotations.5_{kind}\.npy: {message}"):
        affectnet(tmp_path)
    manifest = affectnet(tmp_path, on_error="skip")
    assert manifest.label.tolist() == [1, 7, 0, 6, 3] and manifest.notes["faces with an unreadable annotation"] == 1


@pytest.mark.parametrize("size", [0, 5, 60, 129])
def test_npy_cut_off(tmp_path, size):
    npy(tmp_path)
    path = tmp_path / "val_set/annotations/5_val.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"5_val\.npy: "):
        affectnet(tmp_path)


def test_two_images_of_one_id(tmp_path):
    npy(tmp_path)
    (tmp_path / "val_set/images/5.png").touch()
    with pytest.raises(ValueError, match=r"images: '5\..*' and '5\..*' share their annotations"):
        affectnet(tmp_path)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("value", [np.array(3), np.array(["0.25"]), np.arange(6.0).reshape(2, 3).T, np.zeros(0)])
def test_load_array_equals_numpy(tmp_path, version, value):
    path = tmp_path / "a.npy"
    with open(path, "wb") as handle:
        np.lib.format.write_array(handle, value, version)
    for _ in range(2):  # the second time the header is known
        loaded = load_array(str(path))
        np.testing.assert_array_equal(loaded, np.load(path).reshape(-1))
        assert loaded.dtype == value.dtype


@pytest.fixture
def poster(tmp_path):
    for split, text in {"train": "0.jpg 1\r\nimages/1.jpg 7 \n2.jpg 0", "valid": "0.jpg 2\n"}.items():
        (tmp_path / f"{split}_set" / "images").mkdir(parents=True)
        (tmp_path / f"{split}_set" / f"{split}_annotations_8class.txt").write_bytes(text.encode())
    return tmp_path


def test_list(poster):
    manifest = affectnet(poster)
    names = ["train_set/images/0.jpg", "train_set/images/1.jpg", "train_set/images/2.jpg", "valid_set/images/0.jpg"]
    assert manifest.image.tolist() == names
    assert manifest.label.tolist() == [1, 7, 0, 2] and manifest.split.tolist() == ["train"] * 3 + ["valid"]
    assert manifest.valence is None and manifest.landmarks is None
    assert affectnet(poster, classes=7).label.tolist() == [1, 0, 2]
    (poster / "train_set/train_annotations_8class.txt").write_text("0.jpg happy\n")
    with pytest.raises(ValueError, match=r"train_annotations_8class\.txt: row 1: expected 0\.\.10"):
        affectnet(poster)


def test_images_are_found(poster):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (224, 224), 70).save(poster / "valid_set/images/0.jpg")
    data = FaceDataset(affectnet(poster).select("valid"), size=32)
    assert data[0]["image"].shape == (3, 32, 32) and data[0]["label"] == 2


def test_layouts_are_told_apart(tmp_path, poster):
    """The folder train_set is in two of the layouts."""
    for folder in ("train_set", "valid_set"):
        (poster / folder / "annotations").mkdir()
    assert affectnet(poster, layout="list").label.tolist() == [1, 7, 0, 2]


def test_lists_are_joined_by_the_end_of_the_path(poster):
    (poster / "machine.txt").write_text(
        "valid_set/images/0.jpg contempt\n/data/train_set/images/2.jpg 3\n1.jpg 8\ntrain_set\\images\\0.jpg 4"
    )
    (poster / "va.txt").write_text("valid_set/images/0.jpg -2 0.5\n")
    manifest = affectnet(poster, machine_labels={"model": poster / "machine.txt"}, affect=poster / "va.txt")
    assert manifest.source_labels["model"].tolist() == [4, -1, 3, 7]
    assert manifest.source_labels["true"].tolist() == [1, 7, 0, 2]
    np.testing.assert_array_equal(manifest.arousal, [NAN, NAN, NAN, 0.5])
    assert np.isnan(manifest.valence).all()
    # A line for a face that was left out is no error, and its class, where it is none of seven, unknown.
    manifest = affectnet(poster, classes=7, machine_labels=poster / "machine.txt")
    assert manifest.source_labels["machine"].tolist() == [4, 3, -1]


def test_lists_that_do_not_fit(poster):
    path = poster / "machine.txt"
    path.write_text("2.jpg 1\n0.jpg 1\n")
    with pytest.raises(ValueError, match=r"machine\.txt: row 2: '0\.jpg' is the name of several images"):
        affectnet(poster, machine_labels=path)
    path.write_text("2.jpg 1\n9.jpg 1\n")
    with pytest.raises(ValueError, match=r"machine\.txt: row 2: '9\.jpg' is no image of"):
        affectnet(poster, machine_labels=path)
    manifest = affectnet(poster, machine_labels=path, on_error="skip")
    assert manifest.source_labels["machine"].tolist() == [-1, -1, 1, -1]
    assert manifest.notes["machine.txt: names of no image"] == 1
    assert manifest.notes["machine.txt: images without a line"] == 2
    path.write_text("2.jpg 1\n1.jpg 1\n")
    with pytest.raises(ValueError, match=r"a line for 'train_set/images/0\.jpg' \(row 1 of .*\), got none"):
        affectnet(poster, machine_labels=path)
    assert (
        affectnet(poster, classes=7, machine_labels=path, on_error="skip").notes["machine.txt: names of no image"] == 0
    )


def test_list_takes_the_place_of_the_annotated_affect(old):
    root = old(rows_of_every_kind())
    names = ["a.jpg", "b.jpg", "c.JPG", "f.png", "h.jpg"]
    (root / "va.txt").write_text("".join(f"{name} {i / 10} 1.2\n" for i, name in enumerate(names)))
    manifest = affectnet(root, affect=root / "va.txt")
    np.testing.assert_allclose(manifest.valence, [0, 0.2, 0.3, 0.4])  # b.jpg is no emotion
    np.testing.assert_array_equal(manifest.arousal, [1, 1, 1, 1])
    assert manifest.notes["va.txt: arousal outside [-1, 1] (clipped)"] == 5


def test_progress(tmp_path, capsys):
    affectnet(npy(tmp_path), progress=True)
    shown = capsys.readouterr().err
    assert "Reading train_set/annotations 4/4" in shown and "Reading val_set/annotations 2/2" in shown


def test_progress_of_a_csv(old, capsys):
    affectnet(old(rows_of_every_kind()), progress=True)
    assert "Reading training.csv 9/9" in capsys.readouterr().err
