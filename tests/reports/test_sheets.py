import math
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from ferkit.reports import dmue_sheet, face_sheet, plot_distributions
from ferkit.reports._style import BLUE, GREEN, LIGHT, RED

CLASSES = ("neutral", "happy", "sad")


def faces(n, height=12, width=12):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def shares(n):
    return torch.full((n, 3), 1 / 3)


def pictures(fig):
    return [axes for axes in fig.axes if axes.get_images()]


def bar_axes(fig):
    return [axes for axes in fig.axes if axes.get_yticklabels() and len(axes.patches) >= len(CLASSES)]


@pytest.mark.parametrize("n", [1, 5, 9])
def test_face_sheet_shows_every_face_in_reading_order(tmp_path, figures, n):
    images = faces(n)
    face_sheet(images, tmp_path / "sheet.png", titles=[f"face {i}" for i in range(n)], columns=4)
    shown = pictures(figures[-1])
    assert [axes.get_title() for axes in shown] == [f"face {i}" for i in range(n)]
    for axes, image in zip(shown, images):
        np.testing.assert_array_equal(axes.get_images()[0].get_array(), image.permute(1, 2, 0))
    places = [axes.get_position() for axes in shown]
    assert sorted(range(n), key=lambda i: (-round(places[i].y0, 4), places[i].x0)) == list(range(n))
    assert all(p.x0 >= 0 and p.x1 <= 1 and p.y0 >= 0 and p.y1 <= 1 for p in places)
    assert (tmp_path / "sheet.png").exists()


def test_face_sheet_with_bars_keeps_proportions(tmp_path, figures, texts):
    face_sheet(
        faces(2, height=10, width=20), tmp_path / "s.png", bars=[[0.5, 0.5, 0], [0, 0.126, 0.874]], classes=CLASSES
    )
    assert [text for text in texts() if text.endswith("%")] == ["50 %", "50 %", "13 %", "87 %"]
    assert set(CLASSES) <= set(texts())
    fig = figures[-1]
    box = pictures(fig)[0].get_position()
    assert box.width * fig.get_figwidth() == pytest.approx(2 * box.height * fig.get_figheight())


def test_dmue_sheet_says_and_marks_wrong_labels(tmp_path, figures, texts):
    given, true = torch.tensor([0, 1, 2, -1, 1]), torch.tensor([0, 2, -1, 1, 1])
    mined = torch.tensor([[0, 0.75, 0.25], [0.4, 0, 0.6], [0.5, 0.5, 0], [0.2, 0.8, 0], [1.0, 0, 0]])
    confidence = torch.tensor([0.9, 0.125, 0.5, 0.5, 1.0])
    dmue_sheet(faces(5), given, mined, confidence, CLASSES, tmp_path / "d.png", true_labels=true)
    shown = texts()
    headings = [t for t in shown if re.match("given:|true:|no label", t)]
    assert headings == [
        "given: neutral  ✓",
        "given: happy  ✗ wrong",
        "true: sad",
        "given: sad",
        "no label",
        "true: happy",
        "given: happy  ✓",
    ]
    assert [t for t in shown if t.startswith("confidence")] == [f"confidence {c:.2f}" for c in confidence.tolist()]
    assert any("(1 of 3)" in t for t in shown)
    frames = [to_hex(axes.spines["left"].get_edgecolor()).upper() for axes in pictures(figures[-1])]
    assert frames == [LIGHT, RED, LIGHT, LIGHT, LIGHT]
    bars = bar_axes(figures[-1])
    assert [p.get_width() for p in bars[1].patches] == pytest.approx([0.4, 0, 0.6])
    assert [to_hex(p.get_facecolor()).upper() for p in bars[1].patches] == [BLUE, BLUE, GREEN]
    assert [t.get_text() for t in bars[1].get_yticklabels()] == ["neutral", "happy", "▸ sad"]
    assert [t.get_fontweight() for t in bars[1].get_yticklabels()] == ["normal", "bold", "normal"]


def test_dmue_sheet_without_truth_claims_nothing(tmp_path, texts):
    dmue_sheet(faces(3), [0, 1, 2], shares(3), [0.1, 0.2, 0.3], CLASSES, tmp_path / "d.png")
    assert not any("✗" in text or "✓" in text or "true" in text or "▸" in text for text in texts())


