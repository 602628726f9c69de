"""Figures of a run's labels.csv: what became of the wrong labels, and how good the mined distributions are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ferkit.metrics import distribution_kl, flip_auc, other_classes, total_variation

__all__ = ["label_figures", "read_labels"]


def read_labels(table: Path, dataset: Any) -> dict[str, Tensor]:
    """Columns of labels.csv in the dataset's order: ``index``, ``suggested``, of DMUE ``confidence`` and ``mined``."""
    names = list(dataset.classes)
    with open(table, newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["index"]))
    found = {
        "index": torch.tensor([int(row["index"]) for row in rows], dtype=torch.int64),
        "suggested": torch.tensor([names.index(row["suggested"]) for row in rows], dtype=torch.int64),
    }
    if rows and "confidence" in rows[0]:
        found["confidence"] = torch.tensor([float(row["confidence"]) for row in rows])
        found["mined"] = torch.tensor([[float(row[f"mined_{name}"]) for name in names] for row in rows])
    return found


def label_figures(table: Path, dataset: Any) -> dict[str, float]:
    """Figures against the true labels and votes of the training images, where these are known.

    Returns:
        ``flips_as_given`` and ``flips_as_true``: shares of the wrong given labels that the model predicts as given and
        as they should be; ``right_as_given``: of the right ones predicted as given. Of DMUE besides ``confidence_auc``:
        the area with which low confidence finds the wrong labels; ``mined_as_true``: share of the wrong labels whose
        mined distribution is largest at the true class; ``mined_total_variation`` and ``mined_kl`` from the votes, with
        the annotated class set to 0 and the rest renormalised on both sides (section 4.6 of the paper).
    """
    found = read_labels(table, dataset)
    index, suggested = found["index"], found["suggested"]
    given = dataset.labels[index]
    result: dict[str, float] = {}
    mined = other_classes(found["mined"], given) if "mined" in found else None
    has_mined = mined is not None and bool((mined.sum(1) > 0).any())  # rows of 0 without an auxiliary branch
    if dataset.true_labels is not None:
        true = dataset.true_labels[index]
        known, wrong = true >= 0, (true >= 0) & (true != given)
        if bool(wrong.any()) and bool((known & ~wrong).any()):
            result["flips_as_given"] = _share(suggested == given, wrong)
            result["flips_as_true"] = _share(suggested == true, wrong)
            result["right_as_given"] = _share(suggested == given, known & ~wrong)
            sure = found.get("confidence")
            if sure is not None and bool((sure != sure[0]).any()):  # 1 throughout without the uncertainty module
                result["confidence_auc"] = float(flip_auc(1 - sure[known], wrong[known]))
            if has_mined and mined is not None:
                result["mined_as_true"] = _share(mined.argmax(1) == true, wrong)
    if has_mined and mined is not None and dataset.distributions is not None:
        votes = other_classes(dataset.distributions[index], given)
        rows = (mined.sum(1) > 0) & (votes.sum(1) > 0)
        if bool(rows.any()):
            result["mined_total_variation"] = float(total_variation(mined[rows], votes[rows]))
            result["mined_kl"] = float(distribution_kl(mined[rows], votes[rows]))
    return result


def _share(hits: Tensor, among: Tensor) -> float:
    return float(hits[among].double().mean())
