"""Score a trained run on a labelled set: accuracy, distance from the votes, concordance of valence and arousal."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ferkit.functional import concordance
from ferkit.metrics import distribution_kl, jeffreys_divergence, mean_class_accuracy, total_variation
from ferkit.recipes import LabelSetRecipe, Recipe
from ferkit.reports import plot_confusion, write_json
from ferkit.tasks.data import DataOptions, build_dataset
from ferkit.tasks.label_sets import attach_label_sets
from ferkit.tasks.predictions import (
    Predictions,
    annotate,
    check_replaceable,
    check_table_path,
    predict,
    save_predictions,
)
from ferkit.tasks.run import Run, load_recipe, same_place

__all__ = ["check_scored", "evaluate", "figures_of", "predict", "score", "score_values"]

JEFFREYS_EPS = 1e-6


def score(probabilities: Tensor, dataset: Any) -> dict[str, float]:
    """Accuracy and mean class accuracy against the labels, and distances from the votes, where there are some.

    These are means over the images: total variation, and in nats KL(votes || prediction) and the Jeffreys divergence
    (the sum of both directions), for which both sides are clipped at 1e-6 and renormalised: a class without a vote
    would make it infinite, and its value depends on this bound.
    """
    labels = dataset.labels
    known = labels >= 0
    classes = probabilities.shape[1]
    result = {"images": float(len(labels))}
    if bool(known.any()):
        result["accuracy"] = float((probabilities.argmax(1) == labels)[known].double().mean())
        result["mean_class_accuracy"] = float(mean_class_accuracy(probabilities, labels, classes))
    if dataset.distributions is not None:
        result["total_variation"] = float(total_variation(probabilities, dataset.distributions))
        result["kl"] = float(distribution_kl(probabilities, dataset.distributions))
        result["jeffreys"] = float(jeffreys_divergence(probabilities, dataset.distributions, JEFFREYS_EPS))
    return result


def score_values(found: Predictions, dataset: Any) -> dict[str, float]:
    """``ccc_<name>`` and ``mse_<name>`` of each predicted value over the images where it is known; ``ccc``, the mean.

    The concordance correlation coefficient is the population's; the truth is the dataset's ``true_values``, or its
    ``values`` where it has no others. A name without a known image is left out.
    """
    result: dict[str, float] = {}
    for column, name in enumerate(found.value_names):
        wanted = _truth(dataset, name)
        known = wanted.isfinite()
        if not bool(known.any()):
            continue
        given, wanted = found.values[known, column].double(), wanted[known]
        result[f"ccc_{name}"] = float(concordance(given[:, None], wanted[:, None]))
        result[f"mse_{name}"] = float((given - wanted).square().mean())
    coefficients = [value for name, value in result.items() if name.startswith("ccc_")]
    return {**result, "ccc": sum(coefficients) / len(coefficients)} if coefficients else result


def _truth(dataset: Any, name: str) -> Tensor:
    """What a value is scored by, float64 (N,), NaN where it is unknown."""
    truth = getattr(dataset, "true_values", None)
    truth = getattr(dataset, "values", None) if truth is None else truth
    names = list(getattr(dataset, "value_names", ()))
    if truth is None or name not in names:
        return torch.full((0,), torch.nan, dtype=torch.float64)
    column: Tensor = truth[:, names.index(name)]
    return column.double()


def check_scored(recipe: Recipe, dataset: Any, split: str) -> None:
    """Raise ValueError where no image has a label, a vote or a value that what the recipe predicts is scored by."""
    values = recipe.value_names if isinstance(recipe, LabelSetRecipe) else ()
    classes = not isinstance(recipe, LabelSetRecipe) or len(recipe.source_names) > 0
    scored = classes and (bool((dataset.labels >= 0).any()) or dataset.distributions is not None)
    if not scored and not any(bool(_truth(dataset, name).isfinite().any()) for name in values):
        wanted = " or ".join([*(["a label"] if classes else []), *(f"a known {name}" for name in values)])
        raise ValueError(f"data: expected {split} images with {wanted}, got {len(dataset)} without")


def figures_of(found: Predictions, dataset: Any) -> dict[str, float]:
    """Every figure of what was predicted: of the classes where there are some, and of the values."""
    classes = {"images": float(len(dataset))} if found.probabilities is None else score(found.probabilities, dataset)
    return classes | score_values(found, dataset)


def evaluate(
    run: str,
    data: DataOptions,
    split: str = "validation",
    batch_size: int = 256,
    save: str | None = None,
) -> dict[str, float]:
    """Score the run in folder ``run`` on a split of any dataset with its classes, at the size it was trained with.

    Of class folders some of the run's classes suffice. One without an image is told in a warning: mean class accuracy
    is the mean over the others, and its row of the confusion matrix says so.
    On the run's own data the split is the run's own, and so is the fold of a cross-validated run, unless another
    ``validation_share``, ``subset_seed`` or fold is asked for: none of the training images is then scored. So are
    ``alignment``, ``image_root``, ``label_order`` and ``exclude_duplicates``, and but for the training split ``labels``
    of a manifest, which may have no others.
    Writes ``evaluate-<data>-<split>.json`` and a confusion matrix into the run folder, and with ``save`` the
    predictions into that CSV file; returns the figures. Images of which nothing is known to score by are refused, but
    with ``save`` predicted.
    """
    if save is not None:
        check_table_path(save)
        check_replaceable(save)
    folder = Run(Path(run))
    _warn_of_unfinished(folder)
    recipe = load_recipe(folder)
    config = folder.read_config()
    data = replace(data, size=config["size"], synthetic_classes=config["synthetic_classes"])
    if data.data == config["data"] and same_place(data.root, config["root"]):
        data = _as_held_out(data, config, split)
    dataset = build_dataset(data, split, classes=config["classes"])
    if isinstance(recipe, LabelSetRecipe):  # not as for training, whatever the split: the best-known values, if any
        dataset = attach_label_sets(dataset, data, "test", values=config["values"])
    if save is None:
        check_scored(recipe, dataset, split)
    found = annotate(recipe, dataset, batch_size)
    figures = figures_of(found, dataset)
    if found.probabilities is not None:
        _warn_of_absent(dataset, split)
    name = f"{data.data}-{split}"
    if save is not None:
        save_predictions(save, found, dataset, split, config["classes"])
    write_json(folder.folder / f"evaluate-{name}.json", figures)
    if found.probabilities is not None:
        confusion_figure(found.probabilities, dataset, folder.figures / f"confusion-{name}.png")
    return figures


def _warn_of_unfinished(run: Run) -> None:
    wanted = run.read_config().get("epochs")
    if wanted is not None and not run.metrics_json.is_file():  # written at a run's end
        warnings.warn(f"the run in {str(run.folder)!r} has not come to the end of its {wanted} epochs", stacklevel=3)


def _warn_of_absent(dataset: Any, split: str) -> None:
    held = set(dataset.labels.tolist())
    if held <= {-1}:
        warnings.warn(f"no image of the {split} set has a label: there is no accuracy", stacklevel=3)
        return
    absent = [name for label, name in enumerate(dataset.classes) if label not in held]
    if absent:
        warnings.warn(
            f"no image of {', '.join(absent)} in the {split} set: mean_class_accuracy is the mean over the other "
            f"{len(dataset.classes) - len(absent)} classes",
            stacklevel=3,
        )


def _as_held_out(data: DataOptions, config: dict[str, Any], split: str) -> DataOptions:
    """The options with the run's choice of images where they make none of their own."""
    names = ["alignment", "image_root", "label_order", "exclude_duplicates"]
    names += ["labels"] if data.data == "manifest" and split != "train" else []  # it may have no others to score by
    names += ["subset_seed"] if data.data != "synthetic" else []  # rendered splits never meet
    if data.folds is None and config.get("folds"):
        names += ["folds", "fold"]
    elif data.data != "synthetic":
        names.append("validation_share")
    unsaid = [name for name in names if getattr(data, name) == getattr(DataOptions, name)]
    return replace(data, **{name: config[name] for name in unsaid if name in config})


def confusion_figure(probabilities: Tensor, dataset: Any, path: Path) -> None:
    """Draw the confusion matrix of the labelled images, where there are some."""
    if not bool((dataset.labels >= 0).any()):
        return
    matrix = multiclass_confusion_matrix(probabilities, dataset.labels, probabilities.shape[1], ignore_index=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_confusion(matrix, dataset.classes, path)
