from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ferkit.data import EMOTIONS, FaceDataset, image_folder
from ferkit.data.images import ImageError

NAMES = ("Angry", "Disgust", "Fear", "Happiness", "Neutral", "Sad", "Surprise")


def grow(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def test_emotions_by_name(tmp_path):
    grow(tmp_path, *(f"{name}/{i}.JPG" for name in NAMES for i in range(2)), "Sad/deep/x.png", "Sad/notes.txt")
    grow(tmp_path, ".git/a.png", "__pycache__/a.png", "readme.png")
    grow(tmp_path, "Sad/.ipynb_checkpoints/x-checkpoint.png", "Sad/deep/__MACOSX/x.png", "Sad/._0.JPG")
    manifest = image_folder(tmp_path)
    assert manifest.classes == EMOTIONS[:7] and manifest.splits == ("train",) and len(manifest) == 15
    assert {name: EMOTIONS[label] for name, label in zip(manifest.image, manifest.label)}["Angry/1.JPG"] == "anger"
    assert manifest.counts()["sad"] == 3
    assert all(path.exists() for path in manifest.paths())


def test_a_link_that_leads_nowhere_is_a_missing_image(tmp_path):
    grow(tmp_path, *(f"{name}/0.png" for name in NAMES))
    (tmp_path / "Sad" / "1.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(ImageError, match=r"image is missing: .*Sad/1\.png"):
        FaceDataset(image_folder(tmp_path))


def test_gif_and_jfif_are_read(tmp_path):
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    (tmp_path / "Sad").mkdir()
    first.save(tmp_path / "Sad" / "0.gif", save_all=True, append_images=[second])
    first.save(tmp_path / "Sad" / "1.JFIF", format="JPEG", quality=100)
    faces = FaceDataset(image_folder(tmp_path, ("sad",)), size=8)
    assert [Path(name).name for name in faces.manifest.image] == ["0.gif", "1.JFIF"]
    red = torch.tensor([255, 0, 0])[:, None, None]
    assert all((item["image"] - red).abs().max() < 3 for item in (faces[0], faces[1]))


def test_images_of_other_kinds_are_told(tmp_path):
    grow(tmp_path, *(f"{name}/0.png" for name in NAMES), "Sad/a.HEIC", "Sad/b.heic", "Fear/deep/c.avif")
    grow(tmp_path, "Sad/notes.txt", "Sad/._d.heic", "Sad/.cache/d.heic")
    with pytest.warns(UserWarning, match=r": 3 images are left out, of kinds that are not read: 2 \.heic, 1 \.avif$"):
        assert len(image_folder(tmp_path)) == 7


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    root, more = tmp_path / "faces", grow(tmp_path, "more/0.png", "more/deep/1.png") / "more"
    grow(root, *(f"{name}/0.png" for name in NAMES if name != "Fear"))
    (root / "Fear").symlink_to(more)  # a class folder
    (root / "Sad" / "more").symlink_to(more)
    (more / "deep" / "faces").symlink_to(root)  # from Fear and from Sad back to where both are
    (root / "Sad" / "again").symlink_to(root / "Sad")
    (root / "Sad" / "none").symlink_to("none")  # to itself
    (root / "Circle").symlink_to(root)
    found = [name for name in image_folder(root).image if name.startswith(("Fear", "Sad"))]
    assert found == ["Fear/0.png", "Fear/deep/1.png", "Sad/0.png", "Sad/more/0.png", "Sad/more/deep/1.png"]


def test_contempt_makes_eight(tmp_path):
    assert image_folder(grow(tmp_path, *(f"{name}/0.png" for name in (*NAMES, "contempt")))).classes == EMOTIONS


def test_splits(tmp_path):
    grow(tmp_path, *(f"train/{name}/0.png" for name in NAMES), "val/happy/0.png", "Test/sad/0.png")
    manifest = image_folder(tmp_path)
    assert [len(manifest.select(split)) for split in ("train", "valid", "test")] == [7, 1, 1]
    grow(tmp_path, "happy/0.png")
    with pytest.raises(ValueError, match=r"split folders only or class folders only .* got both: \['happy'\]"):
        image_folder(tmp_path)


def test_own_classes(tmp_path):
    grow(tmp_path, "cat/0.png", "7/0.png")
    assert image_folder(tmp_path, classes=("7", "cat")).label.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"an emotion; give classes= for others .* got \['7', 'cat'\]"):
        image_folder(tmp_path)
    with pytest.raises(ValueError, match=r"one of the classes \(cat, dog\), got \['7'\]"):
        image_folder(tmp_path, classes=("cat", "dog"))


def test_class_without_image(tmp_path):
    grow(tmp_path, *(f"{name}/0.png" for name in NAMES[:5]), "Sad/none.txt")
    with pytest.raises(ValueError, match=r"an image of each class .* got none of sad, surprise; give classes="):
        image_folder(tmp_path)


def test_some_of_a_model_s_classes(tmp_path):
    grow(tmp_path, "Sad/0.png", "Joy/0.png")
    manifest = image_folder(tmp_path, EMOTIONS, every_class=False)
    assert manifest.classes == EMOTIONS and manifest.label.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"one of the classes \(happy, fear\), got \['Sad'\]"):
        image_folder(tmp_path, ("happy", "fear"), every_class=False)
    grow(tmp_path / "empty", "Sad/none.txt")
    with pytest.raises(ValueError, match=r"root: expected images of happy, sad in .*empty, got none"):
        image_folder(tmp_path / "empty", ("happy", "sad"), every_class=False)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="root: expected a folder"):
        image_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"root: expected class folders .* got none"):
        image_folder(tmp_path)
