"""RAF-DB's files as they are published, and the lists of other labels that go with them."""

from __future__ import annotations

import numpy as np
import pytest

from ferkit.data import FaceDataset, Manifest, rafdb

NAMES = [f"train_{i:05d}.jpg" for i in range(1, 8)] + ["test_0001.jpg", "test_0002.jpg"]
CODES = [1, 2, 3, 4, 5, 6, 7, 5, 4]
EXPECTED = [3, 4, 5, 1, 2, 6, 0, 2, 1]  # noisyFER's map of the codes to AffectNet's order
LIST = "EmoLabel/list_patition_label.txt"


def lines(names=NAMES, values=CODES, end="\n"):
    return end.join(f"{name} {value}" for name, value in zip(names, values))  # no line end after the last


@pytest.fixture
def root(tmp_path):
    for folder in ("EmoLabel", "Image/aligned", "Image/original"):
        (tmp_path / "basic" / folder).mkdir(parents=True)
    (tmp_path / "basic" / LIST).write_text(lines())
    return tmp_path


def test_official_list(root):
    manifest = rafdb(root)
    assert manifest.classes == ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")
    assert manifest.label.tolist() == EXPECTED
    assert manifest.split.tolist() == ["train"] * 7 + ["test"] * 2
    assert manifest.image[0] == "Image/aligned/train_00001_aligned.jpg"
    assert manifest.image[8] == "Image/aligned/test_0002_aligned.jpg"
    assert manifest.root == root / "basic" and not manifest.source_labels and manifest.valence is None
    assert rafdb(root / "basic", images="original").image[7] == "Image/original/test_0001.jpg"


@pytest.mark.parametrize("text", [lines(end="\r\n") + "\r\n", lines(end=" \n") + " \n\n", "\ufeff" + lines(end="\n\n")])
def test_line_ends_and_blanks(root, text):
    (root / "basic" / LIST).write_bytes(text.encode())
    manifest = rafdb(root)
    assert manifest.label.tolist() == EXPECTED and manifest.image[8].endswith("test_0002_aligned.jpg")


def test_list_with_the_right_spelling(root):
    (root / "basic" / LIST).rename(root / "basic/EmoLabel/list_partition_label.txt")
    assert rafdb(root).label.tolist() == EXPECTED


def test_images_are_found(root):
    image = pytest.importorskip("PIL.Image")
    for name in rafdb(root).image:
        image.new("RGB", (100, 100), 50).save(root / "basic" / name)
    data = FaceDataset(rafdb(root).select("test"), size=32)
    assert data[1]["image"].shape == (3, 32, 32) and data[1]["label"] == 1


