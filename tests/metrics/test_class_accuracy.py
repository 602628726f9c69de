import math

import pytest
import torch

from ferkit.metrics import MeanClassAccuracy, mean_class_accuracy


def loop(prediction, labels, classes):
    shares = []
    for k in range(classes):
        own = [p == y for p, y in zip(prediction.tolist(), labels.tolist()) if y == k]
        if own:
            shares.append(sum(own) / len(own))
    return sum(shares) / len(shares) if shares else math.nan


@pytest.mark.parametrize("present", [1, 3, 6])
def test_matches_the_loop_and_batches_add_up(present):
    generator = torch.Generator().manual_seed(present)
    prediction = torch.randint(0, 6, (50,), generator=generator)  # absent classes are predicted too
    labels = torch.randint(-1, present, (50,), generator=generator)
    expected = loop(prediction, labels, 6)
    assert float(mean_class_accuracy(prediction, labels, 6)) == pytest.approx(expected)
    metric = MeanClassAccuracy(6)
    for rows in (slice(0, 11), slice(11, 11), slice(11, 50)):
        metric.update(prediction[rows], labels[rows])
    assert float(metric.compute()) == pytest.approx(expected)


def test_scores_and_classes_agree():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 5
    assert mean_class_accuracy(logits, labels, 5) == mean_class_accuracy(logits.argmax(1), labels, 5)


def test_nothing_labelled_gives_nan():
    none = torch.zeros(0, dtype=torch.int64)
    assert math.isnan(mean_class_accuracy(none, none, 3))
    assert math.isnan(mean_class_accuracy(torch.zeros(0, 3), none, 3))
    assert math.isnan(mean_class_accuracy(torch.tensor([1]), torch.tensor([-1]), 3))


def test_bad_input_is_named():
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"prediction: expected shape \(N, 3\), got \(2, 4\)"):
        mean_class_accuracy(torch.zeros(2, 4), labels, 3)
    with pytest.raises(ValueError, match=r"prediction: expected values in 0\.\.2"):
        mean_class_accuracy(torch.tensor([0, 3]), labels, 3)
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.2"):
        mean_class_accuracy(labels, torch.tensor([0, 5]), 3)
    with pytest.raises(ValueError, match=r"labels: expected shape \(2,\)"):
        mean_class_accuracy(labels, torch.tensor([0, 1, 1]), 3)
    with pytest.raises(TypeError, match=r"prediction: expected a torch\.Tensor"):
        mean_class_accuracy([0, 1], labels, 3)
    with pytest.raises(TypeError, match="num_classes: expected an integer"):
        MeanClassAccuracy(2.0)
