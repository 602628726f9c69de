"""``ferkit graph`` and the graphs that training asks for, on real files."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("safetensors")
pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from ferkit.cli import main
from ferkit.data import FaceDataset, Manifest, SyntheticFaces
from ferkit.graph import KNNGraph, knn_graph
from ferkit.tasks import training_graph
from ferkit.tasks.graph import dataset_ids, space_points

SYNTHETIC = "--data synthetic --train-images 60 --size 32 --progress false"


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


@pytest.fixture
def files(tmp_path):
    """A manifest of 12 images with columns, and OpenFace's table of them in another order, without the last image."""
    rng = np.random.default_rng(0)
    units = np.round(rng.uniform(0, 5, (12, 3)), 2)
    affect = np.round(rng.uniform(-1, 1, (12, 2)), 2)
    lines = ["image,split,label,valence,arousal,au_01,au_12,au_26"]
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        cells = [*affect[i], *units[i]]
        lines.append(f"{i}.png,train,{'happy' if i % 2 else 'sad'}," + ",".join(map(str, cells)))
    (tmp_path / "faces.csv").write_text("\n".join(lines) + "\n")
    table = ["filename, confidence, success, AU01_r, AU12_r, AU26_r"]
    for i in reversed(range(11)):
        table.append(f"{i}.png,{0.98 if i != 4 else 0.1},1," + ",".join(map(str, units[i])))
    (tmp_path / "openface.csv").write_text("\n".join([*table, "stray.png,0.9,1,1,2,3"]) + "\n")
    return tmp_path, torch.from_numpy(units), torch.from_numpy(affect)


def dataset(folder):
    return FaceDataset(Manifest.read(folder / "faces.csv"), size=32)


def manifest(folder):
    return f"--data manifest --root {folder / 'faces.csv'} --validation-share 0 --size 32 --progress false"


def test_build_from_a_table_alone(files, capsys):
    folder, units, _ = files
    out = folder / "au.knn"
    assert ferkit("graph build --table", folder / "openface.csv", "--space au -k 3 --out", out) == 0
    text = capsys.readouterr().out
    assert "12 rows of 3 columns: 1 missing, 0 all zero, 0 copies" in text and f"written to {out}" in text
    graph = KNNGraph.load(out)
    assert (graph.n, graph.k, graph.meta["space"], graph.meta["isolated"]) == (12, 3, "au", 1)
    names = [*(f"{i}.png" for i in reversed(range(11))), "stray.png"]
    assert KNNGraph.load(out, ids=names).n == 12
    rows = torch.cat([units[:11].flip(0), torch.tensor([[1.0, 2, 3]])])
    rows[6] = torch.nan  # 4.png, little confidence
    assert torch.equal(graph.indices, knn_graph(rows, 3, nonfinite="isolate").indices)


def test_build_for_the_images_of_a_data_set(files, capsys):
    folder, units, _ = files
    out = folder / "au.knn"
    assert ferkit("graph build --table", folder / "openface.csv", manifest(folder), "-k 2 --out", out) == 0
    text = capsys.readouterr().out
    assert "11 of 12 images have a row; 1 have none: 11.png; 1 rows have no image: stray.png" in text
    graph = KNNGraph.load(out, ids=[f"{i}.png" for i in range(12)])
    assert graph.valid[:, 0].tolist() == [i not in (4, 11) for i in range(12)]
    rows = units.clone()
    rows[[4, 11]] = torch.nan
    assert torch.equal(graph.indices, knn_graph(rows, 2, nonfinite="isolate").indices)
    assert torch.equal(training_graph(dataset(folder), "au", 2, path=out).indices, graph.indices)
    assert training_graph(dataset(folder), "au", 1, path=out).k == 1
    with pytest.raises(ValueError, match="expected 3 neighbours or more, got 2: build it with -k 3"):
        training_graph(dataset(folder), "au", 3, path=out)


