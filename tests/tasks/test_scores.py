"""The figures of a run against loops over the images."""

from __future__ import annotations

import math
from types import SimpleNamespace

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from ferkit.recipes import CrossEntropy
from ferkit.tasks.evaluation import JEFFREYS_EPS, score


def faces(distributions):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(9, 4, generator=generator).pow(6)
    labels = torch.tensor([0, 1, 2, 3, 0, -1, 2, 1, 3])
    return probabilities / probabilities.sum(1, keepdim=True), SimpleNamespace(
        labels=labels, distributions=distributions
    )


def votes():
    rows = torch.rand(9, 4, generator=torch.Generator().manual_seed(1))
    rows[rows < 0.4] = 0
    rows[:, 0] += 0.1
    rows[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    return rows / rows.sum(1, keepdim=True)


def clipped(row):
    row = [max(value, JEFFREYS_EPS) for value in row]
    return [value / sum(row) for value in row]


def test_jeffreys_is_the_mean_over_images():
    probabilities, dataset = faces(votes())
    total = 0.0
    for p, t in zip(probabilities.double().tolist(), dataset.distributions.double().tolist()):
        p, t = clipped(p), clipped(t)
        total += sum((a - b) * math.log(a / b) for a, b in zip(t, p))
    figures = score(probabilities, dataset)
    assert figures["jeffreys"] == pytest.approx(total / 9, rel=1e-6)
    both = (
        figures["kl"]
        + sum(
            a * math.log(a / b)
            for p, t in zip(probabilities.double().tolist(), dataset.distributions.double().tolist())
            for a, b in zip(clipped(p), clipped(t))
        )
        / 9
    )
    assert figures["jeffreys"] == pytest.approx(both, rel=1e-4)


def test_equal_distributions_have_none():
    probabilities, dataset = faces(votes())
    assert score(dataset.distributions, dataset)["jeffreys"] == pytest.approx(0, abs=1e-6)
    assert score(probabilities, dataset)["jeffreys"] > 0.1


def test_without_votes_there_is_no_distance():
    probabilities, dataset = faces(None)
    figures = score(probabilities, dataset)
    assert set(figures) == {"images", "accuracy", "mean_class_accuracy"}
    known = dataset.labels >= 0
    hits = (probabilities.argmax(1) == dataset.labels)[known]
    assert figures["accuracy"] == pytest.approx(float(hits.float().mean())) and figures["images"] == 9


def test_without_labels_there_is_no_accuracy():
    probabilities, dataset = faces(votes())
    dataset.labels = torch.full((9,), -1)
    assert set(score(probabilities, dataset)) == {"images", "total_variation", "kl", "jeffreys"}


def test_a_batch_without_labels_does_not_spoil_the_validation():
    labels = torch.tensor([0, 1, 2, -1, -1, -1, -1, 1])  # in batches of 3: the second has none
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = [{"image": images[i], "label": labels[i], "index": i} for i in range(8)]
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    recipe = CrossEntropy(3, backbone="small")
    found = trainer.validate(recipe, DataLoader(rows, 3), verbose=False)[0]
    known = labels >= 0
    with torch.no_grad():
        logits = recipe.eval()(images[known])
    assert found["val_loss"] == pytest.approx(float(F.cross_entropy(logits, labels[known])), rel=1e-5)
    assert found["val_accuracy"] == pytest.approx(float((logits.argmax(1) == labels[known]).float().mean()))
