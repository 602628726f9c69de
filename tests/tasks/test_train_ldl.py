"""``ferkit train ldl-alsg|ldlva`` on real files: graphs built, given, cached and refused; runs resumed and reviewed."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ferkit.cli import main
from ferkit.data import FaceDataset, Manifest
from ferkit.graph import KNNGraph, knn_graph
from ferkit.recipes import LDLALSG, LDLVA
from ferkit.tasks import DataOptions
from ferkit.tasks.data import build_dataset
from ferkit.tasks.graph import build_graph, space_points
from ferkit.tasks.neighbors import GraphOptions, attach_graphs
from ferkit.tasks.run import METHODS, Run, load_recipe
from ferkit.tasks.training import FitOptions, default_folder

COMMON = "--progress false --accelerator cpu --epochs 2 --noise 0.3 --seed 1"
SMALL = f"--train-images 42 --validation-images 12 --size 24 --batch-size 14 {COMMON}"
SPACES = {"ldl-alsg joint": "--spaces [au,landmark]"}
PASSES = ["ldl-alsg joint", "ldl-alsg bank", "ldlva train", "ldlva bank"]


def ferkit(*words):
    return main([part for word in words for part in (word.split() if isinstance(word, str) else [str(word)])])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Short runs by "method pass", each made once."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name):
        if name not in made:
            method, neighbor_pass = name.split()
            spaces = SPACES.get(name, "")
            made[name] = folder / name.replace(" ", "-")
            assert ferkit(f"train {method} {SMALL} --neighbor-pass {neighbor_pass} {spaces} --out", made[name]) == 0
        return made[name]

    return run


@pytest.fixture(scope="module")
def graph_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "units.knn"
    data = DataOptions(train_images=42, size=24)
    build_graph(str(path), "au", 4, data=data, progress=False)
    return path


@pytest.fixture
def manifest(tmp_path):
    """Twelve faces of two classes, with valence and arousal."""
    rng = np.random.default_rng(0)
    rows = ["image,split,label,valence,arousal"]
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        valence, arousal = rng.uniform(-1, 1, 2).round(3)
        rows.append(f"{i}.png,{'train' if i < 12 else 'valid'},{('happy', 'sad')[i % 2]},{valence},{arousal}")
    (tmp_path / "faces.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "faces.csv"


MANIFEST = "--data manifest --classes [happy,sad] --size 24 --batch-size 6 --neighbors 3 --epochs 1 --progress false"


def test_run_folder_says_what_was_trained_on(runs):
    run = runs("ldl-alsg joint")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["spaces"] == ["au", "landmark"] and config["neighbors"] == 4 and config["lam"] > 0
    assert set(config["graph_fingerprints"]) == set(config["sigma"]) == {"au", "landmark"}
    assert sorted(path.name for path in (run / "graphs").iterdir()) == ["au.knn", "landmark.knn"]
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["3", "6"] and float(rows[0]["train_guidance"]) > 0
    figures = json.loads((run / "metrics.json").read_text())
    assert {"accuracy", "total_variation", "jeffreys", "flip_auc"} < set(figures)


def test_certainties_are_in_the_label_list(runs):
    run = runs("ldlva bank")
    rows = list(csv.DictReader((run / "labels.csv").open()))
    recipe = load_recipe(Run(run))
    assert isinstance(recipe, LDLVA) and len(rows) == 42
    certainty = recipe.label_certainty()
    assert [float(row["certainty"]) for row in rows] == pytest.approx(
        [float(certainty[int(row["index"])]) for row in rows], abs=1e-4
    )
    assert certainty.std() > 0 and recipe.certainty.ids[7] == "0/7"
    assert "certainty" not in (runs("ldl-alsg joint") / "labels.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("name", PASSES)
def test_killed_and_resumed_is_the_same_run(runs, name, tmp_path, monkeypatch):
    whole, cut = runs(name), tmp_path / "cut"
    method, neighbor_pass = name.split()
    kind = METHODS[method]
    words = (f"train {method} {SMALL} --neighbor-pass {neighbor_pass} {SPACES.get(name, '')} --out", cut)
    loss, calls = kind.batch_loss, []

    def breaks_in_the_second_epoch(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise OSError("power cut")
        return loss(self, *arguments)

    monkeypatch.setattr(kind, "batch_loss", breaks_in_the_second_epoch)
    assert ferkit(*words) == 2
    monkeypatch.undo()
    assert ferkit(*words, "--resume true") == 0
    states = [torch.load(Run(out).checkpoint, weights_only=True) for out in (whole, cut)]
    for part in ("state_dict", "neighbor_bank"):
        a, b = (state.get(part, {}) for state in states)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert ("neighbor_bank" in states[0]) == (neighbor_pass == "bank")
    for file in ("metrics.csv", "metrics.json", "labels.csv", "config.yaml"):
        assert (cut / file).read_text() == (whole / file).read_text()


def test_evaluate_repeats_the_runs_own_figures(runs):
    for name in ("ldl-alsg joint", "ldlva bank"):
        run = runs(name)
        assert ferkit("evaluate", run, "--data synthetic --validation-images 12") == 0
        again = json.loads((run / "evaluate-synthetic-validation.json").read_text())
        figures = json.loads((run / "metrics.json").read_text())
        assert all(again[key] == pytest.approx(figures[key], abs=1e-6) for key in again)


def test_graphs_that_are_given(runs, graph_file, tmp_path):
    words = f"train ldl-alsg {SMALL} --neighbor-pass bank --epochs 1"
    assert ferkit(words, "--graph", f"au={graph_file}", "--sigma au=1.5 --out", tmp_path / "given") == 0
    config = yaml.safe_load((tmp_path / "given" / "config.yaml").read_text())
    built = yaml.safe_load((runs("ldl-alsg bank") / "config.yaml").read_text())
    assert config["spaces"] == ["au"] and config["graph"] == {"au": str(graph_file)} and config["sigma"] == {"au": 1.5}
    assert config["graph_fingerprints"]["au"] == built["graph_fingerprints"]["au"]
    assert not (tmp_path / "given" / "graphs").exists()
    # The configuration of a run is one for a run, and its graph must be the same one.
    again = tmp_path / "again"
    assert (
        ferkit("train ldl-alsg --config", tmp_path / "given" / "config.yaml", f"{COMMON} --epochs 1 --out", again) == 0
    )
    assert (again / "metrics.csv").read_text() == (tmp_path / "given" / "metrics.csv").read_text()


def test_graph_of_other_images_is_refused(graph_file, tmp_path, capsys):
    words = f"train ldl-alsg {SMALL} --train-images 40"
    assert ferkit(words, "--graph", f"au={graph_file}", "--out", tmp_path / "out") == 2
    assert "units.knn" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_other_graph_than_the_configuration_names_is_refused(graph_file, tmp_path, capsys):
    words = (
        "--graph",
        f"au={graph_file}",
        "--graph-fingerprints",
        '{"au":"0123456789abcdef"}',
        "--out",
        tmp_path / "o",
    )
    assert ferkit(f"train ldl-alsg {SMALL}", *words) == 2
    assert "graph_fingerprints: expected 0123456789abcdef for 'au'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_several_graphs_and_their_repetition(graph_file, tmp_path, capsys):
    twice = ("--graph", f"au={graph_file}", f"--graph=au={graph_file}")
    assert ferkit(f"train ldl-alsg {SMALL}", *twice, "--out", tmp_path / "out") == 2
    assert "graph: expected each space once, got 'au' twice" in capsys.readouterr().err
    assert ferkit(f"train ldl-alsg {SMALL} --graph au.knn --out", tmp_path / "out") == 2
    assert "graph: expected space=value" in capsys.readouterr().err
    copy = tmp_path / "copy.knn"
    graph = KNNGraph.load(graph_file)
    replace(graph, meta={**graph.meta, "space": "columns:au_AU12,au_AU04"}).save(copy)
    both = ("--graph", f"au={graph_file}", "--graph", f"columns:au_AU12,au_AU04={copy}")
    assert ferkit(f"train ldl-alsg {SMALL} --neighbor-pass bank --epochs 1", *both, "--out", tmp_path / "both") == 0
    config = yaml.safe_load((tmp_path / "both" / "config.yaml").read_text())
    assert config["spaces"] == ["au", "columns:au_AU12,au_AU04"]


def test_graphs_of_a_manifest_are_kept_beside_it(manifest, tmp_path):
    assert ferkit("train ldlva", MANIFEST, "--accelerator cpu", "--root", manifest, "--out", tmp_path / "run") == 0
    kept = [path for path in tmp_path.iterdir() if path.suffix == ".knn"]
    assert len(kept) == 1 and KNNGraph.load(kept[0]).n == 12 and not (tmp_path / "run" / "graphs").exists()
    before = kept[0].stat().st_mtime_ns
    assert ferkit("train ldlva", MANIFEST, "--accelerator cpu", "--root", manifest, "--out", tmp_path / "second") == 0
    assert kept[0].stat().st_mtime_ns == before
    configs = [yaml.safe_load((tmp_path / run / "config.yaml").read_text()) for run in ("run", "second")]
    assert configs[0] == configs[1] and configs[0]["spaces"] == ["va"]


def test_affinity_of_other_rows_than_the_graphs_is_refused(manifest, tmp_path, capsys):
    words = ("train ldlva", MANIFEST, "--accelerator cpu", "--root", manifest)
    lines = [line.split(",") for line in manifest.read_text().splitlines()]
    detector = tmp_path / "detector.csv"  # of the same images, with other valences
    rows = [[name, str(round(0.5 * float(v) + 0.1, 3)), a] for name, _, _, v, a in lines[1:]]
    detector.write_text("\n".join(",".join(row) for row in [["image", "valence", "arousal"], *rows]))
    build = "graph build --space va -k 3 --progress false --data manifest --classes [happy,sad] --size 24"
    for metric in ("l2", "l1"):
        where = ("--root", manifest, "--metric", metric)
        assert ferkit(build, *where, "--table", detector, "--out", tmp_path / f"{metric}.knn") == 0
    capsys.readouterr()
    assert ferkit(*words, "--graph", f"va={tmp_path / 'l2.knn'}", "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "expected a neighbour at distance" in error and "--metric l1" in error and not (tmp_path / "run").exists()
    assert ferkit(*words, "--graph", f"va={tmp_path / 'l1.knn'}", "--out", tmp_path / "l1") == 0
    # Without columns of its own the data can only be told the same: a graph of l1 carries its affinity.
    manifest.write_text("\n".join(",".join(cells[:3]) for cells in lines))
    assert ferkit(*words, "--graph", f"va={tmp_path / 'l2.knn'}", "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "'va' needs the columns valence and arousal" in error and "--metric l1" in error
    assert ferkit(*words, "--graph", f"va={tmp_path / 'l1.knn'}", "--out", tmp_path / "bare") == 0
    assert (tmp_path / "bare" / "metrics.csv").read_text() == (tmp_path / "l1" / "metrics.csv").read_text()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_a_graph_may_have_gaps_and_another_dtype(manifest, tmp_path, dtype):
    """A face without valence has no neighbours; a detector's table may have been read in another precision."""
    lines = manifest.read_text().splitlines()
    lines[3] = lines[3].rsplit(",", 2)[0] + ",,"
    manifest.write_text("\n".join(lines) + "\n")
    data = build_dataset(DataOptions("manifest", str(manifest), classes=["happy", "sad"], size=24), "train")
    points, ids = space_points(data, "va")
    path = tmp_path / "given.knn"
    knn_graph(points.numpy().astype(dtype), 3, nonfinite="isolate", ids=ids).save(path)
    for given in ({"va": str(path)}, None):
        recipe = LDLVA(2, neighbors=3)
        made = attach_graphs(recipe, data, GraphOptions(graph=given), Run(tmp_path / "run"))
        indices, weights = made.tables["va"]
        assert indices[2].tolist() == [-1, -1, -1] and weights[2].eq(0).all() and weights[:2].gt(0).all()


