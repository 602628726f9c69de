"""CIFAR-10 through torchvision (stood in for by small arrays), and CIFAR-10N in both its forms."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ferkit.data import FaceDataset, Manifest, cifar10, cifar10n, label_sets_from_noise, majority_vote
from ferkit.data.arrays import ImageArray
from ferkit.data.readers import cifar10 as reader
from ferkit.data.readers.cifar10 import CIFAR_CLASSES, cifar_images, cifar_labels

SIZES = {True: 60, False: 20}


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch):
    """CIFAR10 of 60 and 20 images whose first pixel tells split and position; ``present`` says if it is there."""
    datasets = pytest.importorskip("torchvision.datasets")
    world = SimpleNamespace(present=True, asked=[])

    def make(root: str, train: bool, download: bool) -> SimpleNamespace:
        world.asked.append(download)
        if not world.present and not download:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        rng = np.random.default_rng(int(train))
        data = rng.integers(0, 256, (SIZES[train], 32, 32, 3), dtype=np.uint8)
        data[:, 0, 0] = np.arange(SIZES[train])[:, None] + [0, 100 * train, 7]
        return SimpleNamespace(data=data, targets=[int(i) for i in rng.integers(0, 10, SIZES[train])])

    monkeypatch.setattr(datasets, "CIFAR10", make)
    reader.read_arrays.cache_clear()
    yield world
    reader.read_arrays.cache_clear()


def test_noise_is_made_over_the_whole_training_set(torchvision: SimpleNamespace) -> None:
    manifest = cifar10("somewhere", (0.2, 0.5))
    train = manifest.split == "train"
    assert len(manifest) == 80 and manifest.splits == ("train", "test") and manifest.classes == CIFAR_CLASSES
    assert list(manifest.source_labels) == ["true", "noise20", "noise50"]
    truth = torch.from_numpy(manifest.source_labels["true"][train].copy())
    wanted = label_sets_from_noise(truth, (0.2, 0.5), 10)
    assert manifest.source_labels["noise20"][train].tolist() == wanted[:, 0].tolist()
    assert manifest.source_labels["noise50"][train].tolist() == wanted[:, 1].tolist()
    assert (manifest.source_labels["noise50"][~train] == -1).all() and not any(torchvision.asked)
    released = cifar10("somewhere", (0.2, 0.5), exclude_true=False)
    both = label_sets_from_noise(truth, (0.2, 0.5), 10, exclude_true=False)
    assert released.source_labels["noise20"][train].tolist() == both[:, 0].tolist()
    with pytest.raises(ValueError, match="different rates"):
        cifar10("somewhere", (0.2, 0.2))


def test_images_follow_their_rows(torchvision: SimpleNamespace) -> None:
    manifest = cifar10("somewhere").filter([70, 3, 59])
    # As held out for validation: another split, the training file's pixels.
    moved = Manifest(manifest.image, ["test", "valid", "train"], manifest.label, CIFAR_CLASSES)
    data = cifar_images(moved, "somewhere")
    assert data[0]["image"].shape == (3, 32, 32) and data[0]["image"].dtype == torch.uint8
    corners = [data[i]["image"][:, 0, 0].tolist() for i in range(3)]
    assert corners == [[10, 10, 17], [3, 103, 10], [59, 159, 66]]
    assert data[1]["label"] == int(manifest.label[1]) and data.classes == CIFAR_CLASSES
    part = data.subset([2, 0]).with_labels(torch.tensor([4, -1]))
    assert part.labels.tolist() == [4, -1] and part[0]["image"][0, 0, 0] == 59 and part[1]["label"] == -1


def test_other_sizes_are_resized_evenly() -> None:
    manifest = Manifest(["a"], ["train"], [0], ("cat",))
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(1, 3, 32, 32).contiguous()
    small, large = ImageArray(manifest, ramp, 16)[0]["image"], ImageArray(manifest, ramp, 64)[0]["image"]
    assert small.shape == (3, 16, 16) and large.shape == (3, 64, 64) and large.dtype == torch.uint8
    # A ramp stays a ramp away from the borders.
    assert (small[0, :, 2:-2].double().diff(dim=1) - 16).abs().max() <= 1
    assert (large[0, :, 4:-4].double().diff(dim=1) - 4).abs().max() <= 1
    with pytest.raises(ValueError, match=r"images: expected shape \(1, 3, H, W\)"):
        ImageArray(manifest, ramp[:, :2])
    with pytest.raises(TypeError, match="uint8"):
        ImageArray(manifest, ramp.float())


def test_nothing_is_downloaded_unasked(torchvision: SimpleNamespace) -> None:
    torchvision.present = False
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py.* in nowhere.*--download true"):
        cifar10("nowhere")
    assert torchvision.asked == [False]
    assert len(cifar10("nowhere", download=True)) == 80


HEADER = "image,split,index,clean_label,random_label1,random_label2,random_label3,aggre_label,worse_label\n"
ROWS = (
    "train/0.jpg,train,0,cat,cat,dog,dog,dog,dog\n"
    "train/1.jpg,train,1,ship,ship,truck,ship,ship,truck\n"
    "train/2.jpg,train,2,frog,bird,deer,frog,deer,bird\n"
    "test/0.jpg,test,0,horse,,,,,\n"
)


def folder(path: Path, rows: str = ROWS, header: str = HEADER) -> Path:
    (path / "labels.csv").write_text(header + rows)
    return path


def named(labels: np.ndarray) -> list[str]:
    return [CIFAR_CLASSES[label] if label >= 0 else "" for label in labels.tolist()]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ("random_label1", ["cat", "ship", "bird"]),
        ("random_label3", ["dog", "ship", "frog"]),
        ("aggre", ["dog", "ship", "deer"]),
        ("worse", ["dog", "truck", "bird"]),
        ("clean", ["cat", "ship", "frog"]),
        ("majority", ["dog", "ship", "bird"]),  # of the three people only
    ],
)
def test_folder_labels_train_and_the_clean_ones_score(tmp_path: Path, labels: str, wanted: list[str]) -> None:
    manifest = cifar10n(folder(tmp_path), labels)
    assert named(manifest.label) == [*wanted, "horse"]
    assert named(manifest.source_labels["true"]) == ["cat", "ship", "frog", "horse"]
    assert list(manifest.source_labels)[1:] == ["random_label1", "random_label2", "random_label3", "aggre", "worse"]
    assert manifest.source_labels["worse"][3] == -1 and manifest.root == tmp_path


def test_folder_s_images_are_files(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    folder(tmp_path)
    for name in ("train/0.jpg", "train/1.jpg", "train/2.jpg", "test/0.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.new("RGB", (32, 32), (200, 10, 10)).save(tmp_path / name)
    data = FaceDataset(cifar10n(tmp_path).select("train"), 32)
    assert data[2]["image"].shape == (3, 32, 32) and data.true_labels is not None


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (HEADER, ROWS.replace("ship,ship", "boat,ship", 1), "row 3, column 'clean_label': expected one of .*'boat'"),
        (HEADER, ROWS + "a.jpg,train,cat\n", "row 6: expected 9 cells"),
        (HEADER, ROWS.replace("horse", ""), "row 5, column 'clean_label': expected text"),
        (HEADER.replace("clean_label", "clean"), ROWS, "row 1: expected the columns image, split, clean_label"),
        (HEADER.replace("worse_label", "aggre_label"), ROWS, "row 1: expected every column once"),
        (HEADER, "", "expected rows below the header"),
    ],
)
def test_a_faulty_table_names_row_and_column(tmp_path: Path, header: str, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"labels.csv: {message}"):
        cifar10n(folder(tmp_path, rows, header))


def test_an_unknown_label_set_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clean, random_label1, .*, worse or majority, got 'noise20'"):
        cifar10n(folder(tmp_path), "noise20")


def published(path: Path, manifest: Manifest, **changed: np.ndarray) -> dict[str, np.ndarray]:
    """The published file's dict, with the clean labels of the training rows."""
    clean = manifest.label[manifest.split == "train"]
    names = ("random_label1", "random_label2", "random_label3", "aggre_label", "worse_label")
    table = {"clean_label": clean.copy(), **{name: (clean + i) % 10 for i, name in enumerate(names)}, **changed}
    torch.save(table, path / "CIFAR-10_human.pt")
    return table


