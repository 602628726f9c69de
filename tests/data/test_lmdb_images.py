"""Images in an LMDB: read by path, in this process and in workers, and what is wrong with them told."""

import multiprocessing
import pickle
import sys

import numpy as np
import pytest
import torch

from ferkit.data import FaceDataset, ImageError, Manifest, lmdb_images
from ferkit.data.images import decode, image_exists, open_image

lmdb = pytest.importorskip("lmdb")
pytest.importorskip("PIL.Image")

NUMBER = 6
VALUE = 256 * 256 * 3


def pack(path, values, subdir=True):
    """An LMDB as DMUE's release makes it."""
    with lmdb.open(str(path), map_size=1 << 26, subdir=subdir) as environment, environment.begin(write=True) as write:
        for key, value in values.items():
            write.put(key.encode(), value)


def handles():
    return len(lmdb_images._open)


def picture(number):
    """Red is the number, green the row, blue the column."""
    pixels = np.empty((256, 256, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = number, np.arange(256)[:, None], np.arange(256)[None, :]
    return pixels


@pytest.fixture(params=[True, False], ids=["folder", "file"])
def faces(request, tmp_path):
    keys = [f"train_a/b/{i}.jpg" for i in range(NUMBER)]
    pack(tmp_path / "faces", {key: picture(i).tobytes() for i, key in enumerate(keys)}, request.param)
    return Manifest([f"faces/{key}" for key in keys], ["train"] * NUMBER, [0] * NUMBER, "a", tmp_path)


def test_pixels_are_rgb_rows_and_columns(faces):
    image = decode(faces.paths()[3], 256)
    np.testing.assert_array_equal(image, picture(3).transpose(2, 0, 1))
    small = FaceDataset(faces, size=32)[4]["image"]
    assert small.shape == (3, 32, 32) and (small[0] == 4).all()
    assert small[1, 0, 0] < small[1, 31, 0] and small[2, 0, 0] < small[2, 0, 31]
    assert open_image(faces.paths()[0]).mode == "RGB"


FORKS = "fork" in multiprocessing.get_all_start_methods()


def red_of_all(data, method, workers):
    loader = torch.utils.data.DataLoader(data, 2, num_workers=workers, multiprocessing_context=method)
    return {int(i): int(image[0, 0, 0]) for batch in loader for i, image in zip(batch["index"], batch["image"])}


@pytest.mark.skipif(not FORKS, reason="no fork here")
def test_forked_workers_open_it_for_themselves(faces):
    data = FaceDataset(faces, size=16, cache=False)
    assert int(data[1]["image"][0, 0, 0]) == 1  # open here before the workers start
    for _ in range(2):
        assert red_of_all(data, "fork", 2) == {i: i for i in range(NUMBER)}
    assert int(data[2]["image"][0, 0, 0]) == 2
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert len(lmdb_images._open) >= 1 and pool.apply(handles) == 0


@pytest.mark.parametrize("faces", [True], indirect=True)
def test_a_spawned_worker_opens_it_for_itself(faces):
    data = FaceDataset(faces, size=16, cache=False)
    assert int(data[1]["image"][0, 0, 0]) == 1
    assert red_of_all(data, "spawn", 1) == {i: i for i in range(NUMBER)}


def test_a_data_set_is_pickled_by_its_paths(faces):
    data = FaceDataset(faces, size=16, cache=False)
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[5]["image"], data[5]["image"])


def test_the_folder_is_not_written_to(faces):
    before = sorted((path, path.stat().st_mtime_ns) for path in faces.root.rglob("*"))
    FaceDataset(faces, size=16)
    assert sorted((path, path.stat().st_mtime_ns) for path in faces.root.rglob("*")) == before


def test_one_made_again_under_the_same_name(tmp_path):
    for number in (7, 8):
        pack(tmp_path / "faces", {"a": picture(number).tobytes()})
        assert int(decode(tmp_path / "faces/a", 256)[0, 0, 0]) == number
        (tmp_path / "faces/data.mdb").rename(tmp_path / f"old{number}")
        (tmp_path / "faces/lock.mdb").unlink()


def test_manifest_goes_to_a_file_and_back(faces, tmp_path):
    (tmp_path / "tables").mkdir()
    faces.write(tmp_path / "tables/faces.csv")
    again = Manifest.read(tmp_path / "tables/faces.csv", classes="a")
    assert again.image[2] == "../faces/train_a/b/2.jpg" and int(FaceDataset(again, size=16)[2]["image"][0, 0, 0]) == 2


def test_a_missing_key_is_a_missing_image(faces):
    names = [*faces.image[:2], "faces/train_a/none.jpg", "faces/" + "x" * 600]
    manifest = Manifest(names, ["train"] * 4, [0] * 4, "a", faces.root, source="faces.csv")
    assert [image_exists(path) for path in manifest.paths()] == [True, True, False, False]
    message = r"faces\.csv: row 4: image is missing: .*faces/train_a/none\.jpg \(2 of 4 images are missing\)"
    with pytest.raises(ImageError, match=message):
        FaceDataset(manifest)
    with pytest.raises(ImageError, match=r"image is missing: .*none\.jpg"):
        open_image(manifest.paths()[2])
    with pytest.warns(UserWarning, match="2 of 4 images are left out"):
        data = FaceDataset(manifest, size=16, on_error="skip")
    assert [int(item["image"][0, 0, 0]) for item in data] == [0, 1]


def test_values_of_another_length(tmp_path):
    pack(tmp_path / "faces", {"a": b"\x00" * (VALUE - 1), "b": b"", "c": b"\x00" * VALUE})
    for key, length in {"a": VALUE - 1, "b": 0}.items():
        with pytest.raises(ImageError, match=rf"read: .*/{key}: expected {VALUE} bytes \(256 x .*\), got {length}$"):
            decode(tmp_path / "faces" / key, 16)
    assert decode(tmp_path / "faces/c", 16).max() == 0


@pytest.mark.parametrize("name", ["faces/data.mdb", "faces"])
def test_what_is_no_lmdb(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"no LMDB" * 5000)
    manifest = Manifest(["faces/a.jpg"], ["train"], [0], "a", tmp_path)
    with pytest.raises(ImageError, match=r"image cannot be read: .*faces/a\.jpg: no readable LMDB: .*"):
        FaceDataset(manifest)
    with pytest.raises(ImageError, match="no readable LMDB"):
        decode(tmp_path / "faces/a.jpg", 16)


def test_without_the_package(faces, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    for on_error in ("raise", "skip"):
        with pytest.raises(ImportError, match=r'images in an LMDB need lmdb: pip install "ferkit\[lmdb\]"'):
            FaceDataset(faces, size=16, on_error=on_error)