def test_columns_that_are_not_there(manifest, tmp_path, capsys):
    assert ferkit("train ldl-alsg", MANIFEST, "--root", manifest, "--out", tmp_path / "run") == 2
    assert "'au' needs the columns" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_default_run_folder_names_the_fold(manifest):
    data = DataOptions("manifest", str(manifest), folds=3, fold=1)
    assert default_folder("ce", data, FitOptions(seed=4)) == "runs/ce-manifest-seed4-fold1"
    assert default_folder("ce", replace(data, folds=None, fold=None), FitOptions()) == "runs/ce-manifest-seed0"


def test_help_explains_the_options(capsys):
    for method in ("ldl-alsg", "ldlva"):
        with pytest.raises(SystemExit) as stop:
            main(["train", method, "--help"])
        assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--graph",
        "--spaces",
        "--lam",
        "--neighbor_pass",
        "--certainty_lr",
        "--bandwidth",
        "--label_smoothing",
    ):
        assert option in text
    assert "weight of the guidance" in text and "learning rate of the free scalars" in text


def test_names_of_the_methods_and_their_spaces():
    assert METHODS["ldl-alsg"] is LDLALSG and METHODS["ldlva"] is LDLVA
    assert LDLALSG(7).spaces == ("au",) and LDLALSG(7, preset="published").spaces == ("au", "landmark")
    assert LDLVA(7).spaces == ("va",)