def test_machine_labels_and_affect_are_joined_by_name(root):
    order = [8, 3, 0, 5, 1, 7, 2, 6, 4]
    names = [NAMES[i] for i in order]
    (root / "machine.txt").write_text(lines(names, [CODES[i] for i in order]))
    written = {name: (i / 10, -i / 10) for i, name in enumerate(NAMES)}
    written["train_00002.jpg"] = (-1.094, 1.225)
    written["train_00003.jpg"] = (-2, 0.5)
    (root / "va.txt").write_text("".join(f"{n} {written[n][0]} {written[n][1]} \n" for n in names))
    manifest = rafdb(root, machine_labels=root / "machine.txt", affect=root / "va.txt")
    assert manifest.source_labels["machine"].tolist() == EXPECTED
    assert manifest.source_labels["true"].tolist() == EXPECTED
    nan = float("nan")
    np.testing.assert_allclose(manifest.valence, [0, -1, nan, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    np.testing.assert_allclose(manifest.arousal, [0, 1, 0.5, -0.3, -0.4, -0.5, -0.6, -0.7, -0.8])
    counts = {name: manifest.notes[f"va.txt: {name} outside [-1, 1] (clipped)"] for name in ("valence", "arousal")}
    assert counts == {"valence": 1, "arousal": 1}


def test_several_lists_with_aligned_names_and_names_of_emotions(root):
    aligned = [f"basic/Image/aligned/{name[:-4]}_aligned.jpg" for name in NAMES]
    (root / "a.txt").write_text(lines(aligned, CODES))
    (root / "b.txt").write_text(lines(NAMES, ["Happiness"] * 8 + ["angry"]))
    manifest = rafdb(root, machine_labels={"a": str(root / "a.txt"), "b": root / "b.txt"})
    assert manifest.source_labels["a"].tolist() == EXPECTED
    assert manifest.source_labels["b"].tolist() == [1] * 8 + [6]


def test_noise_list_of_training_images(root):
    noisy = [2, *CODES[1:7]]
    (root / "noise01.txt").write_text(lines(NAMES[:7], noisy))
    manifest = rafdb(root, labels=root / "noise01.txt")
    assert manifest.label.tolist() == [4, *EXPECTED[1:]]  # the test images keep theirs
    assert manifest.source_labels["true"].tolist() == EXPECTED
    manifest = rafdb(root, machine_labels={"noisy": root / "noise01.txt"})
    assert manifest.source_labels["noisy"].tolist() == [4, *EXPECTED[1:7], -1, -1]
    assert manifest.label.tolist() == EXPECTED


@pytest.mark.parametrize("name", ["{}.jpg", "{}_aligned.jpg", "./Image/aligned/{}_aligned.jpg", "raf\\\\{}.jpg"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n\n"])
def test_noise_list_as_others_published_it(root, name, end):
    """Training rows alone, no line end after the last, and any way of naming the images."""
    names = [name.format(image[:-4]) for image in reversed(NAMES[:7])]
    (root / "noise01.txt").write_bytes(("\ufeff" + lines(names, [7, 6, 5, 4, 3, 2, 2], end)).encode())
    manifest = rafdb(root, labels=str(root / "noise01.txt"))
    assert manifest.label.tolist() == [4, *EXPECTED[1:]] and manifest.source_labels["true"].tolist() == EXPECTED
    assert manifest.notes["noise01.txt: training labels other than the official"] == 1
    assert manifest.notes["noise01.txt: lines of test images (which keep the official label)"] == 0


def test_noise_list_at_full_size(tmp_path):
    """12,271 training and 3,068 test images, a fifth of the training labels moved on by one."""
    train, test = [f"train_{i:05d}.jpg" for i in range(1, 12272)], [f"test_{i:04d}.jpg" for i in range(1, 3069)]
    codes = [1 + i % 7 for i in range(len(train) + len(test))]
    for folder in ("EmoLabel", "Image/aligned"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / LIST).write_text(lines(train + test, codes))
    noisy = [code % 7 + 1 if i % 5 == 0 else code for i, code in enumerate(codes[:12271])]
    (tmp_path / "noise02.txt").write_text(lines(train, noisy))
    manifest = rafdb(tmp_path, labels=tmp_path / "noise02.txt")
    assert manifest.notes["noise02.txt: training labels other than the official"] == 2455
    differ = manifest.label != manifest.source_labels["true"]
    assert differ[:12271].sum() == 2455 and differ[:12271:5].all() and not differ[12271:].any()
    (tmp_path / "noise02.txt").write_text(lines(train[:-7], noisy))
    shown = r"'train_12266\.jpg', .*'train_12270\.jpg', \.\.\."
    with pytest.raises(ValueError, match=rf"a line for 'train_12265\.jpg' \(row 12265 of .* none \(6 more: {shown}\)"):
        rafdb(tmp_path, labels=tmp_path / "noise02.txt")


def test_test_images_keep_the_official_label(root):
    (root / "all.txt").write_text(lines(NAMES, [7] * 9))
    manifest = rafdb(root, labels=root / "all.txt", machine_labels={"all": root / "all.txt"})
    assert manifest.label.tolist() == [0] * 7 + EXPECTED[7:] and manifest.source_labels["true"].tolist() == EXPECTED
    assert manifest.source_labels["all"].tolist() == [0] * 9
    assert manifest.notes["all.txt: lines of test images (which keep the official label)"] == 2
    (root / "test.txt").write_text(lines(NAMES[7:], [7, 7]))
    with pytest.raises(ValueError, match=r"test\.txt: expected lines of training images, got 'test_0001\.jpg'"):
        rafdb(root, labels=root / "test.txt")


def test_all_rows_that_do_not_fit_are_named(root):
    unknown = [f"train_9000{i}.jpg" for i in range(8)]
    (root / "list.txt").write_text(lines([*NAMES[:7], *unknown], [1] * 15))
    more = r"7 more: 'train_90001\.jpg' in row 9, .* in row 13, \.\.\."
    message = rf"row 8: 'train_90000\.jpg' is no image of .* \({more}\)"
    with pytest.raises(ValueError, match=message):
        rafdb(root, labels=root / "list.txt")


@pytest.mark.parametrize("code", ["0", "8", "7-", "-1", "contempt"])
def test_codes_that_no_list_has(root, code):
    (root / "noise.txt").write_text(lines(NAMES[:7], [*CODES[:6], code]))
    with pytest.raises(ValueError, match=rf"noise\.txt: row 7: expected one of 1 \(surprise\), .*, got '{code}'"):
        rafdb(root, labels=root / "noise.txt")


def test_distribution(root):
    rows = np.arange(63).reshape(9, 7) / 10
    order = [4, 8, 0, 1, 7, 6, 2, 3, 5]
    text = "".join(f"{NAMES[i]} {' '.join(map(str, rows[i]))} \n" for i in order)
    (root / "basic/EmoLabel/distribution_basic.txt").write_text(text)
    votes = rafdb(root, distribution=True).votes
    np.testing.assert_array_equal(
        votes, rows[:, [6, 3, 4, 0, 1, 2, 5]]
    )  # neutral happy sad surprise fear disgust anger
    (root / "other.txt").write_text(text)
    np.testing.assert_array_equal(rafdb(root, distribution=root / "other.txt").votes, votes)
    assert rafdb(root).votes is None


@pytest.mark.parametrize("value", ["-0.1", "nan", "x"])
def test_wrong_distribution(root, value):
    text = "".join(f"{name} 1 0 0 0 0 0 {value if i == 2 else 0} \n" for i, name in enumerate(NAMES))
    (root / "basic/distribution_basic.txt").write_text(text)
    with pytest.raises(ValueError, match=r"distribution_basic\.txt: row 3"):
        rafdb(root, distribution=True)


def test_distribution_of_some_images(root):
    text = "".join(f"{name} 1 0 0 0 0 0 0 \n" for name in NAMES[:7])
    (root / "basic/distribution_basic.txt").write_text(text)
    with pytest.raises(ValueError, match="expected all images, got none of the split 'test'"):
        rafdb(root, distribution=True)
    with pytest.raises(FileNotFoundError, match=r"distribution: looked for .*none.txt, found none"):
        rafdb(root, distribution="none.txt")


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"root: .*basic/EmoLabel/list_patition_label\.txt"):
        rafdb(tmp_path)


def test_images_folder_missing(root):
    (root / "basic/Image/original").rmdir()
    with pytest.raises(FileNotFoundError, match=r"root: expected the folder Image/original in .*basic"):
        rafdb(root, images="original")
    with pytest.raises(ValueError, match=r"images: expected one of .*aligned.*original"):
        rafdb(root, images="cropped")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("train_00002.jpg 8", r"row 2: expected one of 1 \(surprise\), .*, got '8'"),
        ("train_00002.jpg 0", r"row 2: expected one of 1 \(surprise\), .*, got '0'"),
        ("train_00002.jpg contempt", "row 2: expected one of .*, got 'contempt'"),
        ("train_00002.jpg", "row 2: expected 'name label', got 'train_00002.jpg'"),
        ("train_00002.jpg 5 5", "row 2: expected 'name label'"),
        ("val_00002.jpg 5", "row 2: expected 'train_...' or 'test_...', got 'val_00002.jpg'"),
        ("train_00001.jpg 5", "row 2: 'train_00001.jpg' is in row 1 already"),
    ],
)
def test_wrong_rows(root, row, message):
    (root / "basic" / LIST).write_text(f"train_00001.jpg 5\n{row}\ntest_0001.jpg 1")
    with pytest.raises(ValueError, match=rf"list_patition_label\.txt: {message}"):
        rafdb(root)


def test_empty_list(root):
    (root / "basic" / LIST).write_text("\n\n")
    with pytest.raises(ValueError, match="expected lines 'name label', got none"):
        rafdb(root)


@pytest.mark.parametrize("argument", ["labels", "machine_labels"])
def test_lists_that_do_not_fit(root, argument):
    path = root / "list.txt"

    def read(text):
        path.write_text(text)
        return rafdb(root, **{argument: path})

    with pytest.raises(ValueError, match=r"list\.txt: row 2: 'train_99999\.jpg' is no image of .*patition_label\.txt"):
        read("train_00001.jpg 1\ntrain_99999.jpg 1")
    missing = lines(NAMES[:4] + NAMES[6:], CODES[:4] + CODES[6:])
    with pytest.raises(ValueError, match=r"a line for 'train_00005\.jpg' \(row 5 of .*\), got none \(1 more: '"):
        read(missing)
    with pytest.raises(ValueError, match=r"row 3: 'train_00001_aligned.jpg' is the image of row 1 already"):
        read("train_00001.jpg 1\ntrain_00002.jpg 1\ntrain_00001_aligned.jpg 2")
    with pytest.raises(ValueError, match=r"row 1: expected 'name label', got 'train_00001.jpg 0.1 0.2'"):
        read("train_00001.jpg 0.1 0.2")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{argument}: no such file: .*list.txt"):
        rafdb(root, **{argument: path})


def test_affect_that_is_no_number(root):
    (root / "va.txt").write_text(lines(NAMES, ["0.1 high", *["0 0"] * 8]))
    with pytest.raises(ValueError, match=r"va\.txt: row 1, column 'arousal': expected a number, got 'high'"):
        rafdb(root, affect=root / "va.txt")


def test_manifest_goes_to_a_file_and_back(root):
    (root / "noise.txt").write_text(lines(NAMES[:7], [7] * 7))
    manifest = rafdb(root, machine_labels={"noisy": root / "noise.txt"})
    manifest.write(root / "raf.csv")
    again = Manifest.read(root / "raf.csv")
    assert again.label.tolist() == EXPECTED and again.source_labels["noisy"].tolist() == [0] * 7 + [-1, -1]
    assert again.paths()[0] == root / "basic/Image/aligned/train_00001_aligned.jpg"
