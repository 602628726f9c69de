"""SFEW in the layouts that copies are found in: folders by name, aligned or not, an unlabelled test set."""

import numpy as np
import pytest

from ferkit.data import FaceDataset, Manifest, sfew

PUBLISHED = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
EMOTIONS = ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise")
LABELS = [6, 5, 4, 1, 0, 2, 3]  # of PUBLISHED, in the order used everywhere


def fill(folder, names=PUBLISHED, files=("Film_000123_00000001.png",)):
    for name in names:
        (folder / name).mkdir(parents=True)
        for file in files:
            (folder / name / file).touch()


def by_class(manifest, split):
    rows = manifest.select(split)
    return [(image.split("/")[-2], rows.classes[label]) for image, label in zip(rows.image, rows.label.tolist())]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("Train_Aligned_Faces", "Val_Aligned_Faces"),
        ("Train/Train_Aligned_Faces", "Val/Val_Aligned_Faces"),
        ("SFEW_2.0/images/train_aligned_faces", "SFEW_2.0/images/val_aligned_faces"),
        ("Train_Aligned_Faces/Train_Aligned_Faces", "Val_Aligned_Faces_new/Val_Aligned_Faces"),
        ("Train_Aligned_Faces", "Validation Aligned Faces"),
    ],
)
def test_aligned_faces(tmp_path, train, val):
    fill(tmp_path / train)
    fill(tmp_path / val, reversed(PUBLISHED))
    fill(tmp_path / "Train_Augmented_Faces")  # what others made is no part of it
    (tmp_path / "__MACOSX" / val / "Angry").mkdir(parents=True)
    manifest = sfew(tmp_path)
    assert manifest.classes == ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")
    assert manifest.splits == ("train", "valid") and len(manifest) == 14
    assert by_class(manifest, "train") == by_class(manifest, "valid") == list(zip(PUBLISHED, EMOTIONS))
    assert manifest.label.tolist() == LABELS * 2
    assert manifest.image[0] == f"{train}/Angry/Film_000123_00000001.png"


@pytest.mark.parametrize("names", [[n.upper() for n in PUBLISHED], ["angry", "disgusted", "Fearful", *PUBLISHED[3:]]])
def test_folders_in_other_spellings(tmp_path, names):
    fill(tmp_path / "TRAIN", names)
    fill(tmp_path / "val", names)
    assert sorted(sfew(tmp_path, "original").select("train").label.tolist()) == list(range(7))


def test_aligned_or_not(tmp_path):
    for split in ("Train", "Val"):
        fill(tmp_path / split, files=("still.png", "still2.png"))
        fill(tmp_path / split / f"{split}_Aligned_Faces", files=("face.png",))
    original = sfew(tmp_path, images="original")
    assert len(original) == 28 and {name.rsplit("/", 1)[1] for name in original.image} == {"still.png", "still2.png"}
    aligned = sfew(str(tmp_path))
    assert len(aligned) == 14 and all("_Aligned_Faces/" in name for name in aligned.image)
    with pytest.raises(ValueError, match=r"images: expected one of .*aligned.*original"):
        sfew(tmp_path, images="cropped")


@pytest.mark.parametrize("test", ["Test/Test_Aligned_Faces", "Test_Aligned_Faces", "Test_Aligned_Faces/faces"])
def test_the_test_set_has_no_labels(tmp_path, test):
    for split in ("Train", "Val"):
        fill(tmp_path / f"{split}_Aligned_Faces")
    (tmp_path / test).mkdir(parents=True)
    for name in ("2.png", "1.png", ".hidden.png", "notes.txt"):
        (tmp_path / test / name).touch()
    rows = sfew(tmp_path).select("test")
    assert rows.image.tolist() == [f"{test}/1.png", f"{test}/2.png"] and rows.label.tolist() == [-1, -1]


def test_a_test_image_in_a_class_folder_has_its_label(tmp_path):
    for split in ("Train", "Val", "Test"):
        fill(tmp_path / split)
    assert sfew(tmp_path, "original").select("test").label.tolist() == LABELS


def test_images_are_read_and_a_manifest_goes_to_a_file_and_back(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for split in ("Train", "Val"):
        fill(tmp_path / f"{split}_Aligned_Faces", files=())
        for value, name in enumerate(PUBLISHED):
            picture = image.fromarray(np.full((181, 143, 3), value, dtype=np.uint8))
            picture.save(tmp_path / f"{split}_Aligned_Faces" / name / "0.png")
    sfew(tmp_path).write(tmp_path / "faces.csv")
    data = FaceDataset(Manifest.read(tmp_path / "faces.csv").select("valid"), size=32)
    assert [int(item["image"].float().mean()) for item in data] == list(range(7))
    assert data.labels.tolist() == LABELS


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"root: expected SFEW's folder, got .*nowhere"):
        sfew(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"root: expected aligned train images in .*, got none"):
        sfew(tmp_path)
    fill(tmp_path / "Train")
    with pytest.raises(FileNotFoundError, match=r"such as Train_Aligned_Faces/<class>/\*\.png, got Train$"):
        sfew(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"original valid images in .* Val/<class>/\*\.png, got Train$"):
        sfew(tmp_path, "original")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "Bored").mkdir(), r"expected folders named neutral, .* in Val, got \['Bored'\]"),
        (lambda f: (f / "Contempt").mkdir(), r"in Val, got \['Contempt'\]"),
        (lambda f: (f / "Sad/Film_000123_00000001.png").unlink(), "of each class in Val, got none of sad"),
        (lambda f: (f / "Sad").rename(f.parent / "elsewhere"), "of each class in Val, got none of sad"),
        (lambda f: (f / "loose.png").touch(), "expected every image of Val in a class folder, got 'loose.png'"),
        (lambda f: fill(f.parent / "Validation"), "one folder of original valid images in .*, got Val, Validation"),
    ],
)
def test_wrong_folders(tmp_path, change, message):
    fill(tmp_path / "Train")
    fill(tmp_path / "Val")
    assert len(sfew(tmp_path, "original")) == 14
    change(tmp_path / "Val")
    with pytest.raises(ValueError, match=f"root: .*{message}"):
        sfew(tmp_path, "original")
