import csv
import re

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from ferkit.reports import decoder_sheet, plot_curves

CLASSES = ("neutral", "happy", "disgust")


def images(n, height=8, width=8):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("rows", "side"), [(1, (8, 8)), (4, (8, 8)), (3, (12, 8))])
def test_a_column_a_class_and_a_row_a_noise(tmp_path, figures, texts, rows, side):
    given = images(rows * 3, *side)
    decoder_sheet(given, CLASSES, tmp_path / "decoder.png", "epoch 7")
    fig = figures[-1]
    shown = [axes for axes in fig.axes if axes.get_images()]
    places = [axes.get_position() for axes in shown]
    for i, axes in enumerate(shown):
        np.testing.assert_array_equal(axes.get_images()[0].get_array(), given[i].permute(1, 2, 0))
        assert places[i].x0 == pytest.approx(places[i % 3].x0) and places[i].y0 == pytest.approx(places[i // 3 * 3].y0)
    assert [axes.get_title() for axes in shown] == [*CLASSES, *[""] * (3 * rows - 3)]
    assert [p.x0 for p in places[:3]] == sorted(p.x0 for p in places[:3])
    assert [p.y0 for p in places[::3]] == sorted((p.y0 for p in places[::3]), reverse=True)
    assert "epoch 7" in texts()
    inches = fig.get_size_inches()
    assert places[0].height * inches[1] / (places[0].width * inches[0]) == pytest.approx(side[0] / side[1])


@pytest.mark.parametrize("classes", [("a", "b"), ("surprise", "a longer name of a class", "contempt")])
def test_texts_and_images_stay_inside_and_apart(tmp_path, figures, classes):
    decoder_sheet(images(2 * len(classes)), classes, tmp_path / "decoder.png", "epoch 120, as the decoder stood then")
    fig = figures[-1]
    fig.canvas.draw()
    things = [text for text in fig.findobj(Text) if text.get_text()] + [axes for axes in fig.axes if axes.get_images()]
    boxes = [thing.get_window_extent().padded(-0.5) for thing in things]
    area = fig.bbox
    assert not [b for b in boxes if b.x0 < area.x0 or b.x1 > area.x1 or b.y0 < area.y0 or b.y1 > area.y1]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_nothing_to_show_is_said(tmp_path, texts):
    decoder_sheet(images(0), CLASSES, tmp_path / "decoder.png")
    assert texts() == ["no image to show"] and (tmp_path / "decoder.png").is_file()


@pytest.mark.parametrize(
    ("given", "classes", "error", "message"),
    [
        (images(4), CLASSES, ValueError, "images: expected whole rows of 3 classes, got 4 images"),
        (images(3), (), ValueError, "classes: expected the names of the classes, got none"),
        (images(3).float(), CLASSES, TypeError, "images: expected dtype uint8, got float32"),
        (images(3)[:, :1], CLASSES, ValueError, "images: expected shape (N, 3, H, W), got (3, 1, 8, 8)"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(tmp_path, given, classes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        decoder_sheet(given, classes, tmp_path / "decoder.png")
    assert not list(tmp_path.iterdir())


def write(path, rows):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def test_curves_of_the_game_have_a_panel(tmp_path, figures):
    names = ("train_loss", "train_discriminator", "train_generator")
    rows = [{"epoch": e, "step": e, **{name: e + i for i, name in enumerate(names)}} for e in range(3)]
    plot_curves(write(tmp_path / "metrics.csv", rows), tmp_path / "curves.png")
    loss, game = figures[-1].axes
    assert loss.get_ylabel() == "loss" and game.get_ylabel() == "adversarial loss"
    assert {line.get_label(): list(line.get_ydata()) for line in game.get_lines()} == {
        "discriminator": [1, 2, 3],
        "generator": [2, 3, 4],
    }


def test_a_run_without_a_game_has_no_panel_of_it(tmp_path, figures):
    rows = [{"epoch": 0, "step": 1, "train_loss": 1.0, "val_accuracy": 0.5}]
    plot_curves(write(tmp_path / "metrics.csv", rows), tmp_path / "curves.png")
    assert [axes.get_ylabel() for axes in figures[-1].axes] == ["loss", "accuracy (%)"]
