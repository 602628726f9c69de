"""Pictures of graphs: what is drawn where, and what is refused."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from PIL import Image

from ferkit.reports import neighbor_sheet, plot_space


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def near(image, colour, distance=40):
    return int((np.abs(image - np.array(colour)).sum(2) < distance).sum())


def faces(count, value=0):
    return np.full((count, 3, 20, 16), value, np.uint8)


def test_space_colours_by_class(tmp_path):
    position = np.random.default_rng(0).normal(size=(90, 2))
    labels = np.repeat([-1, 1, 2], 30)
    plot_space(position, tmp_path / "a.png", labels, ("neutral", "happy", "sad"), "au")
    image = pixels(tmp_path / "a.png")
    orange, blue, green = (230, 159, 0), (0, 114, 178), (0, 158, 115)
    assert near(image, orange, 100) > 200 and near(image, blue, 100) > 200 and near(image, green) == 0
    plot_space(position, tmp_path / "b.png")
    assert near(pixels(tmp_path / "b.png"), orange, 100) == 0


def test_space_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"position: expected shape \(N, 2\)"):
        plot_space(np.zeros((3, 3)), tmp_path / "a.png")
    with pytest.raises(ValueError, match="labels: expected values in"):
        plot_space(np.zeros((3, 2)), tmp_path / "a.png", [0, 1, 5], ("a", "b"))
    assert not list(tmp_path.iterdir())
    plot_space(np.zeros((0, 2)), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_sheet_frames_and_missing_neighbours(tmp_path):
    row = [faces(1, 255)[0], None, faces(1, 128)[0]]
    neighbor_sheet(
        faces(2), [row, row], tmp_path / "s.png", ["a", "b"], [["1", "", "3"]] * 2, [[True, False, False]] * 2
    )
    image = pixels(tmp_path / "s.png")
    green, red = near(image, (0, 158, 115)), near(image, (213, 94, 0))
    assert green > 300 and red > 300 and abs(green - red) < 0.2 * green  # one frame each; none around the missing one
    neighbor_sheet(faces(2), [row, row], tmp_path / "n.png", ["a", "b"], [["1", "", "3"]] * 2)
    assert near(pixels(tmp_path / "n.png"), (0, 158, 115)) == 0
    neighbor_sheet(faces(0), [], tmp_path / "e.png", [], [])
    assert (tmp_path / "e.png").is_file()


def test_sheet_refuses(tmp_path):
    with pytest.raises(ValueError, match="titles: expected 2 rows, one a centre, got 1"):
        neighbor_sheet(faces(2), [[], []], tmp_path / "s.png", ["a", "b"], [[]])
    with pytest.raises(TypeError, match="centres: expected dtype uint8"):
        neighbor_sheet(faces(2) / 255, [[], []], tmp_path / "s.png", ["a", "b"], [[], []])
    with pytest.raises(TypeError, match="neighbors: expected dtype uint8"):
        neighbor_sheet(faces(1), [[np.zeros((3, 4, 4))]], tmp_path / "s.png", ["a"], [["1"]])
    assert not list(tmp_path.iterdir())
