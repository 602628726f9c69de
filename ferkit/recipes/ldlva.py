"""LDLVA: label distributions from neighbours in valence and arousal (Le et al., WACV 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ferkit import functional
from ferkit.blocks.adaptive_similarity import AdaptiveSimilarity
from ferkit.blocks.row_sgd import RowSGD
from ferkit.blocks.sample_certainty import SampleCertainty
from ferkit.checks import check_choice, check_number
from ferkit.graph import KNNGraph
from ferkit.losses import UncertaintyCenterLoss
from ferkit.recipes.base import Batch
from ferkit.recipes.cross_entropy import CrossEntropy
from ferkit.recipes.dmue import DMUE
from ferkit.recipes.neighbors import NeighborRecipe, Neighbors

__all__ = ["LDLVA", "PRESETS", "AffectDMUE", "AffectTargets"]

# Values of the arguments left at None. "published" is the released code's RAF-DB setting, which starts from a backbone
# trained on faces; "scratch" is what docs/ldlva.md measured to learn without one.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "certainty_init": 0.5,
        "certainty_lr": 10.0,
        "certainty_warmup": 0.0,
        "neighbor_pass": "train",
        "bank_momentum": 0.0,
        "neighbor_temperature": 1.0,
    },
    "scratch": {
        "certainty_init": 0.5,
        "certainty_lr": 100.0,
        "certainty_warmup": 0.3,
        "neighbor_pass": "bank",
        "bank_momentum": 0.5,
        "neighbor_temperature": 0.5,
    },
}

RELEASED_EPS = 1e-10  # added to the probabilities inside the logarithm, with the published preset


class AffectTargets(NeighborRecipe):
    r"""Targets from neighbours for any classification loss: :math:`L_{cls}(d) + \gamma L_D`.

    The target :math:`d_i = \lambda_i e_{y_i} + (1-\lambda_i) \tilde d_i` mixes the given label with the neighbours'
    predictions, :math:`\tilde d_i = \sum_k c_{ik} p_k / \sum_k c_{ik}`, c the affinity in valence and arousal times a
    learned calibration; each training sample has its own certainty lambda, learned by an optimiser of its own. Put the
    class before the recipe that classifies: ``class Mine(AffectTargets, MyRecipe)``.

    Args:
        num_classes: C.
        preset: ``"scratch"`` or ``"published"``: what the arguments left at None mean, and whether the cross-entropy
            with the targets has the exact logarithm or the released log(p + 1e-10).
        neighbors: K of each image.
        neighbor_pass: ``"train"`` (released), ``"joint"``, ``"separate"`` or ``"bank"``, see :class:`NeighborRecipe`.
        bank_momentum: of the bank's predictions.
        neighbor_temperature: of the neighbours' predictions, see :class:`NeighborRecipe`; released is 1.
        affinity_kind: ``"laplacian"``: exp(-l1 distance / bandwidth), as released, whatever metric found the
            neighbours; ``"gaussian"``: exp(-d²/(2 bandwidth²)).
        bandwidth: of the affinity.
        adaptive: calibrate the affinities by :class:`ferkit.blocks.AdaptiveSimilarity`.
        certainty_init: the free scalar under lambda at the start: 0.5 (RAF-DB; lambda 0.62) or 0.8 (AffectNet; 0.69).
        certainty_lr: learning rate of the free scalars; 10 in the release.
        certainty_momentum: 0 (RAF-DB) or 0.9 (AffectNet); only samples of the batch move.
        certainty_warmup: share of the run's epochs in which the given labels are the target and lambda rests: before
            the network knows anything, its predictions say nothing of the labels.
        detach_target: make the target a constant: no gradient to the calibration; lambda is learned all the same.
        class_weights: ``"none"`` (RAF-DB), or ``"balanced"`` (AffectNet): N / (C n_c), the mean still over samples.
        discriminative: gamma, the weight of :class:`ferkit.losses.UncertaintyCenterLoss`.
        **options: of the recipe behind.
    """

    spaces = ("va",)
    keeps_features = True

    def __init__(
        self,
        num_classes: int,
        preset: str = "scratch",
        neighbors: int = 8,
        neighbor_pass: str | None = None,
        bank_momentum: float | None = None,
        neighbor_temperature: float | None = None,
        affinity_kind: str = "laplacian",
        bandwidth: float = 0.5,
        adaptive: bool = True,
        certainty_init: float | None = None,
        certainty_lr: float | None = None,
        certainty_momentum: float = 0.0,
        certainty_warmup: float | None = None,
        detach_target: bool = False,
        class_weights: str = "none",
        discriminative: float = 0.01,
        **options: Any,
    ) -> None:
        check_choice(preset, "preset", tuple(PRESETS))
        given = {"neighbor_pass": neighbor_pass, "bank_momentum": bank_momentum, "certainty_warmup": certainty_warmup}
        given |= {"neighbor_temperature": neighbor_temperature, "certainty_init": certainty_init}
        given |= {"certainty_lr": certainty_lr}
        chosen = PRESETS[preset] | {name: value for name, value in given.items() if value is not None}
        check_choice(affinity_kind, "affinity_kind", ("laplacian", "gaussian"))
        check_choice(class_weights, "class_weights", ("none", "balanced"))
        check_number(bandwidth, "bandwidth", 0, open_low=True)
        check_number(chosen["certainty_init"], "certainty_init")
        check_number(chosen["certainty_lr"], "certainty_lr", 0)
        check_number(certainty_momentum, "certainty_momentum", 0, 1)
        check_number(chosen["certainty_warmup"], "certainty_warmup", 0, 1)
        check_number(discriminative, "discriminative", 0)
        about = {name: chosen[name] for name in ("neighbor_pass", "bank_momentum", "neighbor_temperature")}
        super().__init__(num_classes, neighbors, **about, **options)
        self.hparams.update(chosen)  # the recipe behind has saved the others
        self.affinity_kind, self.bandwidth = affinity_kind, bandwidth
        self.certainty_init, self.certainty_lr = chosen["certainty_init"], chosen["certainty_lr"]
        self.certainty_momentum, self.certainty_warmup = certainty_momentum, chosen["certainty_warmup"]
        self.detach_target, self.class_weights, self.discriminative = detach_target, class_weights, discriminative
        self.target_eps = RELEASED_EPS if preset == "published" else 0.0
        width = self.model.target_classifier.in_features
        self.calibration = AdaptiveSimilarity(width) if adaptive else None
        self.centers = UncertaintyCenterLoss(num_classes, width)
        self.certainty: SampleCertainty | None = None
        self.certainty_optimizer: RowSGD | None = None  # from `attach` on
        self.register_buffer("class_weight", None, persistent=False)
        self._updates: dict[str, Any] = {}

    def needs_points(self, graph: KNNGraph) -> bool:
        return self.affinity_kind == "laplacian" and graph.metric != "l1"

    def affinity(self, space: str, graph: KNNGraph, points: Tensor | None = None) -> Tensor:
        """Similarity of each listed neighbour in the graph's space."""
        if self.affinity_kind == "gaussian":
            return graph.affinity(self.bandwidth)
        if not self.needs_points(graph):
            return graph.affinity(self.bandwidth, kind="laplacian")
        if points is None:
            raise ValueError(
                f"points: the laplacian affinity needs the rows of graph {space!r}, or a graph of metric l1"
            )
        return functional.laplacian_affinity(functional.neighbor_distances(points, graph.indices, "l1"), self.bandwidth)

    def attach(
        self,
        graphs: Mapping[str, KNNGraph],
        labels: Tensor,
        ids: Sequence[Any] | None = None,
        points: Mapping[str, Tensor] | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        tables = super().attach(graphs, labels, ids, points)
        labels, known = torch.as_tensor(labels), self.certainty
        self.certainty = SampleCertainty(len(labels), self.certainty_init, self.image_ids).to(self.device)
        if known is not None and (known.num_samples == len(labels) if ids is None else known.ids is not None):
            self.certainty.load_state_dict(known.state_dict(), strict=False)  # of the images in common
        self.certainty_optimizer = RowSGD([self.certainty.logit], self.certainty_lr, self.certainty_momentum)
        if self.class_weights == "balanced":
            counts = torch.bincount(labels[labels >= 0], minlength=self.num_classes).clamp_min(1)
            weight = counts.sum() / (self.num_classes * counts)
            self.register_buffer("class_weight", weight.float().to(self.device), persistent=False)
        return tables

    class_weight: Tensor | None

    def trained_parameters(self) -> list[nn.Parameter]:
        """All but the certainties, which have their own descent."""
        own = set() if self.certainty is None else set(self.certainty.parameters())
        return [parameter for parameter in super().trained_parameters() if parameter not in own]

    def batch_loss(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        if self.certainty is None or self.certainty_optimizer is None:
            raise RuntimeError(f"{type(self).__name__}: call attach(graphs, labels) before training")
        output, index, near = self.look_around(images, batch)
        labels = batch["label"][: len(index)]
        certainty = self.certainty(index)
        waiting = self.current_epoch < round(self.share_of_run(self.certainty_warmup))
        target = self.target(output.features, labels, certainty, near, waiting)
        losses = self.classification_loss(output, labels, target, self.class_weight)
        total = losses.pop("loss")
        self._updates = {}
        if not waiting:
            # Through the target alone, which ends at the certainties: a small part of the graph.
            (self._updates["gradient"],) = torch.autograd.grad(total, self.certainty.logit, retain_graph=True)
        rows = self._rows(output.features, labels, certainty, index, near)
        discriminative = self.centers(*rows)
        self._updates["rows"] = tuple(value.detach() for value in rows)
        return {
            "loss": total + self.discriminative * discriminative,
            "classification": total,
            "discriminative": discriminative,
            "certainty": certainty.mean(),
            **losses,
        }

    def target(self, features: Tensor, labels: Tensor, certainty: Tensor, near: Neighbors, waiting: bool) -> Tensor:
        """Label distributions (G, C) that the centres are to be trained on."""
        if waiting:
            return functional.va_target_distribution(
                labels, torch.ones_like(certainty), near.logits.softmax(2), torch.zeros_like(near.weight)
            )
        contribution = near.weight
        if self.calibration is not None:
            calibration = self.calibration(features, near.features, near.weight > 0)
            contribution = contribution * (calibration.detach() if self.detach_target else calibration)
        return functional.va_target_distribution(labels, certainty, near.logits.softmax(2), contribution)

    def _rows(
        self, features: Tensor, labels: Tensor, certainty: Tensor, index: Tensor, near: Neighbors
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, labels and certainty of the centres and of their neighbours, the absent ones unlabelled."""
        assert self.certainty is not None
        around = torch.where(near.weight > 0, self.given_labels[near.position], -1).flatten()
        return (
            torch.cat([features, near.features.flatten(0, 1)]),
            torch.cat([labels, around]),
            torch.cat([certainty, self.certainty(near.position.flatten())]).detach(),
        )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.apply_updates()

    @torch.no_grad()
    def apply_updates(self) -> None:
        """Move the certainties and the class centres by what the last batch said; once after each optimiser step."""
        if not self._updates:
            return
        assert self.certainty is not None and self.certainty_optimizer is not None
        gradient = self._updates.get("gradient")
        if gradient is not None:  # one that is not finite (a skipped step of mixed precision) moves nothing
            self.certainty.logit.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            self.certainty_optimizer.step()
        self.certainty.logit.grad = None
        self.centers.update_centers(*self._updates["rows"])
        self._updates = {}

    @torch.no_grad()
    def label_certainty(self) -> Tensor | None:
        """Lambda (N,) of every training sample's given label; None before training."""
        if self.certainty is None:
            return None
        return self.certainty(torch.arange(self.certainty.num_samples, device=self.device)).cpu()

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
        """As usual; a recipe made without its training set takes the certainties' number from the state."""
        if self.certainty is None and "certainty.logit" in state_dict:
            self.certainty = SampleCertainty(len(state_dict["certainty.logit"]), self.certainty_init)
        return super().load_state_dict(state_dict, *arguments, **options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.certainty_optimizer is not None:
            checkpoint["certainty_optimizer"] = self.certainty_optimizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.certainty_optimizer is not None:
            self.certainty_optimizer.load_state_dict(checkpoint["certainty_optimizer"])
            order = self.saved_order(checkpoint)
            for state in self.certainty_optimizer.state.values():
                state.update({name: value if order is None else value[order] for name, value in state.items()})

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.certainty_optimizer is not None:  # a restored velocity follows its parameter to the device
            self.certainty_optimizer.load_state_dict(self.certainty_optimizer.state_dict())


class LDLVA(AffectTargets, CrossEntropy):
    """LDLVA with its own classification loss, cross-entropy. See :class:`AffectTargets`.

    Args:
        num_classes: C.
        **options: of :class:`AffectTargets` and :class:`ferkit.recipes.CrossEntropy`.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, **options)


class AffectDMUE(AffectTargets, DMUE):
    """DMUE whose weighted cross-entropy has LDLVA's targets. See :class:`AffectTargets`, :class:`ferkit.recipes.DMUE`.

    Args:
        num_classes: C.
        **options: of both.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, **options)
