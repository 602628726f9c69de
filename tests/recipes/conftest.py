"""Small batches with neighbours, and a network that says what it is told."""

import lightning
import pytest
import torch
from torch import nn

from ferkit.blocks import BranchedOutput
from ferkit.graph import KNNGraph

FACES = 20


def graph_of(points, k, metric="l2"):
    """The exact graph of a few rows."""
    distances = torch.cdist(points.double(), points.double(), p=2.0 if metric == "l2" else 1.0)
    distances = distances.square() if metric == "l2" else distances
    values, indices = distances.fill_diagonal_(torch.inf).topk(k, largest=False)
    meta = {"format": "ferkit.knn/1", "n": len(points), "dim": points.shape[1], "k": k}
    return KNNGraph(indices, values.float(), {**meta, "metric": metric, "method": "exact"})


def attached(recipe, epochs=10):
    recipe.trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    return recipe


class Told(nn.Module):
    """A network whose logits and features of the i-th image it is shown are rows of tables."""

    def __init__(self, logits, features):
        super().__init__()
        self.logits, self.features = nn.Parameter(logits.clone()), nn.Parameter(features.clone())
        self.target_classifier = nn.Linear(features.shape[1], logits.shape[1])

    def forward(self, images):
        index = images[:, 0, 0, 0].long()
        return BranchedOutput(self.features[index], self.logits[index])

    forward_target = forward


def numbered(index):
    """Images that name their row of ``Told``."""
    return index.double()[:, None, None, None].expand(-1, 3, 2, 2)


@pytest.fixture
def faces():
    """Images, labels, points in two spaces."""
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (FACES, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "label": torch.arange(FACES) % 3,
        "au": torch.rand(FACES, 5, generator=generator) * 3,
        "va": torch.rand(FACES, 2, generator=generator) * 2 - 1,
    }


def groups_of(faces, tables, centers):
    """The batch of these centres and all their neighbours, as NeighborGroupBatchSampler's collate lays it out."""
    near = torch.cat([indices[centers] for indices, _ in tables.values()], 1)
    weight = torch.cat([weights[centers] for _, weights in tables.values()], 1)
    slot = torch.where(near < 0, centers[:, None], near)
    index = torch.cat([centers, slot.flatten()])
    return {
        "image": faces["image"][index],
        "label": faces["label"][index],
        "index": index,
        "weight": torch.where(near < 0, 0, weight),
    }