@pytest.mark.parametrize("module", (b"numpy.core.multiarray", b"numpy._core.multiarray"))
def test_the_published_file_of_either_numpy(torchvision: SimpleNamespace, tmp_path: Path, module: bytes) -> None:
    table = published(tmp_path, cifar10("somewhere"))
    path = tmp_path / "CIFAR-10_human.pt"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts = {
        name: part.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(
            b"numpy.core.multiarray", module
        )
        for name, part in parts.items()
    }
    assert any(module in part for part in parts.values())
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    manifest = cifar10n(tmp_path, "majority")
    train = manifest.split == "train"
    assert manifest.source_labels["worse"][train].tolist() == table["worse_label"].tolist()
    people = np.stack([table[f"random_label{i}"] for i in (1, 2, 3)], axis=1)
    assert manifest.label[train].tolist() == majority_vote(torch.from_numpy(people), 10).tolist()
    assert (manifest.label[~train] == manifest.source_labels["true"][~train]).all()
    assert cifar_images(manifest.select("test"), str(tmp_path))[5]["image"][0, 0, 0] == 5


def test_a_file_of_other_labels_is_refused(torchvision: SimpleNamespace, tmp_path: Path) -> None:
    clean = cifar10("somewhere")
    published(tmp_path, clean, clean_label=(clean.label[:60] + 1) % 10)
    with pytest.raises(ValueError, match=r"'clean_label': expected CIFAR-10's own labels .* got 60 others"):
        cifar10n(tmp_path)
    published(tmp_path, clean, worse_label=clean.label[:59])
    with pytest.raises(ValueError, match="'worse_label': expected 60 integers"):
        cifar10n(tmp_path)
    published(tmp_path, clean, worse_label=clean.label[:60] + 10)
    with pytest.raises(ValueError, match=r"'worse_label': expected values in 0\.\.9"):
        cifar10n(tmp_path)
    torch.save({"clean_label": clean.label}, tmp_path / "CIFAR-10_human.pt")
    with pytest.raises(ValueError, match="missing random_label1, "):
        cifar10n(tmp_path)


class Payload:
    def __reduce__(self):
        return print, ("unpickled",)


def test_only_arrays_are_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"clean_label": Payload()}, tmp_path / "CIFAR-10_human.pt")
    with pytest.raises(ValueError, match="nothing else is unpickled"):
        cifar10n(tmp_path)
    assert capsys.readouterr().out == ""
    with pytest.raises(FileNotFoundError, match=r"labels\.csv, or CIFAR-10_human\.pt"):
        cifar10n(tmp_path / "nowhere")


def test_labels_of_a_manifest_without_sets(tmp_path: Path) -> None:
    manifest = Manifest(["a"], ["test"], [3], CIFAR_CLASSES, source_labels={"true": np.array([3])})
    assert cifar_labels(manifest, "clean").label.tolist() == [3]
    with pytest.raises(ValueError, match="expected one of clean"):
        cifar_labels(manifest, "majority")