def test_info_check_and_show(files, capsys):
    folder, _, _ = files
    out = folder / "au.knn"
    words = ["--table", folder / "openface.csv", manifest(folder)]
    assert ferkit("graph build -k 3 --out", out, *words) == 0
    assert ferkit("graph info", out) == 0
    text = capsys.readouterr().out
    assert "rows short of k      2" in text and "neighbour 3 at" in text and "points_sha256" in text
    assert ferkit("graph check", out, *words) == 0
    assert "recall               1.00000 (stored: 1.00000)" in capsys.readouterr().out
    picture = folder / "au.png"
    assert ferkit("graph show", out, *words, "--images 4 --perplexity 3 --out", picture) == 0
    for path, width in ((picture, 600), (folder / "au-neighbors.png", 300)):
        with Image.open(path) as image:
            assert image.size[0] > width and np.asarray(image.convert("L")).std() > 5
    capsys.readouterr()
    assert ferkit("graph check", out, manifest(folder)) == 2  # the manifest's own columns are other rows
    assert "the graph was built from other data: points" in capsys.readouterr().err
    assert ferkit("graph check", out, "--table", folder / "openface.csv") == 2
    assert "ids: as many, but not the same ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out {0}/a.xyz", "out: expected a picture, such as .png, .svg or .pdf, got "),
        ("--out {0}/a", "out: expected a picture, such as .png, .svg or .pdf, got "),
        ("--out {0}/faces.csv/a.png", "out: expected a file in a folder that can be written, got "),
        ("--out {0}/a.png --seed -1", "seed: expected a value in [0, inf], got -1"),
        ("--out {0}/a.png --images 0", "images: expected a value in [1, 200], got 0"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_the_graph_is_read(files, capsys, words, message):
    assert ferkit(f"graph show {files[0]}/none.knn", words.format(files[0])) == 2
    assert message in capsys.readouterr().err


def test_a_missing_scikit_learn_is_said_before_the_graph_is_read(files, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ferkit(f"graph show {files[0]}/none.knn --out {files[0]}/a.png") != 0
    assert 't-SNE needs scikit-learn: pip install "ferkit[train]"' in capsys.readouterr().err


def test_check_finds_a_wrong_graph(files, capsys):
    folder, _, _ = files
    out = folder / "va.knn"
    assert ferkit("graph build --space va -k 3 --out", out, manifest(folder)) == 0
    graph = KNNGraph.load(out)
    indices = graph.indices.clone()
    everything = knn_graph(space_points(dataset(folder), "va")[0], 11).indices
    indices[:, 2] = everything[:, 10]  # the farthest in place of the third
    KNNGraph(indices, graph.distances, graph.meta).save(out)
    assert ferkit("graph check", out, manifest(folder)) == 0
    assert "recall               0.66667 (stored: 1.00000)" in capsys.readouterr().out


@pytest.mark.parametrize("space", ["au", "landmark", "va", "columns:au_12,valence"])
def test_synthetic_spaces(tmp_path, space):
    out = tmp_path / "s.knn"
    assert ferkit("graph build", SYNTHETIC, "--space", space, "-k 4 --out", out) == 0
    faces = SyntheticFaces(60, size=32)
    points, ids = space_points(faces, space)
    expected = {"au": faces.action_units, "landmark": faces.landmarks.flatten(1)}
    expected["va"] = torch.stack([faces.valence, faces.arousal], 1)
    expected["columns:au_12,valence"] = torch.stack([faces.action_units[:, 8], faces.valence], 1)
    assert torch.equal(points, expected[space]) and ids[:2] == ["0/0", "0/1"]
    assert KNNGraph.load(out, points, ids).take(4).meta["recall"] == 1


def test_features_of_a_model(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    np.save(tmp_path / "f.npy", rows)
    words = ["--space features --table", tmp_path / "f.npy", "--metric cosine -k 3 --out", tmp_path / "f.knn"]
    assert ferkit("graph build", *words) == 0 and ferkit("graph build", SYNTHETIC, *words) == 0
    assert KNNGraph.load(tmp_path / "f.knn", rows, dataset_ids(SyntheticFaces(60))).metric == "cosine"
    assert ferkit("graph build --data synthetic --train-images 50", *words) == 2
    assert "expected a row for each of 50 images, got 60" in capsys.readouterr().err
    np.save(tmp_path / "f.npy", rows[None])
    assert ferkit("graph build", *words) == 2 and "table: expected shape (N, A), got" in capsys.readouterr().err
    np.save(tmp_path / "f.npy", rows + 1j)
    assert ferkit("graph build", *words) == 2 and "expected real numbers, got complex64" in capsys.readouterr().err
    np.save(tmp_path / "f.npy", rows.astype(">f4"))
    assert ferkit("graph build", *words) == 0 and capsys.readouterr()
    (tmp_path / "f.npy").write_bytes(b"no array")
    assert ferkit("graph build", *words) == 2 and "is no .npy file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out {0}/a.knn", "table: expected a detector's table, or --data"),
        ("--out {0}/none/a.knn --table {0}/openface.csv", "out: expected a file in an existing folder"),
        ("--out {0}/a.knn --table {0}/none.csv", "table: no such file"),
        ("--out {0}/a.knn --table {0}/none.npy --space features", "table: no such file"),
        ("--out {0}/a.knn --table {0}/openface.csv --size 64", "data: expected the kind of images that --size is"),
        ("--out {0}/a.knn --table {0}/openface.csv --space mouth", "space: expected 'au', 'landmark', 'va'"),
        ("--out {0}/a.knn --table {0}/openface.csv --space landmark", "expected OpenFace's columns x_0"),
        ("--out {0}/a.knn --table {0}/openface.csv --space columns:AU99_r", "missing AU99_r"),
        ("--out {0}/a.knn --table {0}/openface.csv -k 0", "k: expected"),
        ("--out {0}/a.knn --data manifest --root {0}/faces.csv --space landmark", "needs the columns lm_x_<i>"),
        ("--out {0}/a.knn --data manifest --root {0}/faces.csv --space columns:jaw", "expected columns of au_01"),
        ("--out {0}/a.knn --table {0}/openface.csv --min_confidence 3", "min_confidence: expected a value in [0, 1]"),
        ("--out {0}/a.knn --table {0}/openface.csv --seed -1", "seed: expected a value in [0, inf], got -1"),
        (
            "--out {0}/a.knn --table {0}/openface.csv --data synthetic --train-images 9",
            "table: expected none for rendered faces",
        ),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(files, capsys, words, message):
    assert ferkit("graph build", words.format(files[0])) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not (files[0] / "a.knn").exists()


def test_training_graph_is_cached_beside_the_manifest_and_rebuilt_when_stale(files, capsys):
    folder, units, affect = files
    data = dataset(folder)
    graph = training_graph(data, "au", 3)
    (path,) = folder.glob("faces.au.*.knn")
    assert torch.equal(graph.indices, knn_graph(units, 3).indices) and path.is_file()
    stamp = path.stat().st_mtime_ns
    assert torch.equal(training_graph(data, "au", 2).indices, graph.indices[:, :2])
    assert path.stat().st_mtime_ns == stamp and capsys.readouterr().err == ""
    assert training_graph(data, "au", 5).k == 5 and "is built again: it has k=3" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:200])
    assert training_graph(data, "au", 3).n == 12 and "not whole" in capsys.readouterr().err
    near = training_graph(data, "va", 3, metric="l1")
    assert len(list(folder.glob("faces.va.l1.*.knn"))) == 1 and near.metric == "l1"
    expected = (affect[near.indices] - affect[:, None]).abs().sum(2)
    assert torch.allclose(near.affinity(0.5, "laplacian"), torch.exp(-expected / 0.5))


