"""What DMUE's settings stand for: the values of the arguments left at None."""

from __future__ import annotations

from typing import Any

from ferkit.checks import check_choice, check_number

__all__ = ["SAMPLERS", "SETTINGS", "chosen_values"]

# The forms of the paper, whatever the weights.
PAPER: dict[str, Any] = {
    **{"mining": "leave-one-out", "normalize": "batch", "compare": "features", "divisor": "paper", "ramp": "paper"},
    **{"frozen": False, "schedule": "one-cycle", "augmentation": "crop-flip"},
}
# "published" is section 4.2 of the paper, which starts from a backbone trained on faces; "scratch" is what docs/dmue.md
# measured to learn without one; "released" is the authors' code, which starts from such a backbone too.
SETTINGS: dict[str, dict[str, Any]] = {
    "published": PAPER
    | {
        **{"omega": 0.5, "gamma": 1000.0, "gamma_unit": "absolute", "detach": "none"},
        **{"beta": 6.0, "beta_unit": "epochs", "scale": "none", "calibrate": False},
        **{"warmup": 0.0, "head": "random"},
    },
    "scratch": PAPER
    | {
        **{"omega": 5.0, "gamma": 0.001, "gamma_unit": "relative", "detach": "target"},
        **{"beta": 0.25, "beta_unit": "share", "scale": "minmax", "calibrate": True},
        **{"warmup": 0.4, "head": "similarity"},
    },
    "released": {
        **{"omega": 0.5, "gamma": 1000.0, "gamma_unit": "absolute", "detach": "none"},
        **{"beta": 6.0, "beta_unit": "epochs", "scale": "minmax", "calibrate": False},
        **{"warmup": 0.0, "head": "random"},
        **{"mining": "by-label", "normalize": "subset", "compare": "logits", "divisor": "released"},
        **{"ramp": "released", "frozen": True, "schedule": "released", "augmentation": "released"},
    },
}
SAMPLERS = {"released": "inverse-frequency"}  # that a command takes where none is asked for; else "coverage"
CHOICES = {
    "gamma_unit": ("absolute", "relative"),
    "beta_unit": ("epochs", "share"),
    "detach": ("none", "target", "auxiliary"),
    "scale": ("none", "minmax"),
    "mining": ("leave-one-out", "all-class", "by-label"),
    "normalize": ("batch", "subset"),
    "compare": ("features", "logits"),
    "divisor": ("paper", "released"),
    "ramp": ("paper", "released"),
}


def chosen_values(setting: str, given: dict[str, Any]) -> dict[str, Any]:
    """The setting's values, with those of ``given`` that are not None in their place, checked.

    >>> chosen_values("published", {"omega": 0.25, "gamma": None})["omega"]
    0.25
    """
    check_choice(setting, "setting", tuple(SETTINGS))
    chosen = SETTINGS[setting] | {name: value for name, value in given.items() if value is not None}
    for name, choices in CHOICES.items():
        check_choice(chosen[name], name, choices)
    for name in ("omega", "gamma", "beta"):
        check_number(chosen[name], name, 0)
    check_number(chosen["warmup"], "warmup", 0, 1)
    return chosen
