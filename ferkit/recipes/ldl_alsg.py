"""LDL-ALSG: label distribution learning on auxiliary label space graphs (Chen et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ferkit import functional
from ferkit.checks import check_choice, check_number
from ferkit.graph import KNNGraph
from ferkit.recipes.base import Batch
from ferkit.recipes.cross_entropy import CrossEntropy
from ferkit.recipes.dmue import DMUE
from ferkit.recipes.neighbors import NeighborRecipe

__all__ = ["LDLALSG", "PRESETS", "GuidedDMUE", "NeighborGuidance"]

# Values of the arguments left at None. "published" is section 4.2 of the paper, which starts from a pretrained
# ResNet-50; "scratch" is what docs/ldl-alsg.md measured to learn without one.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "lam": 5e-4,
        "lam_warmup": 0.0,
        "neighbor_pass": "joint",
        "bank_momentum": 0.0,
        "neighbor_temperature": 1.0,
        "spaces": ("au", "landmark"),
    },
    "scratch": {
        "lam": 0.5,
        "lam_warmup": 0.3,
        "neighbor_pass": "bank",
        "bank_momentum": 0.5,
        "neighbor_temperature": 0.5,
        "spaces": ("au",),
    },
}
SIGMAS = {"au": 1.0, "landmark": 68.0}  # of the paper; landmarks in pixels


class NeighborGuidance(NeighborRecipe):
    r"""Guidance for any classification loss: :math:`L + \lambda \sum_t \sum_j a^t_{ij} KL(sg(p_j) \| p_i)` (eq. 5).

    The mean is over the centres; the sum over neighbours and graphs is not divided. Put it before the recipe that
    classifies: ``class Mine(NeighborGuidance, MyRecipe)``; that one's loss sees the centres alone.

    Args:
        num_classes: C.
        preset: ``"scratch"`` or ``"published"``: what the arguments left at None mean, and the spaces of the graphs
            where none is given: action units, or (published) action units and landmarks.
        lam: weight of the guidance against the classification loss; the paper's is 5e-4 for two graphs, 1e-3 for one.
        lam_warmup: share of the run's epochs over which ``lam`` rises linearly from 0.
        sigma: bandwidth of each graph's Gaussian affinity, space -> value in the space's units. Not given: with
            ``preset="published"`` the paper's (au 1; landmark 68 pixels, also after Procrustes alignment, which keeps
            the unit), else the root of the median squared distance of the graph's edges between rows that differ, 1
            where there is none; what was used is in the run's config.yaml.
        neighbors: of each image in each graph.
        neighbor_pass: ``"joint"``, ``"train"``, ``"separate"`` or ``"bank"``, see :class:`NeighborRecipe`.
        bank_momentum: of the bank: 0 keeps the last prediction, above it a running mean over the epochs.
        neighbor_temperature: of the neighbours' predictions, see :class:`NeighborRecipe`; the paper's is 1.
        **options: of the recipe behind.
    """

    def __init__(
        self,
        num_classes: int,
        preset: str = "scratch",
        lam: float | None = None,
        lam_warmup: float | None = None,
        sigma: dict[str, float] | None = None,
        neighbors: int = 4,
        neighbor_pass: str | None = None,
        bank_momentum: float | None = None,
        neighbor_temperature: float | None = None,
        **options: Any,
    ) -> None:
        check_choice(preset, "preset", tuple(PRESETS))
        given = {"lam": lam, "lam_warmup": lam_warmup, "neighbor_pass": neighbor_pass, "bank_momentum": bank_momentum}
        given |= {"neighbor_temperature": neighbor_temperature}
        chosen = PRESETS[preset] | {name: value for name, value in given.items() if value is not None}
        check_number(chosen["lam"], "lam", 0)
        check_number(chosen["lam_warmup"], "lam_warmup", 0, 1)
        if sigma is not None and not isinstance(sigma, Mapping):
            raise TypeError(f"sigma: expected a mapping of space -> bandwidth, got {type(sigma).__name__}")
        for space, value in (sigma or {}).items():
            check_number(value, f"sigma: {space}", 0, open_low=True)
        about = {name: chosen[name] for name in ("neighbor_pass", "bank_momentum", "neighbor_temperature")}
        super().__init__(num_classes, neighbors, **about, **options)
        self.spaces = chosen.pop("spaces")
        self.hparams.update(chosen)  # the recipe behind has saved the others
        self.preset, self.lam, self.lam_warmup = preset, float(chosen["lam"]), float(chosen["lam_warmup"])
        self.given_sigma = dict(sigma or {})
        self.sigma = dict(self.given_sigma)  # and those that are chosen

    def attach(
        self,
        graphs: Mapping[str, KNNGraph],
        labels: Tensor,
        ids: Sequence[Any] | None = None,
        points: Mapping[str, Tensor] | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        unknown = [space for space in self.given_sigma if space not in graphs]
        if unknown:
            raise ValueError(f"sigma: expected spaces of the graphs, {', '.join(graphs)}, got {', '.join(unknown)}")
        self.sigma = dict(self.given_sigma)  # what was chosen for other graphs is not of these
        return super().attach(graphs, labels, ids, points)

    def affinity(self, space: str, graph: KNNGraph, points: Tensor | None = None) -> Tensor:
        """exp(-d²/(2 sigma²)); chooses the sigma not given."""
        if space not in self.sigma:
            published = self.preset == "published" and space in SIGMAS
            self.sigma[space] = SIGMAS[space] if published else _typical_distance(graph)
            self.hparams["sigma"] = dict(self.sigma)
        return graph.affinity(self.sigma[space])

    def guidance_weight(self) -> float:
        """Lambda in the current epoch."""
        rise = self.share_of_run(self.lam_warmup)
        return self.lam * min(1.0, (self.current_epoch + 1) / (rise + 1))

    def batch_loss(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        output, _, near = self.look_around(images, batch)
        losses = self.classification_loss(output, batch["label"][: len(output.logits)])
        guidance = functional.neighbor_guidance_loss(output.logits, near.logits, near.weight)
        total = losses.pop("loss")
        return {
            "loss": total + self.guidance_weight() * guidance,
            "classification": total,
            "guidance": guidance,
            "affinity": near.weight.sum(1).mean(),
            **losses,
        }


def _typical_distance(graph: KNNGraph) -> float:
    """Root of the median squared distance of the edges between rows that differ."""
    # Equal rows (faces without any active unit) say nothing of the unit, and might be most of the edges.
    found = graph.distances[(graph.indices >= 0) & (graph.distances > 0)]
    if not len(found):
        return 1.0  # every affinity is 0 or 1 whatever sigma
    middle = float(found.double().quantile(0.5)) if len(found) < 1 << 24 else float(found.median())
    return round(middle**0.5, 6) or middle**0.5


class LDLALSG(NeighborGuidance, CrossEntropy):
    """LDL-ALSG with the paper's classification loss, cross-entropy. See :class:`NeighborGuidance`.

    Args:
        num_classes: C.
        **options: of :class:`NeighborGuidance` and :class:`ferkit.recipes.CrossEntropy`.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, **options)


class GuidedDMUE(NeighborGuidance, DMUE):
    """DMUE with LDL-ALSG's guidance. See :class:`NeighborGuidance` and :class:`ferkit.recipes.DMUE`.

    Args:
        num_classes: C.
        **options: of both.
    """

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, **options)
