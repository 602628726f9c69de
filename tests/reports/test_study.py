"""Tables and plots of a study against values counted by hand."""

from __future__ import annotations

import csv
import io
import math
import statistics

import numpy as np
import pytest
import torch

from ferkit.reports import plot_anchors, plot_compared_curves, plot_mined_course, plot_sweep, plot_variants
from ferkit.reports.study import ahead, effects, effects_table, paired, study_csv, study_table

CLASSES = ("neutral", "happy", "sad")


def runs(*values, figure="accuracy", first=0):
    return {first + seed: {figure: value} for seed, value in enumerate(values)}


def lines(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_pairs_are_of_one_seed():
    assert paired(runs(0.5, 0.7, 0.9), runs(0.6, 0.4, first=1), "accuracy") == pytest.approx({1: 0.1, 2: 0.5})
    assert paired(runs(0.5, math.nan), runs(0.4, 0.4), "accuracy") == pytest.approx({0: 0.1})
    assert paired(runs(0.5), runs(0.5), "kl") == {}


@pytest.mark.parametrize(
    ("differences", "figure", "mark"),
    [
        ((0.1, 0.2), "accuracy", "▲"),
        ((0.1, 0.2), "kl", "▼"),
        ((-0.1, -0.2), "kl", "▲"),
        ((-0.1, -0.2), "accuracy", "▼"),
        ((0.1, -0.2), "accuracy", ""),
        ((0.1, 0.0), "accuracy", ""),
        ((0.1,), "accuracy", ""),
        ((), "accuracy", ""),
    ],
)
def test_a_mark_needs_every_seed(differences, figure, mark):
    assert ahead(dict(enumerate(differences)), figure) == mark


def test_table_marks_against_the_baseline_seed_by_seed():
    rows = {"ce": runs(0.5, 0.7), "better": runs(0.6, 0.8), "mixed": runs(0.9, 0.6), "none": {}}
    table = study_table(rows, rows["ce"], ["accuracy", "kl"], {"paper": {"better": "61.8"}}).splitlines()
    assert [cell.strip() for cell in table[0].split("|")[1:-1]] == ["variant", "paper", "seeds", "accuracy ↑"]
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in table[2:]}
    assert cells == {
        "ce": ["", "0, 1", "0.600 ± 0.141"],
        "better": ["61.8", "0, 1", "0.700 ± 0.141 ▲"],
        "mixed": ["", "0, 1", "0.750 ± 0.212"],
        "none": ["", "–", "–"],
    }
    del rows["none"]
    assert "seeds" not in study_table(rows, rows["ce"], ["accuracy"]), "all have the same"
    other = study_table({"ce": runs(0.5, 0.7), "later": runs(0.5, 0.7, first=1)}, rows["ce"], ["accuracy"])
    assert "| 0, 1 " in other and "| 1, 2 " in other, "as many, but not the same"
    with pytest.raises(ValueError, match="figures: expected one of 'accuracy'"):
        study_table(rows, rows["ce"], ["colour"])


def test_effect_is_the_mean_over_pairs_by_seed():
    pairs = [(runs(0.6, 0.8), runs(0.5, 0.6)), (runs(0.5, 0.7), runs(0.55, 0.6))]
    assert effects(pairs, "accuracy") == pytest.approx({0: (0.1 - 0.05) / 2, 1: (0.2 + 0.1) / 2})
    (row,) = effects_table({"confidence": pairs}, ["accuracy", "kl"]).splitlines()[2:]
    spread = statistics.stdev([0.025, 0.15])
    assert [c.strip() for c in row.split("|")[1:-1]] == ["confidence", f"+0.087 ± {spread:.3f} (3 of 4) ▲", "–"]
    assert effects([*pairs, (runs(0.6), runs(0.5))], "accuracy").keys() == {0}, "a seed that not all pairs have"


def test_csv_has_every_run_in_full():
    rows = {"ce": runs(0.123456, math.nan), "dmue": {2: {"accuracy": 0.5, "mined_kl": 0.25}}}
    assert list(csv.DictReader(io.StringIO(study_csv(rows)))) == [
        {"variant": "ce", "seed": "0", "accuracy": "0.123456", "mined_kl": ""},
        {"variant": "ce", "seed": "1", "accuracy": "", "mined_kl": ""},
        {"variant": "dmue", "seed": "2", "accuracy": "0.5", "mined_kl": "0.25"},
    ]


def test_variants_show_every_seed(tmp_path, figures):
    rows = {"ce": runs(0.5, 0.7), "dmue": runs(0.6, 0.8), "waiting": {}}
    plot_variants(rows, "ce", ["accuracy", "kl"], tmp_path / "v.png")
    (axes,) = figures[-1].axes
    drawn = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [sorted(line.get_xdata()) for line in drawn] == [[0.5, 0.7], [0.6, 0.8], []]
    assert [round(float(y)) for line in drawn for y in line.get_ydata()] == [0, 0, 1, 1]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(rows)
    means = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == "-"]
    assert means == pytest.approx([0.6, 0.7])
    assert (tmp_path / "v.png").stat().st_size > 1000


