"""The state of an adversarial game: its weight, the discriminator's loss, and whether it still is a game."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Backward", "GameState", "TrainingDiverged", "frozen", "seeded", "step", "step_schedules"]

Backward = Callable[[Tensor], object]

# The discriminator's loss is 2 where it tells nothing apart (every hinge at score 0) and 0 where no tuple is within a
# margin: then it has no gradient left, while the generators still follow its last direction. Healthy games stay near
# 0.45 (noisyFER, supplement C) and touch neither end for more than a few steps in a row.
LOST, WON = 1.98, 1e-3
STREAK = 500

# Integral control of log(lam). A loss half a unit off its target moves lam by 1 % a step, a factor of 2.7 in 100
# steps; the running mean's 20 steps are short against that, so the loop does not swing.
RATE, MOMENTUM = 0.02, 0.05
LOWEST, HIGHEST = 1e-3, 10.0


class TrainingDiverged(RuntimeError):
    """A game that cannot be won back: a loss that is not finite, or a collapsed discriminator."""


class GameState(nn.Module):
    """lam, and what is known of the discriminator's loss; all tensors, so that no step waits for the device.

    Args:
        lam: weight of the game in the generators' loss.
        hold: the level at which the discriminator's loss is held by moving lam, or None to leave lam alone. A larger
            lam makes the generators fight harder, and the discriminator's loss rise.
    """

    lam: Tensor
    level: Tensor
    lost: Tensor
    won: Tensor
    broken: Tensor

    def __init__(self, lam: float, hold: float | None = None) -> None:
        super().__init__()
        self.hold = hold
        self.watched = lam > 0 or hold is not None  # a game without a weight is nobody's loss
        self.register_buffer("lam", torch.tensor(float(lam)))
        self.register_buffer("level", torch.tensor(0.0 if hold is None else float(hold)))
        for name in ("lost", "won", "broken"):
            self.register_buffer(name, torch.tensor(0))

    @torch.no_grad()
    def update(self, losses: dict[str, Tensor]) -> None:
        """Take the losses of an iteration, the discriminator's among them once the game is on."""
        finite = torch.stack([value.detach().float() for value in losses.values()]).isfinite().all()
        self.broken |= (~finite).long()
        loss = losses.get("discriminator")
        if loss is None:
            return
        self.lost.copy_(torch.where(loss >= LOST, self.lost + 1, 0))
        self.won.copy_(torch.where(loss < WON, self.won + 1, 0))
        self.level.lerp_(loss.to(self.level), MOMENTUM)
        if self.hold is not None:
            self.lam.mul_((RATE * (self.hold - self.level)).exp()).clamp_(LOWEST, HIGHEST)

    @torch.no_grad()
    def inspect(self, parameters: Iterable[Tensor]) -> None:
        """Look whether the weights are finite: those of a last step, which no loss has seen yet."""
        self.broken |= (~torch.stack([weight.isfinite().all() for weight in parameters]).all()).long()

    def check(self) -> None:
        """Wait for the device and look.

        Raises:
            TrainingDiverged: if a loss or a weight was not finite, or the discriminator's loss stayed at an end for
                ``STREAK`` steps.
        """
        broken, lost, won, lam = torch.stack([self.broken, self.lost, self.won, self.lam]).tolist()
        held = "" if self.hold is not None else ", or hold=0.45 to keep lam automatically"
        now = f"lam is {lam:.3g}"
        if broken:
            raise TrainingDiverged(
                f"a loss or a weight became NaN or infinite ({now}): try a smaller lam or learning_rate{held}"
            )
        if self.watched and lost >= STREAK:
            raise TrainingDiverged(
                f"the discriminator tells nothing apart: its loss was {LOST} or more for {STREAK} steps in a row "
                f"({now}): try a smaller lam or learning_rate{held}"
            )
        if self.watched and won >= STREAK:
            raise TrainingDiverged(
                f"the discriminator has won: its loss was below {WON} for {STREAK} steps in a row ({now}), and the "
                f"generators learn nothing more from it: try a larger lam, a smaller learning_rate{held}"
            )


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module but are not collected in it."""
    moved = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in moved:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moved:
            parameter.requires_grad_(True)


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Layers that draw from the global generator (dropout) draw by ``generator``'s seed; the global state is kept."""
    device, seed = generator.device, generator.initial_seed() ^ 1  # another stream than the generator's own draws
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        # not torch.manual_seed, which would seed devices whose state is not kept
        if devices:
            torch.get_device_module(device).manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield


def step(loss: Tensor, optimizer: Any, backward: Backward) -> None:
    """Move an optimiser's parameters down a loss."""
    optimizer.zero_grad()
    backward(loss)
    optimizer.step()
    torch.clear_autocast_cache()  # it holds the parameters' half-precision copies from before the step


def step_schedules(trainer: Any, interval: str) -> None:
    """Move on the schedules that go by ``interval``, "step" or "epoch"."""
    with warnings.catch_warnings():  # the discriminator's goes on while it waits for the game
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step")
        for entry in trainer.lr_scheduler_configs:
            if entry.interval == interval:
                entry.scheduler.step()
