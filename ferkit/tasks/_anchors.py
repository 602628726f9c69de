"""The confidence of one face put in many batches that hold every class (figure 6 of the paper)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ferkit.blocks.branched_backbone import BranchedOutput
from ferkit.recipes import DMUE
from ferkit.samplers import ClassCoverageBatchSampler

__all__ = ["Anchors", "chosen_anchors", "follow_anchors"]


class Anchors(NamedTuple):
    """Confidence and rank of A faces in B batches."""

    confidence: Tensor  # (A, B)
    rank: Tensor  # (A, B), 1 = the least confident of its batch


def chosen_anchors(dataset: Any, confidence: Tensor) -> dict[str, int]:
    """Two typical faces: those of median confidence among rightly and wrongly labelled ones.

    Where no wrong label is known, those at the ninth and the first tenth of all confidences.
    """
    labelled = dataset.labels >= 0
    if dataset.true_labels is not None:
        known = labelled & (dataset.true_labels >= 0)
        wrong = known & (dataset.true_labels != dataset.labels)
        if bool(wrong.any()) and bool((known & ~wrong).any()):
            return {
                "right label": _at(confidence, known & ~wrong, 0.5),
                "wrong label": _at(confidence, wrong, 0.5),
            }
    return {"high confidence": _at(confidence, labelled, 0.9), "low confidence": _at(confidence, labelled, 0.1)}


def _at(confidence: Tensor, among: Tensor, share: float) -> int:
    rows = among.nonzero()[:, 0]
    return int(rows[confidence[rows].argsort(stable=True)[round(share * (len(rows) - 1))]])


@torch.no_grad()
def follow_anchors(
    recipe: DMUE, dataset: Any, anchors: list[int], batch_size: int, min_per_class: int, batches: int = 200
) -> Anchors:
    """Put each anchor in the place of a face of its own label in batches of the coverage sampler.

    Faces are looked at without augmentation, so that only the batch mates change.
    """
    recipe.eval()
    features, logits = [], []
    for batch in DataLoader(dataset, 256):
        images = recipe.prepared(batch["image"].to(recipe.device))
        output = recipe.model.forward_target(images)
        features.append(output.features)
        logits.append(output.logits)
    every, scores, labels = torch.cat(features), torch.cat(logits), dataset.labels.to(recipe.device)
    sampler = ClassCoverageBatchSampler(
        dataset.labels, batch_size, min_per_class, seed=0, num_classes=len(dataset.classes)
    )
    drawn: list[list[int]] = []
    for epoch in range(batches):  # at least one batch an epoch
        sampler.set_epoch(epoch)
        drawn += list(sampler)
        if len(drawn) >= batches:
            break
    confidence, rank = torch.zeros(len(anchors), batches), torch.zeros(len(anchors), batches, dtype=torch.int64)
    for column, members in enumerate(drawn[:batches]):
        for row, anchor in enumerate(anchors):
            batch = torch.tensor(members)
            if anchor not in members:
                batch[(dataset.labels[batch] == dataset.labels[anchor]).nonzero()[0, 0]] = anchor
            sure = recipe.confidence(BranchedOutput(every[batch], scores[batch]), labels[batch]).cpu()
            own = sure[(batch == anchor).nonzero()[0, 0]]
            confidence[row, column], rank[row, column] = own, 1 + (sure < own).sum()
    return Anchors(confidence, rank)