def test_no_finished_run_is_said(tmp_path, texts):
    plot_variants({"ce": {}}, "ce", ["accuracy"], tmp_path / "v.png")
    assert "no finished run" in texts()


def test_sweep_has_a_line_through_the_means_and_every_seed(tmp_path, figures):
    points = {0.1: runs(0.4, 0.6), 1.0: runs(0.7, 0.9), 10.0: {}}
    plot_sweep("omega", {"DMUE": points}, ["accuracy"], tmp_path / "s.png", 1.0, ("cross-entropy", runs(0.5, 0.6)))
    (axes,) = figures[-1].axes
    assert lines(axes)["DMUE"] == ([0.1, 1.0], pytest.approx([0.5, 0.8]))
    assert lines(axes)["cross-entropy"][1] == pytest.approx([0.55, 0.55])
    seeds = [sorted(line.get_ydata()) for line in axes.get_lines() if line.get_marker() == "o"]
    assert seeds == [[0.4, 0.6], [0.7, 0.9]]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "omega"
    assert [(t.get_text(), t.get_fontweight()) for t in axes.get_xticklabels()] == [
        *(("0.1", "normal"), ("1", "bold"), ("10", "normal"))
    ]
    with pytest.raises(ValueError, match="series: expected 1 to 4 methods, got 0"):
        plot_sweep("omega", {}, ["accuracy"], tmp_path / "t.png")


def test_compared_curves_average_the_seeds(tmp_path, figures):
    for name, values in {"a0": (4, 2), "a1": (2, 1), "b0": (5, 3)}.items():
        rows = "".join(f"{epoch},{value},\n" for epoch, value in enumerate(values))
        (tmp_path / f"{name}.csv").write_text(f"epoch,train_wce,train_sp\n{rows}")
    files = {"with": [tmp_path / "a0.csv", tmp_path / "a1.csv"], "without": [tmp_path / "b0.csv"]}
    plot_compared_curves(files, {"train_wce": "target", "train_none": "none"}, tmp_path / "c.png")
    (axes,) = figures[-1].axes
    assert lines(axes)["with"] == ([1, 2], [3, 1.5]) and lines(axes)["without"] == ([1, 2], [5, 3])
    assert axes.get_title(loc="left") == "target" and len(axes.get_lines()) == 5
    with pytest.raises(ValueError, match="runs: expected 1 to 4 variants, got 0"):
        plot_compared_curves({}, {"train_wce": "target"}, tmp_path / "d.png")


def test_course_shows_shares_by_epoch_and_votes(tmp_path, figures):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    shares = torch.tensor([[[0, 0.4, 0.6], [0.5, 0, 0.5]], [[0, 0.1, 0.9], [0.75, 0, 0.25]]])
    votes = torch.tensor([[0, 0, 1.0], [0, 0, 0]])
    path = tmp_path / "m.png"
    plot_mined_course(shares, [0, 5], images, [0, 1], CLASSES, path, true_labels=[2, 1], votes=votes)
    shown = [axes for axes in figures[-1].axes if axes.get_images()]
    arrays = [np.asarray(axes.get_images()[0].get_array()) for axes in shown]
    assert len(shown) == 5, "two faces, two courses, one of the votes: the second face has none"
    np.testing.assert_allclose(arrays[1], shares[:, 0].T)
    np.testing.assert_allclose(arrays[2], votes[0][:, None])
    np.testing.assert_allclose(arrays[4], shares[:, 1].T)
    assert [t.get_text() for t in shown[1].get_yticklabels()] == ["neutral", "happy", "▸ sad"]
    assert [t.get_text() for t in shown[4].get_yticklabels()] == list(CLASSES)
    with pytest.raises(ValueError, match=r"shares: expected shape \(E, 2, 3\)"):
        plot_mined_course(shares[0], [0], images, [0, 1], CLASSES, path)


def test_anchors_say_how_steady_they_are(tmp_path, figures, texts):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    sure = torch.stack([torch.linspace(0.2, 0.4, 11), torch.full((11,), 0.9)])
    rank = torch.stack([torch.arange(1, 12), torch.full((11,), 72)])
    plot_anchors(images, ["one", "two"], sure, rank, 72, tmp_path / "a.png")
    shown = texts()
    assert {"one", "two", "median 0.30, 80 % in 0.22 to 0.38", "median 72, 80 % in 72 to 72"} <= set(shown)
    assert "Each face in 11 batches of 72 that hold every class." in shown
    heights = [sum(patch.get_height() for patch in axes.patches) for axes in figures[-1].axes if axes.patches]
    assert heights == pytest.approx([1, 1, 1, 1])
    plot_anchors(images[:1], ["one"], torch.full((1, 50), 0.5), torch.arange(1, 51)[None], 50, tmp_path / "c.png")
    ranks = [patch.get_height() for patch in figures[-1].axes[2].patches]
    assert ranks == pytest.approx([1 / 25] * 25), "every rank once: bars of equal height"
    with pytest.raises(ValueError, match=r"confidence: expected values in \[0, 1\]"):
        plot_anchors(images, ["one", "two"], sure * 2, rank, 72, tmp_path / "b.png")
