import math

import numpy as np
import pytest
import torch

from ferkit.reports import plot_annotators, plot_confusion, plot_curves
from ferkit.reports.curves import read_curves

CSV = """epoch,step,train_loss,train_accuracy,val_loss,val_accuracy,lr
0,4,2.0,0.2,,,0.1
0,9,1.0,0.4,,,0.1
0,9,,,1.5,0.5,
1,19,0.5,0.6,,,0.1
1,19,,,nan,0.75,
,20,7.0,,,,
"""


@pytest.fixture
def metrics_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(CSV)
    return path


def lines(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_curves_average_steps_and_count_epochs_from_one(metrics_csv, tmp_path, figures):
    plot_curves(metrics_csv, tmp_path / "curves.png")
    loss, accuracy = figures[-1].axes
    assert loss.get_ylabel() == "loss" and accuracy.get_ylabel() == "accuracy (%)"
    assert loss.get_xlabel() == accuracy.get_xlabel() == "epoch"
    assert lines(loss)["training"] == ([1, 2], [1.5, 0.5])
    x, y = lines(loss)["validation"]
    assert x == [1, 2] and y[0] == 1.5 and math.isnan(y[1])
    assert lines(accuracy)["training"] == ([1, 2], [pytest.approx(30), 60])
    assert lines(accuracy)["validation"] == ([1, 2], [50, 75])
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_wide_losses_get_a_logarithmic_axis(tmp_path, figures):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train_loss_step,train_loss_epoch\n0,1,90,80\n1,2,2,1\n")
    plot_curves(path, tmp_path / "curves.png")
    (axes,) = figures[-1].axes
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "loss (logarithmic)"
    assert lines(axes) == {"training": ([1, 2], [80, 1])}


def test_nothing_to_draw_is_said(tmp_path, texts):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,lr\n0,1,0.1\n")
    plot_curves(path, tmp_path / "curves.png")
    assert "no loss or accuracy in metrics.csv" in texts()


def test_bad_csv_is_named(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train_loss\n0,1\n")
    with pytest.raises(ValueError, match="metrics_csv: expected a column 'epoch'"):
        read_curves(path)
    path.write_text("")
    with pytest.raises(ValueError, match="metrics_csv: expected a column 'epoch'"):
        plot_curves(path, tmp_path / "curves.png")
    path.write_text("epoch,train_loss\n0,1\n1,tensor\n")
    with pytest.raises(ValueError, match=r"got 'tensor' in .*metrics\.csv, line 3, column 'train_loss'"):
        read_curves(path)
    assert not (tmp_path / "curves.png").exists()


def test_confusion_shows_shares_of_the_true_class_and_counts(tmp_path, figures, texts):
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [1, 398, 1]])
    plot_confusion(matrix, ("happy", "sad", "fear"), tmp_path / "confusion.png", title="validation")
    shown = texts()
    for text in ("75 %", "25 %", "3", "398", "< 1 %", "no face of this class", "happy (4)", "sad (0)", "fear (400)"):
        assert text in shown
    assert {"true class (faces)", "predicted class", "share of the true class (%)", "validation"} <= set(shown)
    shares = figures[-1].axes[0].get_images()[0].get_array()
    np.testing.assert_allclose(shares[0], [75, 25, 0])
    assert (tmp_path / "confusion.png").exists()


def test_confusion_of_many_classes_has_no_figures_in_cells(tmp_path, texts):
    plot_confusion(np.eye(17), [f"c{i}" for i in range(17)], tmp_path / "confusion.png")
    assert "100 %" not in texts()


def test_confusion_names_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"matrix: expected shape \(2, 2\), got \(2, 3\)"):
        plot_confusion(np.ones((2, 3)), ("a", "b"), tmp_path / "c.png")
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="matrix: expected finite counts >= 0"):
            plot_confusion([[1, bad], [0, 1]], ("a", "b"), tmp_path / "c.png")
    assert not list(tmp_path.iterdir())


def test_annotators_stand_side_by_side(tmp_path, figures):
    matrices = np.array([[[0.9, 0.1], [0.0, 1.0]], [[0.4, 0.6], [0.5, 0.5]]])
    plot_annotators(torch.tensor(matrices), ("anna", "ben"), ("happy", "sad"), tmp_path / "annotators.png")
    panels = figures[-1].axes
    assert [axes.get_title(loc="left") for axes in panels] == ["anna", "ben"]
    for axes, matrix in zip(panels, matrices):
        np.testing.assert_allclose(axes.get_images()[0].get_array(), 100 * matrix)
    assert [text.get_text() for text in panels[0].texts] == ["90", "10", "100"]
    plot_annotators(np.zeros((0, 2, 2)), (), ("happy", "sad"), tmp_path / "nobody.png")
    assert (tmp_path / "nobody.png").exists()


@pytest.mark.parametrize("matrices", [np.ones((1, 2, 3)), -np.ones((1, 2, 2)), np.full((1, 2, 2), np.nan)])
def test_annotators_refused(tmp_path, matrices):
    with pytest.raises(ValueError, match="transition: expected"):
        plot_annotators(matrices, ("anna",), ("happy", "sad"), tmp_path / "annotators.png")
    assert not (tmp_path / "annotators.png").exists()
