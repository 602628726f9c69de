"""DMUE: latent distribution mining and pairwise uncertainty estimation (She et al., CVPR 2021)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ferkit import functional
from ferkit.blocks.branched_backbone import BranchedOutput
from ferkit.blocks.uncertainty_head import UncertaintyHead
from ferkit.checks import check_choice, check_number
from ferkit.data.augment import normalize_images
from ferkit.recipes.backbone import BackboneRecipe, distribution_cross_entropy
from ferkit.recipes.base import Batch

__all__ = ["DMUE", "SETTINGS", "Mined"]

# Values of the arguments left at None. "published" is section 4.2 of the paper, which starts from a backbone trained
# on faces; "scratch" is what docs/dmue.md measured to learn without one.
SETTINGS: dict[str, dict[str, Any]] = {
    "published": {
        **{"omega": 0.5, "gamma": 1000.0, "gamma_unit": "absolute", "detach": "none"},
        **{"beta": 6.0, "beta_unit": "epochs", "scale": "none", "calibrate": False},
        **{"warmup": 0.0, "head": "random"},
    },
    "scratch": {
        **{"omega": 5.0, "gamma": 0.001, "gamma_unit": "relative", "detach": "target"},
        **{"beta": 0.25, "beta_unit": "share", "scale": "minmax", "calibrate": True},
        **{"warmup": 0.4, "head": "similarity"},
    },
}
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
        setting: ``"scratch"`` or ``"published"``: what the arguments left at None mean.
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
        normalize: ``"batch"`` (eq. 14-17) or ``"subset"`` (eq. 13), see :class:`ferkit.losses.MSPLoss`.
        scale: of the mean cosines that confidence is read from: ``"none"`` (eq. 7) or ``"minmax"`` (the released
            code), see :func:`ferkit.functional.class_similarity`.
        head: how the uncertainty module starts: ``"random"``, or ``"similarity"``, see
            :class:`ferkit.blocks.UncertaintyHead`.
        warmup: share of the run's epochs in which every label is trusted (confidence 1). Before the features mean
            anything, confidence is low for whatever is not yet learned, and keeps it from being learned.
        calibrate: predict the mean of softmax(alpha times logits) over the confidences alpha of training, which is what
            eq. 9 fitted; without it predictions are the sharper the lower the confidence was. Accuracy is the same.
        mining: ``"leave-one-out"`` or ``"all-class"`` (table 4).
        use_distribution, use_similarity, use_confidence: the rows of table 2. Without the first two there is no
            auxiliary branch.
        **options: of :class:`ferkit.recipes.BackboneRecipe`.
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
        ramp: str = "paper",
        detach: str | None = None,
        normalize: str = "batch",
        scale: str | None = None,
        calibrate: bool | None = None,
        warmup: float | None = None,
        head: str | None = None,
        mining: str = "leave-one-out",
        use_distribution: bool = True,
        use_similarity: bool = True,
        use_confidence: bool = True,
        **options: Any,
    ) -> None:
        check_choice(setting, "setting", tuple(SETTINGS))
        check_choice(mining, "mining", ("leave-one-out", "all-class"))
        check_choice(ramp, "ramp", ("paper", "released"))
        check_choice(normalize, "normalize", ("batch", "subset"))
        given = {"omega": omega, "gamma": gamma, "gamma_unit": gamma_unit, "beta": beta, "beta_unit": beta_unit}
        given |= {"detach": detach, "scale": scale, "calibrate": calibrate, "warmup": warmup, "head": head}
        chosen = SETTINGS[setting] | {name: value for name, value in given.items() if value is not None}
        check_number(temperature, "temperature", 0, open_low=True)
        check_number(chosen["omega"], "omega", 0)
        check_number(chosen["gamma"], "gamma", 0)
        check_number(chosen["beta"], "beta", 0)
        check_number(chosen["warmup"], "warmup", 0, 1)
        check_choice(chosen["gamma_unit"], "gamma_unit", ("absolute", "relative"))
        check_choice(chosen["beta_unit"], "beta_unit", ("epochs", "share"))
        check_choice(chosen["detach"], "detach", ("none", "target", "auxiliary"))
        check_choice(chosen["scale"], "scale", ("none", "minmax"))
        branched = use_distribution or use_similarity
        super().__init__(num_classes, mining=mining if branched else "none", **options)
        self.save_hyperparameters()
        self.hparams.update(chosen)  # what a name stood for when the run was made
        self.temperature, self.omega, self.ramp, self.normalize = temperature, chosen["omega"], ramp, normalize
        self.gamma, self.gamma_unit = chosen["gamma"], chosen["gamma_unit"]
        self.beta, self.beta_unit, self.warmup = chosen["beta"], chosen["beta_unit"], chosen["warmup"]
        self.detach, self.scale, self.calibrate = chosen["detach"], chosen["scale"], chosen["calibrate"]
        self.use_distribution, self.use_similarity = use_distribution, use_similarity
        self.uncertainty = UncertaintyHead(num_classes, init=chosen["head"]) if use_confidence else None
        self.register_buffer("confidences", torch.ones(CONFIDENCE_QUANTILES))
        self.confidences: Tensor

    def ramps(self, epoch: int) -> tuple[float, float]:
        """w_u and w_d (eq. 11, 12) in an epoch counted from 0 (released); the paper counts from 1."""
        beta = self.beta
        if self.beta_unit == "share":
            beta *= self.trainer.max_epochs or 1
        number = epoch + 1 if self.ramp == "paper" else epoch
        return functional.ramp_up(number, beta, form=self.ramp), functional.ramp_down(number, beta)

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
        if self.uncertainty is not None and self.current_epoch < round(self.warmup * (self.trainer.max_epochs or 1)):
            # The head learns beside the network, which trusts every label until it is heard.
            apart = self.confidence(BranchedOutput(output.features.detach(), output.logits), labels)
            head_loss = functional.weighted_logit_cross_entropy(output.logits.detach(), apart, labels)
            confidence = torch.ones_like(apart)
        self._remember(confidence.detach())
        if target is None:
            losses = {"wce": functional.weighted_logit_cross_entropy(output.logits, confidence, labels)}
        else:
            scaled = confidence[:, None] * output.logits
            losses = {"wce": distribution_cross_entropy(scaled, target, labels, class_weight, self.target_eps)}
        total = losses["wce"]
        if self.use_distribution:
            losses["soft"] = functional.latent_distribution_loss(
                output.logits, self.latent_distribution(output, labels), labels
            )
            total = total + self.omega * losses["soft"]
        if self.use_similarity:
            assert output.auxiliary_features is not None
            losses["sp"] = functional.msp_loss(
                output.features,
                output.auxiliary_features,
                labels,
                normalize=self.normalize,
                detach=None if self.detach == "none" else self.detach,
            )
            total = total + self._similarity_weight(losses) * losses["sp"]
        total = up * total
        if output.auxiliary_logits is not None:
            losses["aux"] = self._auxiliary_loss(output.auxiliary_logits, labels)
            total = total + down * losses["aux"]
        losses["confidence"] = confidence.mean()
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

    def _remember(self, confidence: Tensor) -> None:
        """Running quantiles of the confidences, as batch normalisation keeps running moments."""
        ranks = torch.linspace(0, len(confidence) - 1, len(self.confidences), device=confidence.device).round().long()
        self.confidences.lerp_(confidence.float().sort().values[ranks], CONFIDENCE_MOMENTUM)

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
        images = normalize_images(batch["image"]).contiguous(memory_format=torch.channels_last)
        output, labels = self.model.forward_branches(images), batch["label"]
        probability = self._calibrated(output.logits).softmax(1)
        distribution = torch.zeros_like(probability)
        if output.auxiliary_logits is not None:
            distribution = self.latent_distribution(output, labels)
        return Mined(batch["index"], distribution, self.confidence(output, labels), probability)

    def _auxiliary_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.model.mining == "leave-one-out":
            return functional.auxiliary_cross_entropy(logits, labels)
        branches, samples, classes = logits.shape
        return torch.nn.functional.cross_entropy(
            logits.reshape(branches * samples, classes), labels.repeat(branches), ignore_index=-1
        )

    def _similarity_weight(self, losses: dict[str, Tensor]) -> float | Tensor:
        if self.gamma_unit == "absolute":
            return self.gamma
        ratio = losses["wce"].detach() / losses["sp"].detach().clamp_min(1e-12)
        return (self.gamma * ratio).clamp_max(1000.0)
