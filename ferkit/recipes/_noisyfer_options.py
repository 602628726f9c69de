"""What noisyFER's options may be: its presets, its orders of updates, and the checks of what shapes the game."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferkit.blocks.mlp import FORMS
from ferkit.checks import check_choice, check_number

__all__ = ["INITS", "LABELS", "ORDERS", "PRESETS", "check_game", "resolved"]

# Values of the arguments left at None. "published" is CIFAR-10 of the supplement and the released code; "scratch" is
# meant for small images, narrow networks and few epochs.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        **{"width": 1.0, "lam": 0.8, "warmup": 1, "learning_rate": 1e-4, "schedule": "constant"},
        **{"weight_decay": 0.0, "padding": 4},
    },
    "scratch": {
        **{"width": 0.25, "lam": 0.3, "warmup": 3, "learning_rate": 5e-4, "schedule": "one-cycle"},
        **{"weight_decay": 0.0, "padding": 2},
    },
}
# Whether the generators move first, and the discriminator's steps.
ORDERS = {"released": (False, 2), "supplement": (True, 2), "algorithm1": (True, 1)}
LABELS = ("logits", "probabilities")  # how the discriminator sees the encoder's
INITS = ("uniform", "orthogonal")  # the discriminator's weights at the start


def resolved(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's values, and in their place those of ``given`` that are not None.

    >>> resolved("published", {"lam": 0.4, "warmup": None})["lam"]
    0.4
    """
    check_choice(preset, "preset", tuple(PRESETS))
    return PRESETS[preset] | {name: value for name, value in given.items() if value is not None}


def check_game(options: Mapping[str, Any]) -> None:
    """Refuse options of the game that mean nothing.

    Raises:
        TypeError, ValueError: with the option's name.
    """
    check_choice(options["order"], "order", tuple(ORDERS))
    for name in ("joint", "marginal", "decoder"):
        if not isinstance(options[name], bool):
            raise TypeError(f"{name}: expected True or False, got {options[name]!r}")
    check_choice(options["mlp"], "mlp", FORMS)
    check_choice(options["discriminator_labels"], "discriminator_labels", LABELS)
    check_number(options["lam"], "lam", 0)
    check_number(options["warmup"], "warmup", 0, integer=True)
    check_number(options["latent"], "latent", 1, integer=True)
    check_number(options["game_every"], "game_every", 1, integer=True)
    check_number(options["discriminator_rate"], "discriminator_rate", 0, open_low=True)
    check_number(options["decoder_rate"], "decoder_rate", 0, open_low=True)
    check_choice(options["discriminator_init"], "discriminator_init", INITS)
    check_number(options["beta1"], "beta1", 0, 0.999)
    for name in ("reconstruction", "code_divergence", "label_cycle"):
        check_number(options[name], name, 0)
        if options[name] > 0 and not options["decoder"]:
            raise ValueError(f"{name}: expected 0 without the decoder, got {options[name]!r}")
    if options["code_divergence"] > 0 and not options["reconstruction"]:
        raise ValueError(f"code_divergence: expected 0 without reconstruction, got {options['code_divergence']!r}")
    if options["discriminator_steps"] is not None:
        check_number(options["discriminator_steps"], "discriminator_steps", 1, integer=True)
    if options["hold"] is not None:
        check_number(options["hold"], "hold", 0, 2, open_low=True)
    if not options["joint"] and not options["marginal"]:
        raise ValueError("marginal: expected True without the joint score, got False: no score is left")