@pytest.mark.parametrize("n", [24, 1])
def test_dmue_sheet_texts_stay_inside_and_apart(tmp_path, figures, n):
    classes = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
    labels = torch.arange(n) % 8
    mined = torch.full((n, 8), 0.125)
    dmue_sheet(faces(n), labels, mined, torch.ones(n), classes, tmp_path / "d.png", true_labels=(labels + 1) % 8)
    fig = figures[-1]
    area = fig.bbox
    fig.canvas.draw()
    shown = [*fig.texts, *(t for axes in fig.axes for t in [*axes.texts, *axes.get_yticklabels() * axes.axison])]
    boxes = [thing.get_window_extent() for thing in [*(t for t in shown if t.get_text()), *pictures(fig)]]
    outside = [b for b in boxes if b.x0 < area.x0 or b.x1 > area.x1 or b.y0 < area.y0 or b.y1 > area.y1]
    assert not outside
    shrunk = [b.padded(-1) for b in boxes]
    assert not [(a, b) for i, a in enumerate(shrunk) for b in shrunk[:i] if a.overlaps(b)]


def test_distributions_show_methods_and_distance(tmp_path, figures, texts):
    true = torch.tensor([[0.5, 0.5, 0.0]])
    methods = {"ce": torch.tensor([[1.0, 0.0, 0.0]]), "dmue": torch.tensor([[0.4, 0.5, 0.1]])}
    plot_distributions(methods, true, CLASSES, tmp_path / "p.png", images=faces(1), titles=["a face"])
    shown = texts()
    assert {"ce: total variation 0.50", "dmue: total variation 0.10", "a face", "100 %"} <= set(shown)
    (legend,) = figures[-1].legends
    assert [t.get_text() for t in legend.get_texts()] == ["true", "ce", "dmue"]
    widths = [p.get_width() for p in bar_axes(figures[-1])[0].patches]
    assert widths == pytest.approx([0.5, 0.5, 0, 1, 0, 0, 0.4, 0.5, 0.1])


def test_distributions_of_one_array_need_no_faces(tmp_path, figures, texts):
    plot_distributions(shares(4), shares(4), CLASSES, tmp_path / "p.png")
    assert texts().count("predicted: total variation 0.00") == 4
    assert not pictures(figures[-1])


def test_no_face_is_said(tmp_path, texts):
    none = torch.zeros(0, dtype=torch.int64)
    face_sheet(faces(0), tmp_path / "a.png")
    assert texts() == ["no face to show"]
    dmue_sheet(faces(0), none, shares(0), torch.zeros(0), CLASSES, tmp_path / "b.png", true_labels=none)
    assert "no face to show" in texts()
    plot_distributions(shares(0), shares(0), CLASSES, tmp_path / "c.png")
    assert "no face to show" in texts()
    assert len(list(tmp_path.iterdir())) == 3


def test_bad_input_is_named_and_writes_nothing(tmp_path):
    path, labels, sure = tmp_path / "x.png", [0, 1], [0.5, 0.5]
    with pytest.raises(TypeError, match="images: expected dtype uint8, got float32"):
        face_sheet(faces(2).float(), path)
    with pytest.raises(ValueError, match=r"images: expected shape \(N, 3, H, W\), got \(2, 12, 12, 3\)"):
        face_sheet(faces(2).permute(0, 2, 3, 1), path)
    with pytest.raises(ValueError, match="titles: expected 2 texts, one an image, got 1"):
        face_sheet(faces(2), path, titles=["one"])
    with pytest.raises(ValueError, match="classes: expected the names of the classes"):
        face_sheet(faces(2), path, bars=shares(2))
    with pytest.raises(ValueError, match="columns: expected a value in"):
        face_sheet(faces(2), path, columns=0)
    with pytest.raises(ValueError, match=r"given_labels: expected values in 0\.\.2"):
        dmue_sheet(faces(2), [0, 3], shares(2), sure, CLASSES, path)
    with pytest.raises(ValueError, match=r"distributions: expected shape \(2, 3\), got \(2, 4\)"):
        dmue_sheet(faces(2), labels, torch.zeros(2, 4), sure, CLASSES, path)
    with pytest.raises(ValueError, match=r"distributions: expected values in \[0, 1\]"):
        dmue_sheet(faces(2), labels, shares(2) * math.nan, sure, CLASSES, path)
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"confidence: expected values in \[0, 1\]"):
            dmue_sheet(faces(2), labels, shares(2), [0.5, bad], CLASSES, path)
    with pytest.raises(ValueError, match=r"true_labels: expected shape \(2,\)"):
        dmue_sheet(faces(2), labels, shares(2), sure, CLASSES, path, true_labels=[0])
    with pytest.raises(ValueError, match="predicted: expected 1 to 4 methods, got 0"):
        plot_distributions({}, shares(2), CLASSES, path)
    with pytest.raises(ValueError, match=r"predicted\['ce'\]: expected shape \(2, 3\)"):
        plot_distributions({"ce": shares(1)}, shares(2), CLASSES, path)
    with pytest.raises(ValueError, match=r"images: expected shape \(2, 3, H, W\)"):
        plot_distributions(shares(2), shares(2), CLASSES, path, images=faces(1))
    assert not list(tmp_path.iterdir())
