"""Tables of OpenFace, py-feat and others: headers, failures, several faces, and which row belongs to which image."""

import numpy as np
import pytest

pytest.importorskip("pandas")

from ferkit.data.readers.detector_table import DetectorTable
from ferkit.data.readers.openface import openface
from ferkit.data.readers.pyfeat import pyfeat
from ferkit.data.readers.tables import read_table

CODES = [f"{code:02d}" for code in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)]
FEAT = [f"{code:02d}" for code in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)]
POINTS = [f"{axis}_{i}" for axis in "xy" for i in range(68)]


def write(path, header, rows):
    path.write_text("\n".join([",".join(header), *(",".join(str(cell) for cell in row) for row in rows)]) + "\n")
    return path


def video(path, rows, blank=" "):
    """OpenFace 2's table of a video: (frame, face_id, confidence, success, intensity) a row."""
    names = ["frame", "face_id", "timestamp", "confidence", "success", "gaze_0_x", *POINTS]
    names += [f"AU{code}_r" for code in CODES] + [f"AU{code}_c" for code in [*CODES, "28"]]
    header = [names[0], *(blank + name for name in names[1:])]
    lines = []
    for frame, face, confidence, success, value in rows:
        numbers = [frame, face, frame / 30, confidence, success, 0.1, *(value + i for i in range(136))]
        lines.append([*numbers, *(value / 10 + i / 100 for i in range(17)), *([1] * 18)])
    return write(path, header, lines)


def table(names, values=None):
    values = np.arange(len(names), dtype=float)[:, None] if values is None else values
    return DetectorTable(tuple(names), ("a",), values, np.zeros(len(names), bool), "t.csv")


@pytest.mark.parametrize("blank", [" ", ""])
def test_openface_video(tmp_path, blank):
    path = video(tmp_path / "clip.csv", [(1, 0, 0.98, 1, 5), (2, 0, 0.98, 1, 7), (3, 0, 0.0, 0, 0)], blank)
    units = openface(path)
    assert units.names == ("clip/1", "clip/2", "clip/3") and units.columns == tuple(f"AU{code}" for code in CODES)
    assert units.values[1].tolist() == pytest.approx([0.7 + i / 100 for i in range(17)])
    assert units.failed.tolist() == [False, False, True] and np.isnan(units.values[2]).all()
    assert units.notes == {"failed": 1, "further_faces": 0}
    points = openface(path, "landmark")
    assert points.columns[:4] == ("x_0", "y_0", "x_1", "y_1")
    assert points.values[0, :4].tolist() == [5, 5 + 68, 6, 6 + 68]  # the file has all x, then all y


def test_openface_failures_and_confidence(tmp_path):
    rows = [(1, 0, 0.9, 1, 1), (2, 0, 0.9, 0, 1), (3, 0, 0.4, 1, 1), (4, 0, 0.5, 1, 1)]
    path = video(tmp_path / "clip.csv", rows)
    assert openface(path).failed.tolist() == [False, True, True, False]
    assert openface(path, min_confidence=0.3).failed.tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="min_confidence"):
        openface(path, min_confidence=2)


def test_openface_most_certain_face_of_each_frame(tmp_path):
    rows = [
        (1, 0, 0.7, 1, 10),
        (1, 1, 0.9, 1, 20),
        (2, 0, 0.8, 1, 30),
        (2, 1, 0.99, 0, 40),
        (3, 0, 0.8, 1, 50),
        (3, 1, 0.8, 1, 60),
    ]
    units = openface(video(tmp_path / "clip.csv", rows))
    assert units.names == ("clip/1", "clip/2", "clip/3") and units.notes["further_faces"] == 3
    assert units.values[:, 0].tolist() == [2, 3, 5]  # a failed one never wins, and of equals the first


