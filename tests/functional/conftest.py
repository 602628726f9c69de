"""Reference values, and one small case for every loss, so that what all promise is tested in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import ferkit.functional as ff

CLASSES = 4


@dataclass(frozen=True)
class Case:
    """A loss with its differentiable inputs: name, shape without the sample axis, and where that axis goes."""

    name: str
    function: Callable[..., Tensor]
    inputs: dict[str, tuple[tuple[int, ...], int]]
    options: dict[str, object]
    labelled: bool = True
    per_sample: bool = True

    def make(self, size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], Tensor]:
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, (shape, axis) in self.inputs.items():
            full = (*shape[:axis], size, *shape[axis:])
            values = torch.randn(full, generator=generator, dtype=torch.float64)
            if name in ("confidence", "certainty"):
                values = values.sigmoid()
            if name in ("distribution", "p", "q"):
                values = values.softmax(1)
            if name == "affinity":
                values = values.abs()
            tensors[name] = values.to(dtype)
        labels = torch.randint(CLASSES, (size,), generator=generator)
        labels[: min(size, CLASSES)] = torch.arange(min(size, CLASSES))
        return tensors, labels

    def rows(self, tensors: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
        return {name: value.index_select(self.inputs[name][1], index) for name, value in tensors.items()}

    def __call__(self, tensors: dict[str, Tensor], labels: Tensor, **options: object) -> Tensor:
        if not self.labelled:  # rows without a label leave by their weight
            weight = options.get("sample_weight")
            keep = (labels >= 0).to(next(iter(tensors.values())).dtype)
            options["sample_weight"] = keep if weight is None else weight * keep
            return self.function(**tensors, **self.options, **options)
        return self.function(**tensors, labels=labels, **self.options, **options)


def _around_centers(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def around(features: Tensor, *rest: Tensor, **options: object) -> Tensor:
        centers = torch.arange(5.0 * CLASSES, device=features.device).sin().view(CLASSES, 5)
        return function(features, *rest, centers=centers, **options)

    return around


def _through(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def through(logits: Tensor, labels: Tensor, **options: object) -> Tensor:
        confusions = torch.arange(1.0, CLASSES**2 + 1, device=logits.device).view(CLASSES, CLASSES).sin().abs() + 0.1
        return function(logits, confusions / confusions.sum(1, keepdim=True), labels, **options)

    return through


def _through_two(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A second annotator, who calls every class by the next one's name."""

    def through(logits: Tensor, labels: Tensor, **options: object) -> Tensor:
        confusions = torch.arange(2.0 * CLASSES**2, device=logits.device).view(2, CLASSES, CLASSES).cos().abs() + 0.1
        second = torch.where(labels < 0, labels, (labels + 1) % CLASSES)
        shares = confusions / confusions.sum(2, keepdim=True)
        return function(logits, shares, torch.stack([labels, second], 1), **options)

    return through


def _cases() -> list[Case]:
    logits = ((CLASSES,), 0)
    features = {"target": ((5,), 0), "auxiliary": ((CLASSES, 3), 1)}
    cases = [
        Case("weighted_logit", ff.weighted_logit_cross_entropy, {"logits": logits, "confidence": ((), 0)}, {}),
        Case("auxiliary", ff.auxiliary_cross_entropy, {"auxiliary_logits": ((CLASSES, CLASSES - 1), 1)}, {}),
    ]
    for divisor in ("paper", "released"):
        inputs = {"logits": logits, "distribution": logits}
        cases.append(Case(f"latent-{divisor}", ff.latent_distribution_loss, inputs, {"divisor": divisor}))
    for form in ("gram", "factored"):
        for normalize in ("batch", "subset"):
            options = {"form": form, "normalize": normalize}
            cases.append(Case(f"msp-{form}-{normalize}", ff.msp_loss, features, options, per_sample=False))
        pair = {"student": ((5,), 0), "teacher": ((2, 2), 0)}
        cases.append(Case(f"sp-{form}", ff.similarity_preserving_loss, pair, {"form": form}, labelled=False))
    around = {"logits": logits, "neighbor_logits": ((3, CLASSES), 0), "affinity": ((3,), 0)}
    cases.append(Case("guidance", ff.neighbor_guidance_loss, around, {"detach": None}, labelled=False))
    for name, options in (
        ("reversed", {"direction": "center-to-neighbor"}),
        ("shares", {"normalize": "weights"}),
    ):
        options = {"detach": None, **options}
        cases.append(Case(f"guidance-{name}", ff.neighbor_guidance_loss, around, options, labelled=False))
    target = {"logits": logits, "distribution": logits}
    cases.append(Case("distribution-kl", ff.label_distribution_loss, target, {}))
    released = {"divergence": "cross-entropy", "eps": 1e-10}
    cases.append(Case("distribution-released", ff.label_distribution_loss, target, released))
    cases.append(Case("jeffreys", ff.jeffreys_divergence, {"p": logits, "q": logits}, {}, labelled=False))
    cases.append(Case("center", _around_centers(ff.center_loss), {"features": ((5,), 0)}, {}))
    certain = {"features": ((5,), 0), "certainty": ((), 0)}
    cases.append(Case("uncertainty", _around_centers(ff.uncertainty_center_loss), certain, {"detach": None}))
    columns = {"prediction": logits, "target": logits}  # as many targets as there are classes
    for convention in ("population", "released"):
        options = {"convention": convention}
        cases.append(Case(f"ccc-{convention}", ff.concordance_loss, columns, options, labelled=False, per_sample=False))
    scores = {"encoder_scores": logits, "decoder_scores": logits}
    cases.append(Case("hinge", ff.hinge_discriminator_loss, scores, {}, labelled=False))
    cases.append(Case("hinge-sum", ff.hinge_discriminator_loss, scores, {"form": "sum"}, labelled=False))
    for form in ("paper", "released"):
        cases.append(Case(f"symmetric-{form}", ff.symmetric_cross_entropy, {"logits": logits}, {"form": form}))
    cases.append(Case("transition", _through(ff.transition_cross_entropy), {"logits": logits}, {}))
    cases.append(Case("transition-two", _through_two(ff.transition_cross_entropy), {"logits": logits}, {}))
    both = {"logits": logits, "peer_logits": logits}
    cases.append(Case("co-teaching-all", ff.co_teaching_loss, both, {"forget_rate": 0.0}))
    cases.append(Case("co-teaching", ff.co_teaching_loss, both, {"forget_rate": 0.3}))
    return cases


@pytest.fixture(params=_cases(), ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param
