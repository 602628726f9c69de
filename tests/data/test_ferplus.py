"""The FERPlus reader on small trees that hold each trap of the published files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ferkit.data import EMOTIONS, FaceDataset, ImageError, ferplus, write_ferplus_images
from ferkit.data.readers.ferplus_targets import COLUMNS, TARGETS

FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
HEADER = "Usage,Image name," + ",".join(COLUMNS)

# (usage, name, votes in FERPlus's order, FER2013's label, grey value). Rows without a picture shift names and rows.
ROWS = [
    ("Training", "fer0000000.png", (0, 9, 0, 0, 1, 0, 0, 0, 0, 0), 3, 10),
    ("Training", "", (0, 0, 0, 0, 0, 0, 0, 0, 0, 10), 0, 0),
    ("Training", "fer0000001.png", (4, 0, 4, 0, 0, 0, 0, 0, 2, 0), 6, 20),
    ("Training", "fer0000002.png", (1, 0, 0, 0, 0, 0, 0, 0, 9, 0), 4, 30),
    ("Training", "fer0000003.png", (0, 0, 0, 0, 0, 0, 0, 0, 0, 10), 4, 35),
    ("Training", "fer0000004.png", (0, 0, 0, 2, 8, 0, 0, 0, 0, 0), 0, 40),  # twice, votes agree
    ("Training", "fer0000004.png", (0, 0, 0, 2, 8, 0, 0, 0, 0, 0), 0, 41),
    ("Training", "fer0000005.png", (0, 0, 0, 10, 0, 0, 0, 0, 0, 0), 4, 50),  # twice, votes differ
    ("Training", "fer0000005.png", (0, 0, 0, 0, 0, 0, 0, 0, 0, 10), 4, 51),
    ("PublicTest", "fer0000006.png", (0, 0, 0, 0, 0, 0, 6, 3, 0, 0), 2, 60),  # nine votes
    ("PublicTest", "fer0000007.png", (0, 10, 0, 0, 0, 0, 0, 0, 0, 0), 3, 10),  # a copy of the first
    ("PrivateTest", "fer0000008.png", (0, 0, 0, 0, 0, 5, 0, 5, 0, 0), 1, 80),
    ("PrivateTest", "fer0000009.png", (8, 0, 0, 0, 0, 0, 2, 0, 0, 0), 6, 20),  # a copy of the third
]


@pytest.fixture
def root(tmp_path):
    lines = [HEADER]
    tables = {folder: [] for folder in FOLDERS.values()}
    names = ["Image name,emotion"]
    pixels = ["emotion,pixels,Usage"]
    for usage, name, votes, label, grey in ROWS:
        cells = ",".join(map(str, votes))
        lines.append(f"{usage},{name},{cells}")
        pixels.append(f"{label},{' '.join([str(grey)] * 2304)},{usage}")
        if name:
            folder = tmp_path / FOLDERS[usage]
            folder.mkdir(exist_ok=True)
            Image.fromarray(np.full((48, 48), grey, dtype=np.uint8)).save(folder / name)
            tables[FOLDERS[usage]].append(f'{name},"(0, 0, 48, 48)",{cells}')
            names.append(f"{name},{label}")
    (tmp_path / "fer2013new.csv").write_text("\r\n".join(lines))  # no newline at the end
    (tmp_path / "fer2013_label.csv").write_text("\n".join(dict.fromkeys(names)) + "\n")
    (tmp_path / "fer2013.csv").write_text("\n".join(pixels) + "\n")
    for folder, table in tables.items():
        (tmp_path / folder / "label.csv").write_text("\n".join(table) + "\n")
    return tmp_path


def found(manifest):
    return {name[-8:-4]: EMOTIONS[label] for name, label in zip(manifest.image, manifest.label)}


@pytest.mark.parametrize("votes_file", ["fer2013new", "label"])
def test_plurality(root, votes_file):
    manifest = ferplus(root, "plurality", votes_file=votes_file)
    assert manifest.classes == EMOTIONS
    assert found(manifest) == {
        "0000": "happy",
        "0001": "neutral",  # a tie goes to the column further left
        "0004": "anger",
        "0006": "fear",
        "0007": "happy",
        "0008": "disgust",
        "0009": "neutral",
    }
    assert manifest.splits == ("train", "valid", "test")
    assert manifest.votes[1].tolist() == [4, 0, 0, 4, 0, 0, 0, 0]  # in ferkit's order
    assert manifest.image[3] == "FER2013Valid/fer0000006.png"
    assert manifest.distributions()[3, EMOTIONS.index("contempt")].item() == pytest.approx(3 / 9)
    assert manifest.labels("fer2013").tolist() == [EMOTIONS.index(e) for e in
        ("happy", "neutral", "anger", "fear", "happy", "disgust", "neutral")]  # fmt: skip
    data = FaceDataset(manifest)
    assert data[0]["image"].shape == (3, 48, 48) and int(data[1]["image"][0, 0, 0]) == 20


def test_both_files_tell_what_was_left_out(root):
    for votes_file, unnamed in (("fer2013new", 1), ("label", 0)):
        notes = ferplus(root, votes_file=votes_file).notes
        assert list(notes.values()) == [unnamed, 1, 1, 2]
        assert list(notes)[-1] == "faces without a plurality target"


def test_one_split(root):
    manifest = ferplus(root, split="val")
    assert manifest.splits == ("valid",) and len(manifest) == 2
    assert manifest.rows.tolist() == [11, 12]  # as an editor counts
    with pytest.raises(ValueError, match="split: expected one of"):
        ferplus(root, split="dev")


def test_other_targets(root):
    assert "0002" in found(ferplus(root, "votes")) and "0003" not in found(ferplus(root, "votes"))
    majority = found(ferplus(root, "majority"))
    assert "0001" not in majority and "0008" not in majority and majority["0006"] == "fear"
    soft = ferplus(root, "cross_entropy")
    row = soft.votes[[n.endswith("06.png") for n in soft.image]][0]
    assert row[EMOTIONS.index("fear")] == 6 and row[EMOTIONS.index("contempt")] == 3
    first = soft.votes[0]
    assert first[EMOTIONS.index("happy")] == 9 and first.sum() == 9  # the single vote is gone
    several = ferplus(root, "multi_target")
    assert several.votes[[n.endswith("08.png") for n in several.image]][0].tolist() == [0, 0, 0, 0, 0, 1, 0, 1]
    np.testing.assert_array_equal(ferplus(root, "probability").votes, soft.votes)


def test_label_is_the_most_voted_also_where_targets_are_equal(root):
    table = (root / "fer2013new.csv").read_text().replace("0,9,0,0,1,0,0,0,0,0", "3,7,0,0,0,0,0,0,0,0")
    (root / "fer2013new.csv").write_text(table)
    manifest = ferplus(root, "multi_target")
    assert found(manifest)["0000"] == "happy" and manifest.votes[0, :2].tolist() == [1, 1]


@pytest.mark.parametrize("table", ["by name", "by row"])
def test_original_labels(root, table):
    if table == "by row":
        (root / "fer2013_label.csv").unlink()
    manifest = ferplus(root, "fer2013")
    assert found(manifest) == {
        "0000": "happy",
        "0001": "neutral",
        "0002": "sad",
        "0004": "anger",
        "0006": "fear",
        "0007": "happy",
        "0008": "disgust",
        "0009": "neutral",
    }
    data = FaceDataset(manifest)
    assert data.true_labels[2] == -1  # unknown won
    assert data.true_labels[0] == EMOTIONS.index("happy")
    assert data.distributions[2].tolist() == [1] + [0] * 7
    (root / "fer2013.csv").unlink()
    (root / "fer2013_label.csv").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"needs fer2013_label.csv or fer2013.csv"):
        ferplus(root, "fer2013")


def test_copies_of_pictures(root):
    clean = ferplus(root, exclude_duplicates=True)
    assert set(found(clean)) == {"0000", "0001", "0004", "0006", "0008"}
    assert clean.notes["pictures equal to a training picture"] == 2
    assert found(ferplus(root, split="valid", exclude_duplicates=True)) == {"0006": "fear"}
    other = ferplus(root, exclude_duplicates="train", progress=True)
    assert set(found(other)) == {"0004", "0006", "0007", "0008", "0009"}
    with pytest.raises(ValueError, match="exclude_duplicates"):
        ferplus(root, exclude_duplicates="test")


def test_images_from_pixels(root):
    before = {p.relative_to(root): np.asarray(Image.open(p)) for p in root.glob("*/*.png")}
    for path in before:
        (root / path).unlink()
    assert write_ferplus_images(root) == len(before) == 10
    for path, pixels in before.items():
        np.testing.assert_array_equal(np.asarray(Image.open(root / path)), pixels)  # of doubled names the later


def edit(root, name, old, new):
    path = root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("fer2013new.csv", "0,9,0,0,1", "0,x,0,0,1", r"fer2013new.csv: row 2, column 'happiness': .* got 'x'"),
        ("fer2013new.csv", "0,9,0,0,1", "0,-9,0,0,1", r"row 2, column 'happiness'"),
        ("fer2013new.csv", "4,0,4,0", "4,0,4", r"fer2013new.csv: row 4: expected 12 cells, got 11"),
        ("fer2013new.csv", "Training", "Train", r"row 2, column 'Usage': expected one of .* got 'Train'"),
        ("fer2013new.csv", "happiness,surprise", "surprise,happiness", "row 1: expected the columns Usage"),
        (
            "fer2013_label.csv",
            "fer0000001.png,6",
            "fer0000001.png,7",
            r"row 3, column 'emotion': expected 0..6",
        ),
    ],
)
def test_bad_files(root, file, old, new, message):
    edit(root, file, old, new)
    with pytest.raises(ValueError, match=message):
        ferplus(root)


def test_unquoted_box(root):
    edit(root, "FER2013Train/label.csv", '"(0, 0, 48, 48)"', "(0, 0, 48, 48)")
    with pytest.raises(ValueError, match=r"FER2013Train.label.csv: row 1: expected 12 cells, got 15"):
        ferplus(root, votes_file="label")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10 10 ", "10 ", r"fer2013.csv: row 2, column 'pixels': expected 2304 integers in 0..255"),
        ("10 10 ", "10 256 ", r"row 2, column 'pixels'"),
        ("10 10 ", "10 x ", r"row 2, column 'pixels'"),
        (",Training", ",PublicTest", r"row 2, column 'Usage': expected 'Training' as in fer2013new.csv"),
        ("emotion,pixels", "pixels,emotion", "row 1: expected the columns emotion,pixels,Usage"),
    ],
)
def test_bad_pixels(root, old, new, message):
    edit(root, "fer2013.csv", old, new)
    with pytest.raises(ValueError, match=message):
        write_ferplus_images(root)


def test_row_join_needs_all_rows(root):
    path = root / "fer2013.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(ValueError, match=r"as many rows as fer2013new.csv .* got 13 and 14"):
        write_ferplus_images(root)


def test_missing_files(root, tmp_path):
    (root / "FER2013Train" / "fer0000000.png").unlink()
    with pytest.raises(ImageError, match=r"fer2013new.csv: row 2: image is missing"):
        FaceDataset(ferplus(root))
    (root / "fer2013new.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"fer2013new.csv"):
        ferplus(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected a folder FER2013Train"):
        ferplus(tmp_path / "empty")
    with pytest.raises(ValueError, match="labels: expected one of"):
        ferplus(root, "mode")


def rule(votes, name):
    """FERPlus's rules for one face, told step by step."""
    left = [v if v > 1 else 0 for v in votes]
    total = sum(left)
    taken = dict.fromkeys(range(10), 0)
    if name == "majority":
        best = left.index(max(left))
        return list(votes[:8]) if total and best < 8 and left[best] > total / 2 else None
    if name == "multi_target":
        taken.update({i: v for i, v in enumerate(left) if total and v * 10 >= total * 3 and v})
        if sum(taken.values()) <= total / 2 or max(taken, key=lambda i: (taken[i], -i)) >= 8:
            return None
        return [float(taken[i] > 0) for i in range(8)]
    stop = False
    while total and not stop and sum(taken.values()) < total * 0.75 and sum(v > 0 for v in taken.values()) < 3:
        peak = max(left)
        for i in range(10):
            if left[i] == peak:
                if i >= 8:
                    stop = True
                    if not any(taken.values()):
                        return None  # unknown or no face is first
                    break
                taken[i], left[i] = peak, 0
    if not total or sum(taken.values()) <= total / 2 or sum(v > 0 for v in taken.values()) > 3:
        return None
    return [taken[i] for i in range(8)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=10, max_size=10), min_size=1, max_size=20))
def test_targets_against_the_rules_told_step_by_step(table):
    votes = np.array([sorted_to_ten(row) for row in table])
    for name in ("majority", "cross_entropy", "multi_target"):
        target, keep = TARGETS[name](votes)
        for row, values, kept in zip(votes.tolist(), target.tolist(), keep):
            expected = rule(row, name)
            assert kept == (expected is not None)
            if kept:
                assert values == expected
                assert sum(values) > 0


def sorted_to_ten(row):
    """Cut to ten votes in all, as a face has."""
    out, rest = [], 10
    for value in row:
        out.append(min(value, rest))
        rest -= out[-1]
    return out[row[0] :] + out[: row[0]]
