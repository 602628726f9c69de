"""noisyFER: one encoder learned from several noisy label sets, beside the decoder that explains them (WACV 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ferkit import functional
from ferkit.blocks import DeconvDecoder, EncoderOutput, MultiStreamDiscriminator
from ferkit.blocks._spectral import make_orthogonal
from ferkit.blocks._width import check_power_of_two
from ferkit.checks import check_number
from ferkit.data.augment import random_crop_flip
from ferkit.recipes._decoder_ties import DecoderTies, decoded_labels, reconstruction_terms
from ferkit.recipes._game import Backward, GameState, TrainingDiverged, frozen, seeded, step, step_schedules
from ferkit.recipes._label_rows import follow_class_means, label_rows
from ferkit.recipes._noisyfer_options import ORDERS, PRESETS, check_game, resolved
from ferkit.recipes.base import Batch
from ferkit.recipes.label_sets import LabelSetRecipe

__all__ = ["ORDERS", "PRESETS", "NoisyFER", "TrainingDiverged"]

CHECK_EVERY = 50  # steps between two looks at the losses, which wait for the device
CLASS_MOMENTUM = 0.02  # of the values of each class
NOISE, CROPS = 1, 2  # the streams of draws beside the augmentation's


class NoisyFER(LabelSetRecipe):
    r"""The whole method: encoder and decoder against a discriminator of joint and marginal distributions.

    The encoder turns an image x into labels and a latent code, the decoder labels and noise into an image; the
    discriminator scores both tuples (image, code, labels), by hinge losses. Encoder and decoder minimise
    :math:`f + \lambda\, (\overline{S(x, G_Y(x))} - \overline{S(G_X(\tilde y), \tilde y)})` (eq. 8-10), the mean over
    samples and scores. As released, the encoder's categorical labels reach the discriminator as logits, the given ones
    as one-hot rows, continuous ones clipped to [-1, 1]; nothing but the game shapes the code (no KL term) unless
    ``reconstruction`` is given.

    The decoder takes rows that have all their labels: one with a gap gives way to a random complete one of the batch;
    without any, gaps are filled with what the encoder predicts.

    Training moves two optimisers, and the trainer's ``global_step`` counts the steps of both. A run whose losses
    or weights are not finite, or whose discriminator has collapsed, stops with `TrainingDiverged`; no checkpoint is
    written after it.

    Args:
        num_classes: C.
        preset: ``"scratch"`` or ``"published"``: what the arguments left at None mean.
        order: of the updates in an iteration, all on one batch, one forward pass of the generators (their tuples) and,
            for the discriminator, the same tuples detached. ``"released"``: two discriminator steps, then the
            generators'; ``"supplement"``: the generators' step, then two of the discriminator; ``"algorithm1"``: then
            one.
        discriminator_steps: in an iteration; None: as ``order`` says.
        discriminator_labels: what the discriminator sees of the encoder's categorical labels: ``"logits"``, as
            released, or ``"probabilities"``, their softmax (the paper does not say).
        discriminator_rate: the discriminator's learning rate as a multiple of ``learning_rate``; published 1.
        discriminator_init: its weights at the start: ``"uniform"``, as torch has them, or ``"orthogonal"``, with which
            its image stream says something from the first step.
        decoder_rate: the decoder's learning rate as a multiple of ``learning_rate``; published 1.
        beta1: of both Adams; published 0.9.
        game_every: the game is played on every so manieth batch of an epoch, from the first; the others have no
            discriminator. ``lam`` is not scaled up for it. Published 1.
        reconstruction: weight of the mean squared error between an image and what the decoder makes of the image's own
            code and labels; published 0. From the first epoch on; the decoder and the head of the code learn from it,
            the encoder's features do not.
        code_divergence: with ``reconstruction``, the weight of the Kullback-Leibler divergence of the code from the
            decoder's noise (nats, summed over the code); published 0. The smaller it is the more of an image its code
            tells, the larger the more is left to the labels.
        label_cycle: weight of f of what the encoder, its weights held, reads off the decoder's images, shifted and
            mirrored as training images are, against the labels they were made of; published 0. From the first epoch
            on; the decoder alone learns from it, as the generator of Odena et al. (ICML 2017).
        lam: weight of the game.
        hold: None for a fixed lam; else lam, from that value on, is moved to hold the discriminator's loss at this
            level (the supplement found 0.45 healthy).
        warmup: epochs before the game starts; published CIFAR-10 1, RAF-DB 6, AffectNet 0.
        joint: whether the discriminator has a joint score. A score that is dropped leaves the mean to the rest.
        marginal: whether it has marginal scores.
        decoder: False: no decoder; the given labels are scored with their own image and noise, and the image has no
            marginal score.
        mlp: ``"paper"`` or ``"released"``, see :class:`ferkit.blocks.MLPBlock`.
        latent: width of the code and of the decoder's noise.
        width: share of the published channels, of all three networks.
        learning_rate: of both Adams (times ``discriminator_rate`` for the discriminator's).
        schedule: see :class:`ferkit.recipes.Recipe`; of both.
        weight_decay: of both.
        padding: largest shift of the random crop, in pixels.
        size: of the images, a power of two of 32 or more.
        **options: of :class:`ferkit.recipes.LabelSetRecipe`.

    >>> recipe = NoisyFER(7, sources=("annotator1", "annotator2"), values=("valence", "arousal"), width=0.1)
    >>> recipe.discriminator.score_names
    ('image', 'latent', 'source0', 'source1', 'values', 'joint')
    >>> recipe.decode(5, torch.Generator().manual_seed(0)).shape
    torch.Size([7, 5, 3, 32, 32])
    """

    def __init__(
        self,
        num_classes: int,
        preset: str = "scratch",
        order: str = "released",
        discriminator_steps: int | None = None,
        discriminator_labels: str = "logits",
        discriminator_rate: float = 1.0,
        discriminator_init: str = "uniform",
        decoder_rate: float = 1.0,
        beta1: float = 0.9,
        game_every: int = 1,
        reconstruction: float = 0.0,
        code_divergence: float = 0.0,
        label_cycle: float = 0.0,
        lam: float | None = None,
        hold: float | None = None,
        warmup: int | None = None,
        joint: bool = True,
        marginal: bool = True,
        decoder: bool = True,
        mlp: str = "paper",
        latent: int = 100,
        width: float | None = None,
        learning_rate: float | None = None,
        schedule: str | None = None,
        weight_decay: float | None = None,
        padding: int | None = None,
        size: int = 32,
        **options: Any,
    ) -> None:
        chosen = resolved(
            preset,
            {
                **{"width": width, "lam": lam, "warmup": warmup, "learning_rate": learning_rate},
                **{"schedule": schedule, "weight_decay": weight_decay, "padding": padding},
            },
        )
        check_game(
            {
                **{"lam": chosen["lam"], "warmup": chosen["warmup"], "order": order, "hold": hold, "mlp": mlp},
                **{"discriminator_steps": discriminator_steps, "discriminator_labels": discriminator_labels},
                **{"discriminator_rate": discriminator_rate, "discriminator_init": discriminator_init},
                **{"decoder_rate": decoder_rate, "beta1": beta1, "game_every": game_every},
                **{"reconstruction": reconstruction, "code_divergence": code_divergence, "label_cycle": label_cycle},
                **{"joint": joint, "marginal": marginal, "decoder": decoder, "latent": latent},
            }
        )
        check_number(size, "size", 32, integer=True)
        check_power_of_two(size)
        super().__init__(
            num_classes,
            latent,
            size=size,
            width=chosen["width"],
            learning_rate=chosen["learning_rate"],
            schedule=chosen["schedule"],
            weight_decay=chosen["weight_decay"],
            padding=chosen["padding"],
            **options,
        )
        self.save_hyperparameters()
        self.hparams.update(chosen)  # what a name stood for when the run was made
        self.automatic_optimization = False
        self.latent, self.warmup = latent, chosen["warmup"]
        self.generators_first, steps = ORDERS[order]
        self.discriminator_steps = discriminator_steps or steps
        self.discriminator_labels, self.discriminator_rate = discriminator_labels, float(discriminator_rate)
        self.decoder_rate, self.beta1, self.game_every = float(decoder_rate), float(beta1), game_every
        self.ties = DecoderTies(float(reconstruction), float(code_divergence), float(label_cycle))
        classes, targets = len(self.source_names) * num_classes, len(self.value_names)
        self.decoder = DeconvDecoder(size, latent + classes + targets, chosen["width"]) if decoder else None
        # By position, so that a checkpoint does not depend on what the label sets are called.
        self.stream_names = tuple(f"source{position}" for position in range(len(self.source_names)))
        labels = (*self.stream_names, *(("values",) if targets else ()))
        image = decoder or joint  # without either, the image would have no score
        self.discriminator = MultiStreamDiscriminator(
            size if image else None,
            latent,
            dict.fromkeys(self.stream_names, num_classes),
            {"values": targets} if targets else {},
            chosen["width"],
            joint,
            marginal if decoder or not marginal else ("latent", *labels),
            mlp,
        )
        if discriminator_init == "orthogonal":
            make_orthogonal(self.discriminator)
        for network in (self.decoder, self.discriminator):
            if network is not None:
                network.to(memory_format=torch.channels_last)
        self.game = GameState(chosen["lam"], hold)
        self.class_values: Tensor
        self.class_seen: Tensor
        self.register_buffer("class_values", torch.zeros(num_classes, targets))
        self.register_buffer("class_seen", torch.zeros(num_classes, dtype=torch.bool))

    def configure_optimizers(self) -> Any:
        rates = ((self.encoder, 1.0), (self.decoder, self.decoder_rate), (self.discriminator, self.discriminator_rate))
        groups = [
            {"params": list(network.parameters()), "lr": rate * self.learning_rate}
            for network, rate in rates
            if network is not None
        ]
        return [self.scheduled_adam(part, self.beta1) for part in (groups[:-1], groups[-1:])]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        images = self.augmented(batch, batch_idx)
        sources, values = self.label_sets(batch)
        draws = self._generator(batch_idx, NOISE, device=self.device)
        playing = self.current_epoch >= self.warmup and batch_idx % self.game_every == 0
        lam = self.game.lam.clone()
        optimizers: Any = self.optimizers()
        crops = self._generator(batch_idx, CROPS)
        losses = self.iterate(images, sources, values, draws, optimizers, self.manual_backward, playing, crops)
        step_schedules(self.trainer, "step")
        self._remember(sources, values)
        self.log_dict(
            {**{f"train_{name}": value for name, value in losses.items()}, "lam": lam},
            on_step=False,
            on_epoch=True,
            batch_size=len(images),
        )
        if self.trainer.is_last_batch:
            self.game.inspect(self.parameters())
        if (batch_idx + 1) % CHECK_EVERY == 0:
            self.game.check()

    def on_train_epoch_end(self) -> None:
        step_schedules(self.trainer, "epoch")
        self.game.check()  # before the callbacks write a checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        self.game.inspect(self.parameters())
        self.game.check()  # the last good checkpoint is not to be overwritten, whenever one is written

    def iterate(
        self,
        images: Tensor,
        sources: Tensor,
        values: Tensor,
        draws: torch.Generator,
        optimizers: Sequence[Any],
        backward: Backward,
        playing: bool = True,
        crops: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """One iteration: every step of one batch, in the recipe's order.

        Args:
            images: (N, 3, H, W), normalised.
            sources: (N, S), -1 missing.
            values: (N, V), NaN missing.
            draws: of the noise, on the images' device; its seed is dropout's too.
            optimizers: of the generators, and of the discriminator.
            backward: called with each loss.
            playing: False: no game, f and the decoder's own terms alone.
            crops: a CPU generator of the shifts of the decoder's images in the label cycle; None: no shifts.

        Returns:
            The losses, detached: ``"loss"`` (f) and its parts, ``"discriminator"`` (mean of its steps) and
            ``"generator"`` (the game's part), and the decoder's own terms, none of them times its weight.
        """
        with seeded(draws):
            features = self.encoder.features(images)
            output = self.encoder.heads(features)
        losses = self.supervised_loss(output.labels, sources, values)
        total = losses["loss"]
        if playing or self.ties.any:
            real, fake, rows = self._tuples(images, output, sources, values, draws)
        if self.ties.any:  # the running statistics of the decoder are those of its images of noise, game or none
            terms = self._tie(images[rows], features[rows], fake, draws, crops)
            losses |= terms
            total = total + self.ties.weighted(terms)
        if playing:
            if self.generators_first:
                losses["generator"] = self._generator_step(total, real, fake, optimizers[0], backward)
            losses["discriminator"] = self._discriminator_steps(real, fake, optimizers[1], backward)
            if not self.generators_first:
                losses["generator"] = self._generator_step(total, real, fake, optimizers[0], backward)
        else:
            step(total, optimizers[0], backward)
        losses = {name: value.detach() for name, value in losses.items()}
        self.game.update(losses)
        return losses

    def _tuples(
        self, images: Tensor, output: EncoderOutput, sources: Tensor, values: Tensor, draws: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """What the discriminator scores of the encoder and of the decoder, with graphs; whose labels these are."""
        noise = torch.randn(2, len(images), self.latent, dtype=images.dtype, device=images.device, generator=draws)
        logits, predicted = self.split(output.labels)
        onehot, given, rows = label_rows(sources, values, logits, predicted, draws)
        seen = logits.softmax(2) if self.discriminator_labels == "probabilities" else logits
        real = {"latent": self.encoder.sample(output, noise[0]), **self._streams(seen, predicted)}
        fake = {"latent": noise[1], **self._streams(onehot, given)}
        if self.discriminator.image_size is None:
            return real, fake, rows
        if self.decoder is None:
            return {"image": images, **real}, {"image": images[rows], **fake}, rows
        decoded = self.decoder(torch.cat([noise[1], onehot.flatten(1), given], 1).to(images.dtype))
        return {"image": images, **real}, {"image": decoded, **fake}, rows

    def _tie(
        self,
        images: Tensor,
        features: Tensor,
        fake: dict[str, Tensor],
        draws: torch.Generator,
        crops: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """The decoder's own terms; the images and features are those that the labels in ``fake`` belong to."""
        labels = torch.cat([fake[name] for name in fake if name not in ("image", "latent")], 1).to(images.dtype)
        terms: dict[str, Tensor] = {}
        if self.ties.reconstruction > 0:
            assert self.decoder is not None
            noise = torch.randn(len(images), self.latent, dtype=images.dtype, device=images.device, generator=draws)
            terms |= reconstruction_terms(self.decoder, self.encoder, features, noise, labels, images)
        if self.ties.label_cycle > 0:
            decoded = fake["image"]
            if crops is not None:
                decoded = random_crop_flip(decoded, crops, self.padding, self.flip)
            read = decoded_labels(self.encoder, decoded.contiguous(memory_format=torch.channels_last))
            onehot, values = self.split(labels)
            terms["label_cycle"] = self.supervised_loss(read, onehot.argmax(2), values)["loss"]
        return terms

    def _streams(self, categorical: Tensor, continuous: Tensor) -> dict[str, Tensor]:
        streams = dict(zip(self.stream_names, categorical.unbind(1)))
        return {**streams, "values": continuous} if self.value_names else streams

    def _discriminator_steps(
        self, real: dict[str, Tensor], fake: dict[str, Tensor], optimizer: Any, backward: Backward
    ) -> Tensor:
        real, fake = ({name: value.detach() for name, value in side.items()} for side in (real, fake))
        steps = []
        for _ in range(self.discriminator_steps):
            loss = functional.hinge_discriminator_loss(self.discriminator(real), self.discriminator(fake))
            step(loss, optimizer, backward)
            steps.append(loss.detach())
        return torch.stack(steps).mean()

    def _generator_step(
        self, total: Tensor, real: dict[str, Tensor], fake: dict[str, Tensor], optimizer: Any, backward: Backward
    ) -> Tensor:
        with frozen(self.discriminator):  # a third of its backward pass is not needed
            scores = self.discriminator(fake) if self.decoder is not None else None
            loss = functional.hinge_generator_loss(self.discriminator(real), scores, decoder=scores is not None)
            step(total + self.game.lam * loss, optimizer, backward)
        return loss.detach()

    def _remember(self, sources: Tensor, values: Tensor) -> None:
        """Running mean of the values of each class of the first source, for ``decode``."""
        if self.value_names and self.source_names:
            follow_class_means(self.class_values, self.class_seen, sources[:, 0], values, CLASS_MOMENTUM)

    @torch.no_grad()
    def decode(self, per_class: int, generator: torch.Generator) -> Tensor:
        """The decoder's images of each class, uint8 (C, per_class, 3, size, size).

        Every source says the class, and the values are the running mean of that class in training; the classes share
        their noise, drawn from ``generator`` on the CPU.

        Raises:
            ValueError: without a decoder, or without a categorical label set.
        """
        check_number(per_class, "per_class", 1, integer=True)
        if self.decoder is None or not self.source_names:
            raise ValueError("decode: expected a decoder and a categorical label set, and this recipe lacks one")
        noise = torch.randn(per_class, self.latent, generator=generator).to(self.device)
        classes = self.num_classes
        onehot = torch.eye(classes, device=self.device).repeat(1, len(self.source_names))
        given = torch.cat([onehot, self.class_values.float().clamp(-1, 1)], 1).repeat_interleave(per_class, 0)
        inputs = torch.cat([noise.repeat(classes, 1), given], 1).to(next(self.decoder.parameters()).dtype)
        training = self.decoder.training
        self.decoder.eval()
        images = self.decoder(inputs).float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        self.decoder.train(training)
        return images.contiguous().unflatten(0, (classes, per_class))