def test_folds_and_subsets_keep_graphs_of_their_own(files, capsys):
    folder, _, _ = files
    data = dataset(folder)
    folds = [data.subset(range(6)), data.subset(range(6, 12)), data]
    built = [training_graph(fold, "au", 3) for fold in folds]
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("faces.au.*.knn")}
    assert len(stamps) == 3
    for fold, graph in zip(folds, built):
        assert torch.equal(training_graph(fold, "au", 3).indices, graph.indices)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.knn")} == stamps
    assert capsys.readouterr().err == ""


def test_training_graph_of_rendered_faces(tmp_path, capsys):
    faces = SyntheticFaces(30, size=32)
    assert training_graph(faces, "va", 4).n == 30
    training_graph(faces, "va", 4, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert re.fullmatch(r"synthetic\.va\.[0-9a-f]{12}\.knn", kept.name)
    other = SyntheticFaces(30, size=32, seed=1)
    with pytest.raises(ValueError, match="ids: as many, but not the same ones"):
        training_graph(other, "va", 4, path=kept)
    assert training_graph(faces, "va", 4, cache=tmp_path / "none").n == 30  # not kept, and said so
    assert "is not kept" in capsys.readouterr().err
    with pytest.raises(TypeError, match="expected a FaceDataset or SyntheticFaces, got list"):
        training_graph([1, 2], "va", 4)


def test_a_graph_without_names_belongs_by_its_rows(tmp_path):
    faces = SyntheticFaces(30, size=32)
    knn_graph(space_points(faces, "va")[0], 4).save(tmp_path / "va.knn")
    assert training_graph(faces, "va", 4, path=tmp_path / "va.knn").k == 4
    with pytest.raises(ValueError, match="points: as many rows"):
        training_graph(SyntheticFaces(30, size=32, seed=2), "va", 4, path=tmp_path / "va.knn")


def test_killed_while_building_nothing_is_torn_and_it_runs_again(tmp_path):
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(8_000, 64)).astype(np.float32))
    out = tmp_path / "f.knn"
    words = f"graph build --space features --method exact --table {tmp_path / 'f.npy'} -k 4 --out {out}".split()
    command = [sys.executable, "-m", "ferkit", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert b"8000 rows" in process.stdout.readline()  # read; the search comes now
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()
    process.stdout.close()
    assert subprocess.run(command, capture_output=True, env={**os.environ}).returncode == 0
    assert KNNGraph.load(out).n == 8_000


def test_the_graph_commands_need_no_lightning(files):
    code = (
        "import sys\nfor name in ('lightning', 'torchvision', 'torchmetrics'):\n    sys.modules[name] = None\n"
        "from ferkit.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = ["graph", "build", "--table", str(files[0] / "openface.csv"), "-k", "2", "--out", str(files[0] / "a.knn")]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    assert KNNGraph.load(files[0] / "a.knn").k == 2


def test_a_graph_of_another_space_is_refused(tmp_path):
    faces = SyntheticFaces(30, size=32)
    out = tmp_path / "au.knn"
    words = "--data synthetic --train-images 30 --size 32 --progress false -k 4 --out"
    assert ferkit("graph build --space au", words, out) == 0
    assert training_graph(faces, "au", 4, path=out).k == 4
    with pytest.raises(ValueError, match=r"au\.knn: expected a graph of space 'landmark', got one of 'au'"):
        training_graph(faces, "landmark", 4, path=out)


def test_training_takes_a_graph_of_features(tmp_path):
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(30, 5)))
    out = tmp_path / "f.knn"
    words = "--data synthetic --train-images 30 --size 32 --progress false -k 4 --space features"
    assert ferkit("graph build", words, "--table", tmp_path / "f.npy", "--out", out) == 0
    assert training_graph(SyntheticFaces(30, size=32), "features", 3, path=out).k == 3
    with pytest.raises(ValueError, match="space: expected 'au'"):
        training_graph(SyntheticFaces(30, size=32), "features", 3)


def test_unknown_affect_among_columns_is_missing(files):
    folder = files[0]
    lines = (folder / "faces.csv").read_text().splitlines()
    cells = lines[3].split(",")
    lines[3] = ",".join([*cells[:3], "-2", "-2", *cells[5:]])
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    points, _ = space_points(dataset(folder), "columns:au_12,valence")
    assert torch.isnan(points[2, 1]) and int(torch.isnan(points).sum()) == 1
    out = folder / "c.knn"
    words = ("--table", folder / "faces.csv", "--space columns:valence,au_12 -k 3 --out", out)
    assert ferkit("graph build", *words) == 0
    assert (~KNNGraph.load(out).valid[:, 0]).nonzero().flatten().tolist() == [2]
    lines[3] = ",".join([*cells[:3], "0.5", "4", *cells[5:]])
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"arousal: expected values in \[-1, 1\], .* got 4 \(1 of 12 rows: 2\)"):
        space_points(dataset(folder), "columns:au_12,arousal")
