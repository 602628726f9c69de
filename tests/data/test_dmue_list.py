"""DMUE's list: prefixes, numbers of several digits, the last line, and images in an LMDB or a folder."""

import numpy as np
import pytest

from ferkit.data import FaceDataset, Manifest, dmue_list

LINES = ["train_689/ab12.jpg 0", "train_train_00001_aligned.jpg 4", "train_x_y/a_b.png 3", "test_7/c.jpg 6"]
PATHS = ["689/ab12.jpg", "train_00001_aligned.jpg", "x_y/a_b.png", "7/c.jpg"]
KEYS = [line.split()[0] for line in LINES]
LABELS = [0, 4, 3, 6]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "lb2.txt").write_text("\n".join(LINES))  # no line end after the last
    return tmp_path


@pytest.fixture
def packed(root):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(root / "AffectNet_lmdb"), map_size=1 << 26) as store, store.begin(write=True) as write:
        for number, key in enumerate(KEYS):
            write.put(key.encode(), np.full((256, 256, 3), [10 * number, 200, 90], dtype=np.uint8).tobytes())
    return root


def test_list_with_an_lmdb(packed):
    manifest = dmue_list(packed)
    assert manifest.classes == ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")
    assert manifest.split.tolist() == ["train"] * 3 + ["test"] and manifest.label.tolist() == LABELS
    assert manifest.image.tolist() == KEYS and manifest.root == packed / "AffectNet_lmdb"
    data = FaceDataset(manifest, size=64)
    assert [item["image"].float().mean((1, 2)).tolist() for item in data] == [[10 * i, 200, 90] for i in range(4)]
    same = dmue_list(str(packed / "lb2.txt"), image_root=str(packed / "AffectNet_lmdb"))
    assert same.paths() == manifest.paths()
    manifest.write(packed / "faces.csv")
    again = Manifest.read(packed / "faces.csv")
    assert again.image[1] == "AffectNet_lmdb/train_train_00001_aligned.jpg"
    assert int(FaceDataset(again, size=16)[1]["image"][0, 0, 0]) == 10


def test_list_with_a_folder_of_images(root):
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(PATHS):
        (root / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        image.new("L", (32, 32), 10 * number).save(root / "faces" / name)
    manifest = dmue_list(root, image_root=root / "faces")
    assert manifest.image.tolist() == PATHS and manifest.label.tolist() == LABELS
    assert [round(float(item["image"].float().mean())) for item in FaceDataset(manifest, size=16)] == [0, 10, 20, 30]


@pytest.mark.parametrize("text", ["\r\n".join(LINES), " \n\n".join(LINES) + "\n\n", "\ufeff" + "\t\n".join(LINES)])
def test_line_ends_blanks_and_marks(root, text):
    (root / "lb2.txt").write_bytes(text.encode())
    manifest = dmue_list(root, image_root=root)
    assert manifest.image.tolist() == PATHS and manifest.label.tolist() == LABELS


def test_contempt_makes_eight_classes(root):
    (root / "lb2.txt").write_text("\n".join([*LINES, "val_d.jpg 7", "test_d.jpg happiness"]))
    manifest = dmue_list(root, image_root=root)
    assert manifest.classes[7] == "contempt" and manifest.label.tolist() == [*LABELS, 7, 1]
    assert manifest.split[4] == "valid"


def test_numbers_of_several_digits(root):
    names = [f"kind{i}" for i in range(120)]
    (root / "lb2.txt").write_text("train_a.jpg 10\ntrain_b.jpg 1\ntest_c.jpg kind3\ntest_d.jpg 119")
    manifest = dmue_list(root, image_root=root, label_order=names)
    assert manifest.classes == tuple(names) and manifest.label.tolist() == [10, 1, 3, 119]


def test_another_order_of_emotions(root):
    raf = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
    manifest = dmue_list(root, image_root=root, label_order=raf)
    assert manifest.classes == ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")
    assert [manifest.classes[label] for label in manifest.label] == ["surprise", "sad", "happy", "neutral"]
    few = dmue_list(root, image_root=root, label_order=["sad", "contempt", "cat", "happy", "anger", "fear", "dog"])
    assert few.classes == ("sad", "contempt", "cat", "happy", "anger", "fear", "dog") and few.label.tolist() == LABELS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_b.jpg 8", r"row 2: expected one of 0 \(neutral\), .*7 \(contempt\), .*, got '8'"),
        ("train_b.jpg 12", "row 2: expected one of .*, got '12'"),
        ("train_b.jpg -1", "row 2: expected one of .*, got '-1'"),
        ("train_b.jpg", "row 2: expected 'name label', got 'train_b.jpg'"),
        ("train_b c.jpg 1", "row 2: expected 'name label', got 'train_b c.jpg 1'"),
        ("dev_b.jpg 1", "row 2: expected 'train_<image>' or 'test_<image>', got 'dev_b.jpg'"),
        ("b.jpg 1", "row 2: expected 'train_<image>' or 'test_<image>', got 'b.jpg'"),
        ("train_ 1", "row 2: expected 'train_<image>' or 'test_<image>', got 'train_'"),
        ("train_a//b.jpg 1", "row 2: expected a path without .*, got 'train_a//b.jpg'"),
        ("train_a/../b.jpg 1", "row 2: expected a path without .*, got 'train_a/../b.jpg'"),
        ("train_a.jpg 1", "row 2: 'train_a.jpg' is in row 1 already"),
    ],
)
def test_wrong_lines(root, line, message):
    (root / "lb2.txt").write_text(f"train_a.jpg 1\n{line}\ntest_a.jpg 1")
    with pytest.raises(ValueError, match=rf"lb2\.txt: {message}"):
        dmue_list(root, image_root=root)


def test_wrong_arguments(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"root: no such file: .*nowhere"):
        dmue_list(root / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"image_root: expected one LMDB .* beside the list in .*, got none; give"
    ):
        dmue_list(root)
    with pytest.raises(FileNotFoundError, match=r"image_root: expected an LMDB or a folder of images, got '.*nowhere'"):
        dmue_list(root, image_root=root / "nowhere")
    for name in ("a", "b"):
        (root / name).mkdir()
        (root / name / "data.mdb").touch()
    with pytest.raises(FileNotFoundError, match=r"image_root: expected one LMDB .*, got .*/a, .*/b; give"):
        dmue_list(root)
    with pytest.raises(ValueError, match="label_order: expected each name once, got happy, Happiness"):
        dmue_list(root, root, ["happy", "Happiness"])
    with pytest.raises(ValueError, match="label_order: expected each name once, got none"):
        dmue_list(root, root, [])
    with pytest.raises(TypeError, match="label_order: expected a list of names, got 'happy'"):
        dmue_list(root, root, "happy")
    (root / "lb2.txt").write_text("")
    with pytest.raises(ValueError, match=r"lb2\.txt: expected lines 'name label', got none"):
        dmue_list(root, root)