def test_batches_of_neighbours_ask_for_every_class_too(manifest, tmp_path, capsys):
    joint = f"train ldl-alsg --root {manifest} --spaces [va] --neighbor-pass joint --out {tmp_path}/r"
    assert ferkit(joint, MANIFEST.replace("[happy,sad]", "[happy,sad,fear]")) == 2
    assert "classes: expected a training image of each, got none of fear" in capsys.readouterr().err
    assert ferkit(joint, MANIFEST.replace("--batch-size 6", "--batch-size 64")) == 2
    assert "batch_size: expected at most the 12 rows" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_graphs_of_data_without_a_file_are_kept_in_the_run(manifest, tmp_path):
    dataset = FaceDataset(replace(Manifest.read(manifest), source=str(tmp_path)), size=24)
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    attach_graphs(LDLVA(7, neighbors=3), dataset, GraphOptions(), run).keep(run, dataset)
    assert [path.name for path in run.graphs.iterdir()] == ["va.knn"]


def test_valence_and_arousal_that_are_all_the_same_are_refused(manifest, tmp_path, capsys):
    head, *rows = manifest.read_text().splitlines()
    flat = [",".join([*row.split(",")[:3], "0.1", "0.2"]) for row in rows]
    manifest.write_text("\n".join([head, *flat]) + "\n")
    assert ferkit(f"train ldlva {MANIFEST} --root {manifest} --out {tmp_path}/r") == 2
    assert "expected valence and arousal that differ" in capsys.readouterr().err
