"""DMUE: latent distribution mining and pairwise uncertainty estimation (She et al., CVPR 2021)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ferkit import functional
from ferkit.blocks.branched_backbone import BranchedOutput
from ferkit.blocks.routed_backbone import RoutedBackbone
from ferkit.blocks.uncertainty_head import UncertaintyHead
from ferkit.checks import check_number
from ferkit.recipes._dmue_settings import SAMPLERS, SETTINGS, chosen_values
from ferkit.recipes._game import seeded
from ferkit.recipes.backbone import BackboneRecipe, distribution_cross_entropy
from ferkit.recipes.base import Batch

__all__ = ["DMUE", "SETTINGS", "Mined"]

CONFIDENCE_QUANTILES, CONFIDENCE_MOMENTUM = 16, 0.02


class Mined(NamedTuple):
    """What DMUE knows of training images: latent distribution, confidence in the given label, prediction."""

    position: Tensor  # (N,) in the dataset
    distribution: Tensor  # (N, C), 0 at the given label unless all-class mined
    confidence: Tensor  # (N,) in (0, 1)
    probability: Tensor  # (N, C) of the target branch


class DMUE(BackboneRecipe):
    r"""The whole method: :math:`w_u(e) (L_{wce} + \omega L_{soft} + \gamma L_{sp}) + w_d(e) L_{aux}` (eq. 10).

    Args:
        num_classes: C.
        setting: ``"scratch"``, ``"published"`` or ``"released"`` (the authors' code, all its choices at once): what the
            arguments left at None mean, see docs/dmue.md. All but the first are made for a backbone trained on faces;
            from scratch the released step collapses.
        temperature: T of eq. 3.
        omega: weight of the soft loss.
        gamma: weight of the similarity loss.
        gamma_unit: ``"absolute"`` multiplies the loss as in eq. 10; ``"relative"`` scales it so that it is worth
            ``gamma`` times the target's cross-entropy, but never more than 1000 times itself.
        beta: the ramps' threshold.
        beta_unit: ``"epochs"``, or ``"share"`` of the run's epochs.
        ramp: ``"paper"``, or ``"released"``: ramp-up with factor 5, epochs counted from 0.
        detach: the side of the similarity loss that gets no gradient: ``"none"`` (the paper), ``"target"`` or
            ``"auxiliary"``.
        normalize: ``"batch"`` (eq. 14-17) or ``"subset"`` (eq. 13, released), see :class:`ferkit.losses.MSPLoss`.
        compare: what the similarity loss compares: ``"features"`` of target and branches, or ``"logits"`` (released) of
            the branches with what the target's classifier reads.
        divisor: of the soft loss, ``"paper"`` or ``"released"``, see :class:`ferkit.losses.LatentDistributionLoss`.
        scale: of the mean cosines that confidence is read from: ``"none"`` (eq. 7) or ``"minmax"`` (the released
            code), see :func:`ferkit.functional.class_similarity`.
        head: how the uncertainty module starts: ``"random"``, or ``"similarity"``, see
            :class:`ferkit.blocks.UncertaintyHead`.
        warmup: share of the run's epochs in which every label is trusted (confidence 1). Before the features mean
            anything, confidence is low for whatever is not yet learned, and keeps it from being learned.
        calibrate: predict the mean of softmax(alpha times logits) over the confidences alpha of training, which is what
            eq. 9 fitted; without it predictions are the sharper the lower the confidence was. Accuracy is the same.
        mining: ``"leave-one-out"``, ``"all-class"`` (table 4), or ``"by-label"`` (released): leaving one out with the
            network of :class:`ferkit.blocks.RoutedBackbone`, its BN-neck and its dropout.
        frozen: the uncertainty module and the BN-neck's scale stay at their initial values (released).
        use_distribution, use_similarity, use_confidence: the rows of table 2. Without the first two there is no
            auxiliary branch, which ``mining="by-label"`` needs.
        schedule, augmentation: of :class:`ferkit.recipes.BackboneRecipe`: ``"released"`` where the setting is, else
            ``"one-cycle"`` and ``"crop-flip"``.
        **options: of :class:`ferkit.recipes.BackboneRecipe`.

    Source: She et al., CVPR 2021; ``"released"`` is checked against a recorded step of the authors' code.

    >>> made = DMUE(7, setting="released")
    >>> made.normalize, made.compare, made.scale, made.ramp, made.preferred_sampler
    ('subset', 'logits', 'minmax', 'released', 'inverse-frequency')
    """

    def __init__(
        self,
        num_classes: int,
        setting: str = "scratch",
        temperature: float = 1.2,
        omega: float | None = None,
        gamma: float | None = None,
        gamma_unit: str | None = None,
        beta: float | None = None,
        beta_unit: str | None = None,
        ramp: str | None = None,
        detach: str | None = None,
        normalize: str | None = None,
        compare: str | None = None,
        divisor: str | None = None,
        scale: str | None = None,
        calibrate: bool | None = None,
        warmup: float | None = None,
        head: str | None = None,
        mining: str | None = None,
        frozen: bool | None = None,
        use_distribution: bool = True,
        use_similarity: bool = True,
        use_confidence: bool = True,
        schedule: str | None = None,
        augmentation: str | None = None,
        **options: Any,
    ) -> None:
        given = {"omega": omega, "gamma": gamma, "gamma_unit": gamma_unit, "beta": beta, "beta_unit": beta_unit}
        given |= {"detach": detach, "scale": scale, "calibrate": calibrate, "warmup": warmup, "head": head}
        given |= {"mining": mining, "normalize": normalize, "compare": compare, "divisor": divisor, "ramp": ramp}
        given |= {"frozen": frozen, "schedule": schedule, "augmentation": augmentation}
        chosen = chosen_values(setting, given)
        check_number(temperature, "temperature", 0, open_low=True)
        branches = chosen["mining"]
        if not (use_distribution or use_similarity):
            if branches == "by-label":
                raise ValueError("mining: expected use_distribution or use_similarity beside 'by-label', got neither")
            branches = "none"
        forms = {name: chosen[name] for name in ("schedule", "augmentation")}
        super().__init__(num_classes, mining=branches, **forms, **options)
        self.save_hyperparameters()
        self.hparams.update(chosen)  # what a name stood for when the run was made
        self.preferred_sampler = SAMPLERS.get(setting, self.preferred_sampler)
        self.temperature, self.omega, self.ramp = temperature, chosen["omega"], chosen["ramp"]
        self.normalize, self.compare, self.divisor = chosen["normalize"], chosen["compare"], chosen["divisor"]
        self.gamma, self.gamma_unit = chosen["gamma"], chosen["gamma_unit"]
        self.beta, self.beta_unit, self.warmup = chosen["beta"], chosen["beta_unit"], chosen["warmup"]
        self.detach, self.scale, self.calibrate = chosen["detach"], chosen["scale"], chosen["calibrate"]
        self.frozen = chosen["frozen"]
        self.use_distribution, self.use_similarity = use_distribution, use_similarity
        self.uncertainty = UncertaintyHead(num_classes, init=chosen["head"]) if use_confidence else None
        self.register_buffer("confidences", torch.ones(CONFIDENCE_QUANTILES))
        self.confidences: Tensor

    def ramps(self, epoch: int) -> tuple[float, float]:
        """w_u and w_d (eq. 11, 12) in an epoch counted from 0 (released); the paper counts from 1."""
        beta = self.beta
        if self.beta_unit == "share":
            beta = self.share_of_run(beta)
        number = epoch + 1 if self.ramp == "paper" else epoch
        return functional.ramp_up(number, beta, form=self.ramp), functional.ramp_down(number, beta)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if not isinstance(self.model, RoutedBackbone):
            return super().training_step(batch, batch_idx)
        # Dropout draws by (seed, epoch, batch), as augmentation does, so that a resumed run is the same run.
        with seeded(self._generator(batch_idx, 1, device=self.device)):
            return super().training_step(batch, batch_idx)

    def training_loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        routed = isinstance(self.model, RoutedBackbone)
        return self.classification_loss(self.model(images, labels) if routed else self.model(images), labels)

    def trained_parameters(self) -> list[nn.Parameter]:
        """All but, if ``frozen``, what the released code gives to no optimiser."""
        still: set[nn.Parameter] = set()
        if self.frozen and self.uncertainty is not None:
            still |= set(self.uncertainty.parameters())
        if self.frozen and isinstance(self.model, RoutedBackbone):
            still |= set(self.model.neck.parameters())
        return [parameter for parameter in super().trained_parameters() if parameter not in still]

    def classification_loss(
        self,
        output: BranchedOutput,
        labels: Tensor,
        target: Tensor | None = None,
        class_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        up, down = self.ramps(self.current_epoch)
        confidence = self.confidence(output, labels)
        head_loss: float | Tensor = 0.0
        if self.uncertainty is not None and self.current_epoch < round(self.share_of_run(self.warmup)):
            # The head learns beside the network, which trusts every label until it is heard.
            apart = self.confidence(BranchedOutput(output.features.detach(), output.logits), labels)
            head_loss = functional.weighted_logit_cross_entropy(output.logits.detach(), apart, labels)
            confidence = torch.ones_like(apart)
        known = labels >= 0
        self._remember(confidence.detach(), known)
        if target is None:
            losses = {"wce": functional.weighted_logit_cross_entropy(output.logits, confidence, labels)}
        else:
            scaled = confidence[:, None] * output.logits
            losses = {"wce": distribution_cross_entropy(scaled, target, labels, class_weight, self.target_eps)}
        total = losses["wce"]
        if self.use_distribution:
            losses["soft"] = functional.latent_distribution_loss(
                output.logits, self.latent_distribution(output, labels), labels, divisor=self.divisor
            )
            total = total + self.omega * losses["soft"]
        if self.use_similarity:
            losses["sp"] = functional.msp_loss(
                *self._compared(output),
                labels,
                normalize=self.normalize,
                detach=None if self.detach == "none" else self.detach,
            )
            total = total + self._similarity_weight(losses) * losses["sp"]
        total = up * total
        if output.auxiliary_logits is not None:
            losses["aux"] = self._auxiliary_loss(output.auxiliary_logits, labels)
            total = total + down * losses["aux"]
        losses["confidence"] = torch.where(known, confidence, 0).sum() / known.sum().clamp_min(1)
        return {"loss": total + head_loss, **losses}

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of uint8 images (N, 3, H, W), from the target branch alone."""
        return self._calibrated(super().forward(images))

    def _calibrated(self, logits: Tensor) -> Tensor:
        if not self.calibrate:
            return logits
        # Every term orders the classes as the logits do, so the prediction is the same.
        scaled = (self.confidences[:, None, None] * logits).log_softmax(2)
        return scaled.logsumexp(0) - math.log(len(self.confidences))

    def _remember(self, confidence: Tensor, known: Tensor) -> None:
        """Running quantiles of the labelled images' confidences, as batch normalisation keeps running moments."""
        if not len(confidence):
            return
        ordered = torch.where(known, confidence.to(self.confidences), torch.inf).sort().values
        last = known.sum() - 1  # stays on the device
        ranks = (torch.linspace(0, 1, len(self.confidences), device=confidence.device) * last).round().long()
        found = torch.where(last >= 0, ordered[ranks.clamp_min(0)], self.confidences)
        self.confidences.lerp_(found, CONFIDENCE_MOMENTUM)

    def confidence(self, output: BranchedOutput, labels: Tensor) -> Tensor:
        """Alpha (N,) of eq. 8: each sample against its batch; 1 without the uncertainty module."""
        if self.uncertainty is None:
            return torch.ones_like(output.logits[:, 0])
        similarity = functional.class_similarity(output.features, labels, self.num_classes, scale=self.scale)
        confidence: Tensor = self.uncertainty(similarity, labels)
        return confidence

    def latent_distribution(self, output: BranchedOutput, labels: Tensor) -> Tensor:
        """Mined distribution (N, C) of the batch: eq. 3, or the branches' mean for all-class mining."""
        logits = output.auxiliary_logits
        assert logits is not None
        if self.model.mining == "leave-one-out":
            return functional.latent_distribution(logits, labels, self.temperature)
        mean = logits.detach().softmax(2).mean(0)
        return functional.sharpen(mean.log(), self.temperature)

    @torch.no_grad()
    def mine(self, batch: Batch) -> Mined:
        """Latent distribution, confidence and prediction of one batch, without augmentation.

        Confidence is a sample's relation to its batch (eq. 7): use batches that hold every class.
        """
        images = self.prepared(batch["image"])
        output, labels = self.model.forward_branches(images), batch["label"]
        probability = self._calibrated(output.logits).softmax(1)
        distribution = torch.zeros_like(probability)
        if output.auxiliary_logits is not None:
            distribution = self.latent_distribution(output, labels)
        return Mined(batch["index"], distribution, self.confidence(output, labels), probability)

    def _compared(self, output: BranchedOutput) -> tuple[Tensor, Tensor]:
        """What the similarity loss compares: target (N, Dt), branches (M, N, Da)."""
        assert output.auxiliary_features is not None and output.auxiliary_logits is not None
        if self.compare == "features":
            return output.features, output.auxiliary_features
        return output.features if output.embedding is None else output.embedding, output.auxiliary_logits

    def _auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.model.mining == "leave-one-out":
            return functional.auxiliary_cross_entropy(logits, labels)
        branches, samples, classes = logits.shape
        total = torch.nn.functional.cross_entropy(
            logits.reshape(branches * samples, classes), labels.repeat(branches), ignore_index=-1, reduction="sum"
        )
        return total / ((labels >= 0).sum() * branches).clamp_min(1)  # 0 for a batch without labels

    def _similarity_weight(self, losses: dict[str, Tensor]) -> float | Tensor:
        if self.gamma_unit == "absolute":
            return self.gamma
        ratio = losses["wce"].detach() / losses["sp"].detach().clamp_min(1e-12)
        return (self.gamma * ratio).clamp_max(1000.0)
