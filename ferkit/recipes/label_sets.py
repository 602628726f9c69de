"""What the recipes that learn several label sets at once share: the encoder, its supervised loss, its predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ferkit import functional
from ferkit.blocks import EncoderOutput, VGGEncoder
from ferkit.checks import check_choice, check_label_range, check_number
from ferkit.functional.concordance import CONVENTIONS
from ferkit.recipes.base import Batch, Recipe

__all__ = ["LabelPrediction", "LabelSetRecipe"]

HEADS = ("average", "first")
SMALLEST_SIZE = 32  # five poolings leave one pixel


class LabelPrediction(NamedTuple):
    """What an encoder says of N images."""

    probabilities: Tensor  # (N, S', C), of each categorical output: of each label set, or of what is behind them
    values: Tensor  # (N, V), of each continuous one; not clipped


class LabelSetRecipe(Recipe):
    r"""An encoder with one output a label set: S categorical sets of C classes, and V continuous ones.

    Its supervised loss is noisyFER's :math:`f = \sum_s CE_s + \gamma (1 - \frac1V \sum_v CCC_v)` (WACV 2021, eq. 10;
    the sum over the sets, not their mean, is the released code's). A missing label (-1, NaN) takes no part; a set
    without a label in the batch adds 0. Batches hold ``"sources"`` int64 (N, S) and ``"values"`` (N, V) beside the
    image; without ``"sources"``, the single set ``"label"`` is the batch's label.

    Args:
        num_classes: C.
        latent: width of the latent code beside the labels; 0 for none.
        size: of the images, in pixels, 32 or more.
        sources: names of the categorical label sets.
        values: names of the continuous ones, such as valence and arousal.
        width: share of the published channels.
        hidden: features of the two layers before the outputs, at width 1; published 512 (CIFAR-10), 500 (faces), 4096
            (the VGG baseline).
        dropout: after each of the two.
        gamma: weight of the continuous labels.
        head: what is predicted where one distribution is asked for: the ``"average"`` of the sets' distributions, or
            that of the ``"first"`` set, as the released code.
        ccc_convention: ``"population"`` or ``"released"``, see :func:`ferkit.functional.concordance`.
        learning_rate: of Adam.
        schedule: see :class:`ferkit.recipes.Recipe`.
        weight_decay: of Adam.
        padding: largest shift of the random crop, in pixels.
        **options: of :class:`ferkit.recipes.Recipe`.
    """

    def __init__(
        self,
        num_classes: int,
        latent: int,
        size: int = 32,
        sources: Sequence[str] = ("label",),
        values: Sequence[str] = (),
        width: float = 0.25,
        hidden: int = 512,
        dropout: float = 0.5,
        gamma: float = 1.0,
        head: str = "average",
        ccc_convention: str = "population",
        learning_rate: float = 5e-4,
        schedule: str = "one-cycle",
        weight_decay: float = 0.0,
        padding: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            learning_rate=learning_rate,
            schedule=schedule,
            weight_decay=weight_decay,
            padding=padding,
            **options,
        )
        check_number(size, "size", SMALLEST_SIZE, integer=True)
        self.source_names, self.value_names = _names(sources, "sources"), _names(values, "values")
        if not self.source_names and not self.value_names:
            raise ValueError("sources: expected at least one label set, got none, and no values either")
        check_number(width, "width", 0, open_low=True)
        check_number(hidden, "hidden", 1, integer=True)
        check_number(dropout, "dropout", 0, 1)
        check_number(gamma, "gamma", 0)
        check_choice(head, "head", HEADS)
        check_choice(ccc_convention, "ccc_convention", CONVENTIONS)
        self.size, self.gamma, self.head, self.ccc_convention = size, float(gamma), head, ccc_convention
        outputs = self.heads * num_classes + len(self.value_names)
        self.encoder = VGGEncoder(size, outputs, latent, hidden, width, dropout)
        self.encoder.to(memory_format=torch.channels_last)
        self._seen: list[tuple[Tensor, Tensor]] = []

    @property
    def heads(self) -> int:
        """Categorical outputs, S': one a label set, where a recipe says nothing else."""
        return len(self.source_names)

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (N, C) of uint8 images (N, 3, H, W), by ``head``.

        Raises:
            ValueError: for a recipe without a categorical label set.
        """
        if not self.source_names:
            raise ValueError("sources: this recipe learned values alone and predicts no class; use annotate()")
        logits, _ = self.split(self._look(images).labels.float())
        if self.head == "first":
            return logits[:, 0].log_softmax(1)
        return logits.log_softmax(2).logsumexp(1) - math.log(self.heads)

    def annotate(self, images: Tensor) -> LabelPrediction:
        """Labels of uint8 images (N, 3, H, W), without the code's noise; in ``eval()`` without dropout too."""
        logits, values = self.split(self._look(images).labels.float())
        return LabelPrediction(logits.softmax(2), values)

    def _look(self, images: Tensor) -> EncoderOutput:
        output: EncoderOutput = self.encoder(self.prepared(images))
        return output

    def split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's outputs (N, S' C + V) as logits (N, S', C) and values (N, V)."""
        categorical = self.heads * self.num_classes
        logits = labels[:, :categorical].reshape(len(labels), self.heads, self.num_classes)
        return logits, labels[:, categorical:]

    def label_sets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's labels (N, S), -1 missing, and values (N, V), NaN missing.

        Raises:
            ValueError: if the batch lacks them, or has another number of label sets.
        """
        count = len(batch["image"])
        if "sources" in batch:
            sources = batch["sources"]
        elif self.source_names in (("label",), ()):
            sources = batch["label"][:, None][:, : len(self.source_names)]
        else:
            raise ValueError(f"batch: expected 'sources' (N, {len(self.source_names)}), got {sorted(batch)}")
        values = batch["values"] if "values" in batch else batch["image"].new_zeros((count, 0), dtype=torch.float32)
        for name, found, wanted in (("sources", sources, self.source_names), ("values", values, self.value_names)):
            if found.shape != (count, len(wanted)):
                raise ValueError(f"batch: expected {name!r} of shape {(count, len(wanted))}, got {tuple(found.shape)}")
        return sources, values

    def supervised_loss(self, labels: Tensor, sources: Tensor, values: Tensor) -> dict[str, Tensor]:
        """f of the encoder's outputs (N, S' C + V) under ``"loss"``, with its two parts where there are both."""
        logits, predicted = self.split(labels)
        parts = {}
        if self.source_names:
            check_label_range(sources, self.num_classes, "sources")
            parts["cross_entropy"] = self.categorical_loss(logits, sources)
        if self.value_names:
            columns = []
            for column in range(len(self.value_names)):
                known = values[:, column].isfinite()
                columns.append(
                    functional.concordance_loss(
                        predicted[:, column : column + 1],
                        torch.where(known, values[:, column], 0)[:, None],  # not rounded to half precision
                        known.to(predicted.dtype),
                        self.ccc_convention,
                    )
                )
            parts["concordance"] = torch.stack(columns).mean()
        total = parts.get("cross_entropy", 0) + self.gamma * parts.get("concordance", 0)
        assert isinstance(total, Tensor)
        return {"loss": total, **parts}

    def categorical_loss(self, logits: Tensor, sources: Tensor) -> Tensor:
        """The sum over the label sets (N, S) of their mean cross-entropy with logits (N, S', C)."""
        each = F.cross_entropy(logits.transpose(1, 2), sources, ignore_index=-1, reduction="none")
        return (each.sum(0) / (sources >= 0).sum(0).clamp_min(1)).sum()

    def batch_loss(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        return self.supervised_loss(self.encoder(images).labels, *self.label_sets(batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.source_names:
            super().validation_step(batch, batch_idx)
        if self.value_names and "values" in batch:
            self._seen.append((self.annotate(batch["image"]).values, batch["values"]))

    def on_validation_epoch_end(self) -> None:
        if not self._seen:
            return
        predicted, values = (torch.cat(rows).double() for rows in zip(*self._seen))
        self._seen = []
        for column, name in enumerate(self.value_names):
            known = values[:, column].isfinite()
            said, true = predicted[known, column], values[known, column]
            if len(true):
                ccc = functional.concordance(said[:, None], true[:, None])[0]
                squared = (said - true).square().mean()
                self.log_dict({f"val_ccc_{name}": ccc.float(), f"val_mse_{name}": squared.float()})


def _names(names: Sequence[str], argument: str) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument}: expected a sequence of names, got {names!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"{argument}: expected each name once, got {', '.join(names)}")
    return tuple(names)
