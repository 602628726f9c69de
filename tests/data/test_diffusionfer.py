"""DiffusionFER's sheet, in the layout it is published in and with the columns added to it."""

from __future__ import annotations

import numpy as np
import pytest

from ferkit.data import Manifest, diffusionfer

HEADER = "image,valence,arousal,expression,folder_label,AU01,AU04,AU43"
ROWS = [
    "images/0000.jpg,-0.1000,0.1000,neutral,neutral,0.4282,0.3152,1.0000",
    "images/0001.jpg,0.6,0.2,happy,happy,0.1,,0",
    "images/0002.jpg,-2,-2,anger,angry,0.1,0.2,0.3",
    "images/0003.jpg,,1.0,anger,disgust,0.1,0.2,0.3",
    "images/0004.jpg,-1.0,-0.3,sad,,0.1,0.2,0.3",
    "images/0005.jpg,0,0,,fear,0.1,0.2,0.3",
]


@pytest.fixture
def sheet(tmp_path):
    def write(rows=ROWS, header=HEADER, name="sheet.csv"):
        (tmp_path / name).write_text("\n".join([header, *rows, ""]))
        return tmp_path

    return write


def test_columns(sheet):
    root = sheet()
    manifest = diffusionfer(root)
    assert manifest.image.tolist() == [row.split(",")[0] for row in ROWS] and manifest.root == root
    assert manifest.splits == ("train",)
    assert manifest.classes == ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")
    assert manifest.label.tolist() == [0, 1, 6, 6, 2, -1]
    assert {k: v.tolist() for k, v in manifest.source_labels.items()} == {
        "true": [0, 1, 6, 6, 2, -1],
        "folder": [0, 1, 6, 5, -1, 4],
    }
    nan = float("nan")
    np.testing.assert_array_equal(manifest.valence, [-0.1, 0.6, nan, nan, -1, 0])
    np.testing.assert_array_equal(manifest.arousal, [0.1, 0.2, nan, 1, -0.3, 0])
    assert list(manifest.action_units) == ["01", "04", "43"]
    np.testing.assert_array_equal(manifest.action_units["04"], [0.3152, nan, 0.2, 0.2, 0.2, 0.2])


def test_folder_labels_are_the_noisy_ones(sheet):
    manifest = diffusionfer(sheet(), labels="folder")
    assert manifest.label.tolist() == [0, 1, 6, 5, -1, 4]
    assert manifest.labels("true").tolist() == [0, 1, 6, 6, 2, -1]


def test_sheet_as_published(sheet):
    """Numbers in AffectNet's order, and the prompt's emotion in the path."""
    rows = ["S/cropped/angry/a.jpg,-0.5,0.4,6", "S/cropped/fear/b.jpg,0,0,3", "S/cropped/surprise/c.jpg,0,0,0"]
    root = sheet(rows, "subDirectory_filePath,valence,arousal,expression", "dataset_sheet.csv")
    manifest = diffusionfer(root, labels="folder")
    assert manifest.labels("true").tolist() == [6, 3, 0] and manifest.label.tolist() == [6, 4, 3]
    assert not manifest.action_units
    assert diffusionfer(root / "dataset_sheet.csv").label.tolist() == [6, 3, 0]


def test_without_folder_labels(sheet):
    root = sheet(["a.jpg,0,0,happy"], "image,valence,arousal,expression")
    assert list(diffusionfer(root).source_labels) == ["true"]
    with pytest.raises(ValueError, match="row 1: labels 'folder' needs the column 'folder_label'"):
        diffusionfer(root, labels="folder")


def test_written_and_read_again(sheet, tmp_path):
    manifest = diffusionfer(sheet(), labels="folder")
    manifest.write(tmp_path / "manifest.csv")
    again = Manifest.read(tmp_path / "manifest.csv")
    assert again.label.tolist() == manifest.label.tolist() and again.image.tolist() == manifest.image.tolist()
    for name in ("true", "folder"):
        assert again.source_labels[name].tolist() == manifest.source_labels[name].tolist()
    for code, values in manifest.action_units.items():
        np.testing.assert_array_equal(again.action_units[code], values)
    np.testing.assert_array_equal(again.valence, manifest.valence)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,0,0,contempt,happy,0,0,0", "row 3, column 'expression': expected one of neutral, .* got 'contempt'"),
        ("a.jpg,0,0,7,happy,0,0,0", "row 3, column 'expression': expected .* 0..6, got '7'"),
        ("a.jpg,0,0,happy,cat,0,0,0", "row 3, column 'folder_label': .* got 'cat'"),
        ("a.jpg,1.5,0,happy,happy,0,0,0", r"row 3, column 'valence': expected a value in \[-1, 1\], got 1.5"),
        ("a.jpg,0,x,happy,happy,0,0,0", "row 3, column 'arousal': expected a number, got 'x'"),
        ("a.jpg,0,0,happy,happy,0,inf,0", "row 3, column 'AU04': expected a finite number, got 'inf'"),
        (",0,0,happy,happy,0,0,0", "row 3, column 'image': expected a path, got ''"),
        ("a.jpg,0,0,happy,happy,0", "row 3: expected 8 cells as in the header, got 6"),
    ],
)
def test_bad_cells_are_named(sheet, row, message):
    with pytest.raises(ValueError, match=message):
        diffusionfer(sheet([ROWS[0], row, ROWS[1]]))


def test_bad_requests_are_named(sheet, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected sheet.csv or dataset_sheet.csv in "):
        diffusionfer(tmp_path)
    with pytest.raises(ValueError, match="labels: expected one of 'sheet', 'folder', got 'prompt'"):
        diffusionfer(sheet(), labels="prompt")
    with pytest.raises(ValueError, match=r"row 1: expected the columns .*, missing \['arousal'\], got \['image', .*\]"):
        diffusionfer(sheet(["a.jpg,0,happy"], "image,valence,expression"))
    with pytest.raises(ValueError, match="expected rows below the header"):
        diffusionfer(sheet([]))
    (tmp_path / "sheet.csv").write_text("")
    with pytest.raises(ValueError, match="row 1: expected the columns"):
        diffusionfer(tmp_path)
