"""What LDL-ALSG and LDLVA share: neighbours of each training image, and what the network says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ferkit.blocks.branched_backbone import BranchedOutput
from ferkit.checks import check_choice, check_labels, check_number
from ferkit.functional import neighbor_distances
from ferkit.graph import KNNGraph
from ferkit.recipes.backbone import BackboneRecipe
from ferkit.recipes.base import Batch
from ferkit.recipes.neighbor_bank import NeighborBank

__all__ = ["PASSES", "NeighborRecipe", "Neighbors", "check_points"]

PASSES = ("joint", "train", "separate", "bank")
TOLERANCE = 1e-3  # of the largest distance: rounding of the columns, and no other faces


class Neighbors(NamedTuple):
    """The K' neighbours of each of the G centres of a batch; constants, but for what ``"joint"`` lets through."""

    position: Tensor  # (G, K') in the training set
    logits: Tensor  # (G, K', C)
    features: Tensor  # (G, K', D)
    weight: Tensor  # (G, K') affinity, 0 where there is no neighbour (or none known yet)


class NeighborRecipe(BackboneRecipe):
    """A recipe to be put before another one, whose batches it gives neighbours: ``class X(NeighborRecipe, Y)``.

    Args:
        num_classes: C.
        neighbors: of each image in each graph; the first so many columns.
        neighbor_pass: where the neighbours' predictions come from. ``"joint"``: centres and neighbours in one forward
            (LDL-ALSG), so batch statistics are of all of them. ``"train"``: a second forward in training mode, without
            gradient (LDLVA's release): own batch statistics, running ones updated twice. ``"separate"``: a second
            forward without gradient in evaluation mode: running statistics are used and left alone. ``"bank"``: no
            second forward, but what the network last said of each image; batches hold centres alone. The slot of a
            missing neighbour holds the centre's image again: it has no part in any loss, but in the batch statistics
            of ``"joint"`` and ``"train"`` it counts.
        bank_momentum: of the bank, see :class:`ferkit.recipes.NeighborBank`.
        neighbor_temperature: T of softmax(logits / T), what neighbours are taken to predict: 1 in both papers; below 1
            is sharper. Flipped labels make every prediction flatter than the truth, and neighbours pass that on.
        **options: of the recipe behind.
    """

    may_route = False
    spaces: tuple[str, ...] = ()  # of the graphs that are built where none is given
    keeps_features = False  # whether the bank is asked for features too

    def __init__(
        self,
        num_classes: int,
        neighbors: int,
        neighbor_pass: str,
        bank_momentum: float,
        neighbor_temperature: float,
        **options: Any,
    ) -> None:
        check_number(neighbors, "neighbors", 1, integer=True)
        check_choice(neighbor_pass, "neighbor_pass", PASSES)
        check_number(bank_momentum, "bank_momentum", 0, 1)
        check_number(neighbor_temperature, "neighbor_temperature", 0, open_low=True)
        super().__init__(num_classes, **options)
        self.neighbors, self.neighbor_pass, self.bank_momentum = neighbors, neighbor_pass, bank_momentum
        self.neighbor_temperature = neighbor_temperature
        self.bank: NeighborBank | None = None
        self.image_ids: list[str] | None = None  # of the training set

    def needs_points(self, graph: KNNGraph) -> bool:
        """Whether ``affinity`` reads the rows that the graph was built from."""
        return False

    def affinity(self, space: str, graph: KNNGraph, points: Tensor | None = None) -> Tensor:
        """Weights (N, K) of a graph's neighbours; ``points`` (N, D) are the rows it was built from."""
        raise TypeError(f"{type(self).__name__} must define affinity")

    def attach(
        self,
        graphs: Mapping[str, KNNGraph],
        labels: Tensor,
        ids: Sequence[Any] | None = None,
        points: Mapping[str, Tensor] | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Take the training set's graphs, space -> graph, and its given labels (N,) before training.

        Returns:
            space -> (indices, weights), the tables of :class:`ferkit.samplers.NeighborGroupBatchSampler`.

        Raises:
            ValueError: for no graph, one of fewer neighbours than asked for, of another number of images, or of other
                images or points; for labels outside -1..C-1.
        """
        if not graphs:
            raise ValueError("graphs: expected at least one, got none")
        labels = check_labels(torch.as_tensor(labels), len(labels), self.num_classes)
        self.image_ids = None if ids is None else _names(ids, len(labels))
        tables = {}
        for space, graph in graphs.items():
            rows, columns = graph.indices.shape
            if rows != len(labels):
                raise ValueError(f"graphs: expected {len(labels)} rows, one an image, got {rows} in {space!r}")
            if columns < self.neighbors:
                raise ValueError(f"neighbors: expected at most the {columns} of graph {space!r}, got {self.neighbors}")
            graph.check(ids=ids)
            if points and space in points and self.needs_points(graph):
                check_points(points[space], graph)
            graph = graph.take(self.neighbors)
            tables[space] = (graph.indices, self.affinity(space, graph, (points or {}).get(space)).float())
        device = self.device
        self.register_buffer("given_labels", labels.detach().to(device).clone(), persistent=False)
        if self.neighbor_pass == "bank":
            index = torch.cat([indices for indices, _ in tables.values()], 1)
            weight = torch.cat([weights for _, weights in tables.values()], 1)
            self.register_buffer("neighbor_index", index.clamp_min(0).to(device), persistent=False)
            self.register_buffer("neighbor_weight", torch.where(index < 0, 0, weight).to(device), persistent=False)
            width = self.model.target_classifier.in_features if self.keeps_features else 0
            self.bank = NeighborBank(len(labels), self.num_classes, width, self.bank_momentum).to(device)
        return tables

    def look_around(self, images: Tensor, batch: Batch) -> tuple[BranchedOutput, Tensor, Neighbors]:
        """What the network says of the centres, their positions (G,), and their neighbours."""
        grouped = "weight" in batch and len(batch["index"]) > len(batch["weight"])
        if grouped == (self.neighbor_pass == "bank"):
            found = "batches of NeighborGroupBatchSampler" if grouped else "plain ones"
            wanted = "batches of centres alone" if grouped else "batches of NeighborGroupBatchSampler"
            raise ValueError(f"neighbor_pass: {self.neighbor_pass!r} expects {wanted}, got {found}")
        if not grouped:
            return self._from_bank(images, batch)
        groups, count = batch["weight"].shape
        near = batch["index"][groups:].reshape(groups, count)
        if self.neighbor_pass == "joint":
            whole: BranchedOutput = self.model(images)
            output = _centers(whole, groups)
            logits, features = whole.logits[groups:].detach(), whole.features[groups:].detach()
        else:
            output = self.model(images[:groups])
            with torch.no_grad():
                other = self._aside(images[groups:])
            logits, features = other.logits, other.features
        logits, features = (value.reshape(groups, count, -1) for value in (logits, features))
        logits = logits / self.neighbor_temperature
        return output, batch["index"][:groups], Neighbors(near, logits, features, batch["weight"])

    def _aside(self, images: Tensor) -> BranchedOutput:
        """The target branch on the neighbours."""
        if self.neighbor_pass == "separate":
            modes = [(module, module.training) for module in self.model.modules()]
            self.model.eval()
            output: BranchedOutput = self.model(images)
            for module, training in modes:  # each its own: some may be frozen
                module.training = training
            return output
        return self.model.forward_target(images)

    def _from_bank(self, images: Tensor, batch: Batch) -> tuple[BranchedOutput, Tensor, Neighbors]:
        if self.bank is None:
            raise RuntimeError(f"{type(self).__name__}: call attach(graphs, labels) before training")
        index = batch["index"]
        near, weight = self.neighbor_index[index], self.neighbor_weight[index]
        logits, features, known = self.bank.read(near)
        output: BranchedOutput = self.model(images)
        self.bank.write(index, output.logits, output.features if self.keeps_features else None)
        logits = logits / self.neighbor_temperature
        return output, index, Neighbors(near, logits, features, torch.where(known, weight, 0))

    neighbor_index: Tensor
    neighbor_weight: Tensor
    given_labels: Tensor

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["image_ids"] = self.image_ids
        if self.bank is not None:
            checkpoint["neighbor_bank"] = self.bank.snapshot()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.bank is None:
            return
        if "neighbor_bank" not in checkpoint:
            raise ValueError("neighbor_pass: expected a checkpoint of a run with 'bank', got one without a bank")
        order = self.saved_order(checkpoint)
        state = checkpoint["neighbor_bank"]
        self.bank.restore(state if order is None else {name: value[order] for name, value in state.items()})

    def saved_order(self, checkpoint: Mapping[str, Any]) -> Tensor | None:
        """Where each of this recipe's images was in the checkpoint's order; None where they are in the same order.

        Raises:
            ValueError: if its images are others.
        """
        saved = checkpoint.get("image_ids")
        if saved is None or self.image_ids is None or saved == self.image_ids:
            return None
        place = {name: row for row, name in enumerate(saved)}
        absent = [name for name in self.image_ids if name not in place]
        if absent or len(saved) != len(self.image_ids):
            told = f", without {absent[0]!r}" if absent else ""
            raise ValueError(f"ids: expected the checkpoint's {len(saved)} images, got {len(self.image_ids)}{told}")
        return torch.tensor([place[name] for name in self.image_ids])


def _centers(whole: BranchedOutput, groups: int) -> BranchedOutput:
    """The centres' share of what was said of centres and neighbours."""
    features, logits = whole.auxiliary_features, whole.auxiliary_logits
    return BranchedOutput(
        whole.features[:groups],
        whole.logits[:groups],
        None if features is None else features[:, :groups],
        None if logits is None else logits[:, :groups],
    )


def _names(ids: Sequence[Any], count: int) -> list[str]:
    names = [str(name) for name in (ids.tolist() if isinstance(ids, Tensor) else ids)]
    if len(names) != count:
        raise ValueError(f"ids: expected {count}, one an image, got {len(names)}")
    return names


def check_points(points: Tensor, graph: KNNGraph) -> None:
    """Raise ValueError unless the rows have the distances that the graph holds, within what matters to no affinity.

    Unlike a fingerprint this allows for another dtype, and for other values of rows without neighbours; only graphs of
    squared distances have enough to tell, the fingerprint speaks for the rest.
    """
    if graph.metric != "l2":
        graph.check(points)
        return
    found = neighbor_distances(points.double(), graph.indices, "l2")[graph.valid].sqrt()
    held = graph.distances[graph.valid].double().sqrt()
    wrong = ~((found - held).abs() <= TOLERANCE * held.amax()) if len(held) else torch.zeros(0, dtype=torch.bool)
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        row = int(graph.valid.nonzero()[place, 0])
        raise ValueError(f"row {row}: expected a neighbour at distance {held[place]:.4g}, got {found[place]:.4g}")
