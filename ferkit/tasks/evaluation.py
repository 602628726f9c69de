"""Score a trained run on a labelled set: accuracy, and the distance of its distributions from the votes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ferkit.metrics import distribution_kl, jeffreys_divergence, mean_class_accuracy, total_variation
from ferkit.recipes import Recipe
from ferkit.reports import plot_confusion, write_json
from ferkit.tasks.data import DataOptions, build_dataset
from ferkit.tasks.run import Run, load_recipe

__all__ = ["evaluate", "predict", "score"]

JEFFREYS_EPS = 1e-6


@torch.no_grad()
def predict(recipe: Recipe, dataset: Any, batch_size: int = 256) -> Tensor:
    """Class probabilities (N, C) of every image, without augmentation, in the dataset's order."""
    training = recipe.training
    recipe.eval()
    batches = [recipe(batch["image"].to(recipe.device)).softmax(1).cpu() for batch in DataLoader(dataset, batch_size)]
    recipe.train(training)
    return torch.cat(batches) if batches else torch.zeros(0, recipe.num_classes)


def score(probabilities: Tensor, dataset: Any) -> dict[str, float]:
    """Accuracy and mean class accuracy against the labels; distances from the votes where there are some.

    These are means over the images: total variation, and in nats KL(votes || prediction) and the Jeffreys divergence
    (the sum of both directions), for which both sides are clipped at 1e-6 and renormalised: a class without a vote
    would make it infinite, and its value depends on this bound.
    """
    labels = dataset.labels
    known = labels >= 0
    classes = probabilities.shape[1]
    result = {
        "images": float(len(labels)),
        "accuracy": float((probabilities.argmax(1) == labels)[known].double().mean()),
        "mean_class_accuracy": float(mean_class_accuracy(probabilities, labels, classes)),
    }
    if dataset.distributions is not None:
        result["total_variation"] = float(total_variation(probabilities, dataset.distributions))
        result["kl"] = float(distribution_kl(probabilities, dataset.distributions))
        result["jeffreys"] = float(jeffreys_divergence(probabilities, dataset.distributions, JEFFREYS_EPS))
    return result


def evaluate(run: str, data: DataOptions, split: str = "validation", batch_size: int = 256) -> dict[str, float]:
    """Score the run in folder ``run`` on a split of any dataset with its classes, at the size it was trained with.

    On the data of a cross-validated run it is the run's own fold, unless another is asked for.
    Writes ``evaluate-<data>-<split>.json`` and a confusion matrix into the run folder, and returns the figures.
    """
    folder = Run(Path(run))
    recipe = load_recipe(folder)
    config = folder.read_config()
    data = replace(data, size=config["size"], synthetic_classes=config["synthetic_classes"])
    if data.folds is None and config.get("folds") and (data.data, data.root) == (config["data"], config["root"]):
        data = replace(data, **{name: config[name] for name in ("folds", "fold", "subset_seed")})
    dataset = build_dataset(data, split, classes=config["classes"])
    probabilities = predict(recipe, dataset, batch_size)
    figures = score(probabilities, dataset)
    name = f"{data.data}-{split}"
    write_json(folder.folder / f"evaluate-{name}.json", figures)
    confusion_figure(probabilities, dataset, folder.figures / f"confusion-{name}.png")
    return figures


def confusion_figure(probabilities: Tensor, dataset: Any, path: Path) -> None:
    """Draw the confusion matrix of the labelled images."""
    matrix = multiclass_confusion_matrix(probabilities, dataset.labels, probabilities.shape[1], ignore_index=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_confusion(matrix, dataset.classes, path)