def test_openface_folder_of_image_tables(tmp_path):
    header = ["face", " confidence", *(f" AU{code}_r" for code in CODES)]
    for i in range(3):
        write(tmp_path / f"img_{i}.csv", header, [[face, 0.6 + 0.1 * face, *([i + face] * 17)] for face in range(2)])
    units = openface(tmp_path)
    assert units.names == ("img_0", "img_1", "img_2") and units.values[:, 0].tolist() == [1, 2, 3]
    assert read_table(tmp_path).values.tolist() == units.values.tolist()
    write(tmp_path / "img_9.csv", header[:-1], [[0, 0.9, *([1] * 16)]])
    with pytest.raises(ValueError, match=r"img_9\.csv: expected the same columns as .*img_0\.csv"):
        openface(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected CSV files in the folder"):
        openface(tmp_path / "empty")


def test_openface_3_positions(tmp_path):
    header = ["image_path", *(f"AU0{i}_r" for i in range(1, 9))]
    units = openface(write(tmp_path / "o3.csv", header, [["a.jpg", *range(8)], ["b.jpg", *range(8)]]))
    assert units.columns == ("AU01", "AU06", "AU12", "AU15", "AU17", "AU02", "AU09", "AU10")
    assert units.names == ("a.jpg", "b.jpg") and units.values[0].tolist() == list(range(8))


def test_openface_that_is_none(tmp_path):
    path = write(tmp_path / "t.csv", ["frame", "confidence", "AU01_r"], [[1, 0.9, "wide"]])
    with pytest.raises(ValueError, match=r"t\.csv: row 2, column 'AU01_r': expected a number, got 'wide'"):
        openface(path)
    with pytest.raises(ValueError, match="expected OpenFace's columns x_0"):
        openface(path, "landmark")
    with pytest.raises(ValueError, match="expected OpenFace's columns x_0"):
        openface(write(tmp_path / "u.csv", ["confidence", "x_0", "x_1", "y_0"], [[1, 1, 1, 1]]), "landmark")
    with pytest.raises(ValueError, match="space"):
        openface(path, "va")
    with pytest.raises(FileNotFoundError, match="no such file"):
        openface(tmp_path / "none.csv")
    (tmp_path / "nothing.csv").write_text("")
    with pytest.raises(ValueError, match="not a CSV table"):
        openface(tmp_path / "nothing.csv")
    (tmp_path / "ragged.csv").write_text("frame,confidence,AU01_r\n1,2,3\n1,2,3,4,5\n")
    with pytest.raises(ValueError, match=r"ragged\.csv: row 3: expected 3 cells as in the header, got 5"):
        openface(tmp_path / "ragged.csv")


def test_commas_at_the_end_of_rows_move_no_column(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("frame,confidence,AU01_r\n1,0.9,3,\n2,0.8,4,\n\n")
    assert openface(path).values.tolist() == [[3], [4]] and openface(path).names == ("t/1", "t/2")
    path.write_text('image,AU01_r\n"a, b.jpg",3\n')
    assert openface(path).names == ("a, b.jpg",)
    path.write_text("frame,confidence,AU01_r\n1,0.9,3\n2,0.8")  # torn
    with pytest.raises(ValueError, match="row 3: expected 3 cells as in the header, got 2"):
        openface(path)


def test_pyfeat(tmp_path):
    header = ["", "FaceScore", *POINTS, *(f"AU{code}" for code in FEAT), "anger", "input", "frame"]

    def row(number, score, value, name, frame=0):
        return [number, score, *([value] * 136), *([value] * 20), 0.5, name, frame]

    rows = [
        row(0, 0.9, 0.1, "in/a.jpg"),
        row(1, 0.95, 0.2, "in/a.jpg"),
        row(2, "", "", "in/b.jpg"),
        row(3, 0.2, 0.3, "c.jpg"),
    ]
    path = write(tmp_path / "fex.csv", header, rows)
    units = pyfeat(path)
    assert units.columns == tuple(f"AU{code}" for code in FEAT) and units.names == ("in/a.jpg", "in/b.jpg", "c.jpg")
    assert units.failed.tolist() == [False, True, True] and units.values[0, 0] == 0.2
    assert units.notes == {"failed": 2, "further_faces": 1}
    assert read_table(path, min_confidence=0.1).failed.tolist() == [False, True, False]
    assert pyfeat(path, "landmark").values.shape == (3, 136)
    film = write(tmp_path / "film.csv", header, [row(0, 0.9, 0.1, "in/f.mp4", 0), row(1, 0.9, 0.2, "in/f.mp4", 24)])
    assert pyfeat(film).names == ("f/0", "f/24")
    with pytest.raises(ValueError, match="expected py-feat's columns AU01"):
        pyfeat(write(tmp_path / "no.csv", ["input", "x_0"], [["a", 1]]))


def test_other_tables(tmp_path):
    path = write(
        tmp_path / "m.csv",
        ["image", "valence", "arousal", "au_01", "au_12", "label"],
        [["a.png", -2, 0.5, 1, 2, "happy"]],
    )
    assert read_table(path, "va").values.tolist() == [[-2, 0.5]]
    assert read_table(path).columns == ("au_01", "au_12")
    chosen = read_table(path, "columns", ["au_12", "valence"])
    assert chosen.values.tolist() == [[2, -2]] and chosen.names == ("a.png",)
    with pytest.raises(ValueError, match=r"m\.csv: expected the columns au_99, missing au_99"):
        read_table(path, "columns", ["au_99"])
    with pytest.raises(ValueError, match=r"expected a table of OpenFace .*--space columns"):
        read_table(path, "landmark")
    with pytest.raises(ValueError, match="expected a column 'who' of image names"):
        read_table(path, "va", name_column="who")
    unnamed = write(tmp_path / "n.csv", ["p", "q"], [[1, 2], [3, "nan"], ["", 5]])
    rows = read_table(unnamed, "columns", ["q", "p"])
    assert rows.names == ("n/1", "n/2", "n/3") and rows.failed.tolist() == [False, True, True]
    named = write(tmp_path / "k.csv", ["who", "p"], [["x", 1], ["y", "inf"]])
    assert read_table(named, "columns", ["p"], name_column="who").failed.tolist() == [False, True]


@pytest.mark.parametrize(
    ("rows", "images"),
    [
        (["b.jpg", "a.jpg"], ["a.jpg", "b.jpg"]),
        (["/data/in/b.jpg", "/data/in/a.jpg"], ["images/a.jpg", "images/b.jpg"]),
        ([r"C:\in\b.jpg", r"C:\in\a.jpg"], ["./in/a.jpg", "in/b.jpg"]),
        (["b", "a"], ["x/a.png", "x/b.jpeg"]),
        (["train_2.jpg", "train_1.jpg"], ["train_1_aligned.jpg", "train_2_aligned.jpg"]),
        (["v/2", "v/1"], ["crops/v/00001.jpg", "crops/v/00002.jpg"]),
        (["2/a.jpg", "1/a.jpg"], ["all/1/a.jpg", "all/2/a.jpg"]),  # one file name in two folders
    ],
)
def test_rows_find_their_images(rows, images):
    match = table(rows).match(images)
    assert match.rows.tolist() == [1, 0] and not match.missing and not match.unused


def test_what_does_not_match_is_told():
    match = table(["a.jpg", "x.jpg", "y.jpg"]).match(["a.jpg", "b.jpg"])
    assert match.rows.tolist() == [0, -1] and match.missing == ["b.jpg"] and match.unused == ["x.jpg", "y.jpg"]
    text = "t.csv: 1 of 2 images have a row; 1 have none: b.jpg; 2 rows have no image: x.jpg, y.jpg"
    assert str(match) == text
    taken = table(["a.jpg", "x.jpg", "y.jpg"]).take(match)
    assert taken.names == ("a.jpg", "b.jpg") and taken.failed.tolist() == [False, True]
    assert taken.values[0, 0] == 0 and np.isnan(taken.values[1, 0]) and taken.notes["without_row"] == 1
    many = table([f"r{i}" for i in range(9)]).match(["r0", *(f"i{i}" for i in range(9))])
    assert "9 have none: i0, i1, i2, i3, i4, ...;" in str(many) and "8 rows have no image: r1" in str(many)


def test_nothing_matches_and_one_row_for_two():
    with pytest.raises(
        ValueError, match=r"no row belongs to any of the 2 images: rows are named q\.jpg, images a\.jpg, b"
    ):
        table(["q.jpg"]).match(["a.jpg", "b.jpg"])
    with pytest.raises(ValueError, match=r"row 'a\.jpg' fits 2 images: 1/a\.jpg, 2/a\.jpg"):
        table(["a.jpg"]).match(["1/a.jpg", "2/a.jpg"])
    ambiguous = table(["1/a.jpg", "2/a.jpg", "b.jpg"]).match(["a.jpg", "b.jpg"])  # which a.jpg is not guessed
    assert ambiguous.rows.tolist() == [-1, 2]
    assert table([]).match([]).rows.tolist() == []


def test_a_row_serves_one_image_and_folders_that_matter_are_kept():
    # sad/1.jpg has no row: that of happy/1.jpg, which has its image, is not it
    match = table(["happy/1.jpg", "happy/2.jpg"]).match(["happy/1.jpg", "sad/1.jpg", "happy/2.jpg"])
    assert match.rows.tolist() == [0, -1, 1] and match.missing == ["sad/1.jpg"]
    # nor is the row of another folder, where folders tell images apart
    match = table(["happy/1.jpg", "sad/2.jpg"]).match(["happy/1.jpg", "happy/2.jpg"])
    assert match.rows.tolist() == [0, -1] and match.unused == ["sad/2.jpg"]
    assert table(["0.png"]).match(["0.png", "0.jpg"]).rows.tolist() == [0, -1]


def test_numbers_of_frames_and_rows_are_no_file_names():
    with pytest.raises(ValueError, match="no row belongs to any of the 3 images: rows are named t/1"):
        table(["t/1", "t/2", "t/3"]).match(["0.jpg", "1.jpg", "2.jpg"])


def test_names_are_text(tmp_path):
    path = write(tmp_path / "t.csv", ["image", "valence", "arousal"], [["0012", 0.1, 0.2], ["12", 0.3, 0.4]])
    assert read_table(path, "va").names == ("0012", "12")
    own = write(tmp_path / "own.csv", ["who", " p"], [["01", 1], ["1", 2], ["", 3]])
    with pytest.raises(ValueError, match=r"own\.csv: row 4, column 'who': expected an image's name, got none"):
        read_table(own, "columns", ["p"], name_column="who")
    own.write_text("who, p\n01,1\n1,2\n")
    assert read_table(own, "columns", ["p"], name_column="who").names == ("01", "1")


def test_frames_without_a_number_are_refused(tmp_path):
    path = write(tmp_path / "clip.csv", ["frame", "confidence", "AU01_r"], [[1, 0.9, 1], ["", 0.9, 2]])
    with pytest.raises(ValueError, match=r"clip\.csv: row 3, column 'frame': expected a whole number, got nan"):
        openface(path)
    header = ["input", "frame", "FaceScore", "AU01"]
    film = write(tmp_path / "film.csv", header, [["f.mp4", 1.5, 0.9, 0.1], ["f.mp4", 2, 0.9, 0.1]])
    with pytest.raises(ValueError, match=r"film\.csv: row 2, column 'frame': expected a whole number, got 1\.5"):
        pyfeat(film)


@pytest.mark.parametrize("second", ["AU12_r", " AU12_r"])
def test_column_that_is_there_twice(tmp_path, second):
    path = write(tmp_path / "a.csv", ["image", "AU01_r", "AU12_r", second, "pose", "pose"], [["a.png", 1, 2, 3, 4, 5]])
    with pytest.raises(ValueError, match=r"a.csv: row 1: expected every column once, got more than one AU12_r"):
        read_table(path, "au")
    with pytest.raises(ValueError, match="more than one AU12_r"):
        read_table(path, "columns", ["AU01_r", "AU12_r"])
    once = read_table(path, "columns", ["AU01_r"])  # what is not asked for may be there as often as it likes
    assert once.values.tolist() == [[1.0]]
    path = write(tmp_path / "b.csv", ["image", "image", "AU01_r"], [["a.png", "b.png", 1]])
    with pytest.raises(ValueError, match="more than one image"):
        read_table(path, "au")
