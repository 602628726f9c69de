import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ferkit.reports import plot_confusion, replacing, save_figure, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_whole_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "käse")
    write_text(path, "more")
    assert path.read_text(encoding="utf-8") == "more"
    assert names(path.parent) == ["note.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "metrics.json"
    write_text(path, "old")
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["metrics.json"]


def test_a_disk_that_is_full_at_the_end_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["metrics.json"]


def test_temporary_file_is_beside_the_target_and_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / "picture.svg") as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".svg"
        temporary.write_text("x")
        assert not (tmp_path / "picture.svg").exists()


def test_json_is_strict_and_plain(tmp_path):
    path = tmp_path / "m.json"
    value = {
        "accuracy": torch.tensor(0.5, dtype=torch.float64),
        "counts": torch.tensor([1, 2]),
        "share": np.float32(0.25),
        "array": np.array([[1.0, math.nan]]),
        "nan": math.nan,
        "nested": [(1, math.inf), {"deep": None, 3: True}],
        "path": path,
        "name": "née",
    }
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "accuracy": 0.5,
        "counts": [1, 2],
        "share": 0.25,
        "array": [[1.0, None]],
        "nan": None,
        "nested": [[1, None], {"deep": None, "3": True}],
        "path": str(path),
        "name": "née",
    }
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_json_that_cannot_be_said_writes_nothing(tmp_path):
    path = tmp_path / "m.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert names(tmp_path) == ["m.json"]


def test_a_failing_figure_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "confusion.png"
    plot_confusion([[1, 0], [0, 1]], ("a", "b"), path)
    before = path.read_bytes()

    def half(self, target, **kwargs):
        with open(target, "wb") as file:
            file.write(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space left"):
        plot_confusion([[0, 1], [1, 0]], ("a", "b"), path)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["confusion.png"]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_suffix_chooses_the_format(tmp_path, suffix, start):
    path = tmp_path / f"figure.{suffix}"
    save_figure(Figure(figsize=(1, 1)), path)
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize(
    "block",
    [
        "sys.modules['matplotlib'] = None",
        "class Hook:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'matplotlib': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Hook())",
    ],
)
def test_import_without_matplotlib_names_the_extra(block):
    code = f"import sys\n{block}\ntry:\n    import ferkit.reports\nexcept ImportError as error:\n    print(error)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'ferkit.reports needs matplotlib: pip install "ferkit[train]"'


def test_import_leaves_matplotlib_for_the_first_picture():
    code = "import sys, ferkit.reports; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
