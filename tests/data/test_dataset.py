from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from PIL import Image

from ferkit.data import EMOTIONS, FaceDataset, ImageError, Manifest
from ferkit.data.images import decode

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def manifest(tmp_path):
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return Manifest(
        [f"{i}.png" for i in range(6)],
        ["train"] * 6,
        [0, 1, 2, 3, -1, 5],
        EMOTIONS[:7],
        tmp_path,
        votes=np.eye(7)[:6] * 10,
        source_labels={"true": np.array([0, 0, 2, 3, 4, 5])},
        source="faces.csv",
    )


@pytest.mark.parametrize("cache", [True, False, None])
def test_items(manifest, cache):
    data = FaceDataset(manifest, size=8, cache=cache)
    assert len(data) == 6 and data.classes == EMOTIONS[:7]
    assert data.labels.dtype == torch.int64 and data.labels.tolist() == [0, 1, 2, 3, -1, 5]
    assert data.true_labels.tolist() == [0, 0, 2, 3, 4, 5]
    assert data.distributions.dtype == torch.float32 and data.distributions.shape == (6, 7)
    item = data[2]
    assert item["image"].dtype == torch.uint8 and item["label"] == 2 and item["index"] == 2
    np.testing.assert_array_equal(item["image"].numpy(), PIXELS[2].transpose(2, 0, 1))
    item["image"].zero_()  # does not reach the cache
    np.testing.assert_array_equal(data[2]["image"].numpy(), PIXELS[2].transpose(2, 0, 1))
    assert data[-1]["index"] == 5
    with pytest.raises(IndexError):
        data[6]


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(manifest, workers):
    loader = torch.utils.data.DataLoader(FaceDataset(manifest, size=8), batch_size=4, num_workers=workers)
    batches = list(loader)
    assert batches[0]["image"].shape == (4, 3, 8, 8) and batches[1]["label"].tolist() == [-1, 5]


def test_resizing_is_antialiased(tmp_path):
    board = (np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    small = decode(tmp_path / "board.png", 24)
    assert small.shape == (3, 24, 24) and np.abs(small.astype(int) - 127).max() < 20  # plain sampling gives 0 or 255


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
def test_modes_of_images(tmp_path, mode):
    grey = np.repeat(np.linspace(0, 255, 8).astype(np.uint8)[None], 8, 0)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert("1", dither=0) if mode == "1" else Image.fromarray(grey).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    found = decode(path, 8)
    assert found.dtype == np.uint8 and found.shape == (3, 8, 8)
    expected = (grey >= 128) * 255 if mode == "1" else grey
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("dtype", [np.int32, np.uint16])
def test_wide_numbers_of_eight_bits_are_not_black(tmp_path, dtype):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(grey.astype(dtype)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(decode(tmp_path / "a.tif", 8), np.stack([grey] * 3))


@pytest.mark.parametrize("kind", ["pgm", "png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path, kind):
    wide = (np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)
    path = tmp_path / f"a.{kind}"
    if kind == "pgm":  # Pillow's mode is that of 32 bits
        path.write_bytes(b"P5 8 8 65535\n" + wide.astype(">u2").tobytes())
    else:
        Image.fromarray(wide).save(path)
    np.testing.assert_array_equal(decode(path, 8), np.stack([wide >> 8] * 3))


@pytest.mark.parametrize("value", [-1, 256, 65535])
def test_other_wide_numbers_are_refused(tmp_path, value):
    Image.fromarray(np.array([[0, value]], dtype=np.int32)).save(tmp_path / "a.tif")
    message = (
        rf"a\.tif: ValueError: expected .* 32-bit numbers of 0\.\.255 only, got {min(0, value)}\.\.{max(0, value)}"
    )
    with pytest.raises(ImageError, match=message):
        decode(tmp_path / "a.tif", 8)


def test_floating_point_images_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: ValueError: expected 8 or 16 bits a pixel"):
        decode(tmp_path / "a.tif", 8)


def test_images_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    found = decode(tmp_path / "a.png", 8)
    assert found[0, 0, 0] == 255 and found[0, 7, 0] == 0 and found[0, 0, 7] == 255


def spoil(manifest):
    """Row 3 missing, row 5 no image, row 6 cut off."""
    (manifest.root / "1.png").unlink()
    (manifest.root / "3.png").write_bytes(b"not an image")
    whole = (manifest.root / "4.png").read_bytes()
    (manifest.root / "4.png").write_bytes(whole[: len(whole) // 2])


def test_missing_image_is_told_before_work_starts(manifest):
    spoil(manifest)
    for cache in (True, False):
        with pytest.raises(ImageError, match=r"faces.csv: row 3: image is missing: .*1.png$"):
            FaceDataset(manifest, size=8, cache=cache)


def test_unreadable_image_names_file_and_row(manifest):
    (manifest.root / "3.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"faces.csv: row 5: image cannot be read: .*3.png"):
        FaceDataset(manifest, size=8)
    data = FaceDataset(manifest, size=8, cache=False)
    with pytest.raises(ImageError, match=r"faces.csv: row 5: image cannot be read: .*3.png"):
        data[3]


@pytest.mark.parametrize("cache", [True, False])
def test_skip_counts_and_lists(manifest, cache):
    spoil(manifest)
    with pytest.warns(UserWarning, match=r"faces.csv: 3 of 6 images are left out:(\n  row \d: image .*){3}"):
        data = FaceDataset(manifest, size=8, on_error="skip", cache=cache)
    assert [row for row, _, _ in data.skipped] == [3, 5, 6]
    assert data.labels.tolist() == [0, 2, 5] and data.distributions.shape == (3, 7)
    assert len(data.true_labels) == 3 and data.manifest.rows.tolist() == [2, 4, 7]
    for position, i in enumerate((0, 2, 5)):
        np.testing.assert_array_equal(data[position]["image"].numpy(), PIXELS[i].transpose(2, 0, 1))


def test_nothing_left(manifest, tmp_path):
    with pytest.raises(ImageError, match="6 of 6 images are left out"):
        FaceDataset(manifest, size=8, root=tmp_path / "elsewhere", on_error="skip")


def test_new_labels(manifest):
    data = FaceDataset(manifest, size=8)
    other = data.with_labels(torch.zeros(6, dtype=torch.int64))
    assert other.labels.tolist() == [0] * 6 and other[5]["label"] == 0
    assert other.true_labels.tolist() == data.true_labels.tolist()
    assert data.labels.tolist() == [0, 1, 2, 3, -1, 5]
    plain = FaceDataset(manifest, size=8, true_labels=None)
    assert plain.true_labels is None
    assert plain.with_labels(other.labels).true_labels.tolist() == plain.labels.tolist()
    with pytest.raises(ValueError, match="labels"):
        data.with_labels(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels"):
        data.with_labels(torch.full((6,), 7))
    with pytest.raises(TypeError, match="labels"):
        data.with_labels([0] * 6)


@pytest.mark.parametrize("cache", [True, False])
def test_subset(manifest, cache):
    part = FaceDataset(manifest, size=8, cache=cache).subset([5, 0])
    assert part.labels.tolist() == [5, 0] and len(part) == 2 and part.manifest.rows.tolist() == [7, 2]
    np.testing.assert_array_equal(part[0]["image"].numpy(), PIXELS[5].transpose(2, 0, 1))
    assert part.distributions.argmax(1).tolist() == [5, 0]
    assert len(part.subset(torch.tensor([True, False]))) == 1


def test_other_label_column(manifest):
    assert FaceDataset(manifest, size=8, column="true").labels.tolist() == [0, 0, 2, 3, 4, 5]


def test_bad_arguments(manifest):
    with pytest.raises(TypeError, match="manifest: expected a Manifest"):
        FaceDataset("faces.csv")
    with pytest.raises(ValueError, match="on_error"):
        FaceDataset(manifest, on_error="ignore")
    with pytest.raises(ValueError, match="size"):
        FaceDataset(manifest, size=0)
    with pytest.raises(ValueError, match="column"):
        FaceDataset(manifest, column="other")


def test_progress_goes_to_stderr(manifest, capsys):
    FaceDataset(manifest, size=8, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "Decoding images 6/6" in err
    FaceDataset(manifest, size=8)
    assert capsys.readouterr().err == ""


def test_without_pillow(manifest, monkeypatch):
    real = builtins.__import__

    def block(name, *rest):
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", block)
    with pytest.raises(ImportError, match=r"pip install \"ferkit\[train\]\""):
        FaceDataset(manifest)
