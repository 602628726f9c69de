"""Which runs a study is made of: one variant a row of a table or a point of a sweep, each made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ferkit.checks import check_choice, check_number

__all__ = ["ABLATION", "PARTS", "SWEEPS", "StudyOptions", "Variant", "in_digits", "merged", "plan", "run_folder"]

PARTS = ("ablation", "mining", "omega", "temperature", "beta", "gamma", "noise")
# The rows of the paper's table 2, in its order: latent distribution, similarity preserving, confidence.
SWITCHES = ("use_distribution", "use_similarity", "use_confidence")
ABLATION = (
    *((False, False, False), (True, False, False), (False, True, False), (False, False, True)),
    *((True, True, False), (False, True, True), (True, False, True), (True, True, True)),
)
# A sweep's option, and its values as multiples of the value that the study has: the paper's text gives none of the
# values of its figures 7 and 8 and table 5.
SWEEPS: dict[str, tuple[str, tuple[float, ...]]] = {
    "omega": ("omegas", (0.2, 0.6, 1, 1.4, 2)),
    "temperature": ("temperatures", (0.75, 1 / 1.2, 1, 1.25, 2)),
    "beta": ("betas", (1 / 3, 2 / 3, 1, 4 / 3, 5 / 3)),
    "gamma": ("gammas", (0.1, 0.5, 1, 2, 10)),
}


@dataclass
class StudyOptions:
    """What a study varies; everything else is the same in all of its runs, with the same seeds.

    Args:
        parts: of "ablation" (the eight rows of the paper's table 2), "mining" (leave-one-class-out against all-class,
            table 4), "omega", "temperature", "beta", "gamma" (sweeps), "noise" (cross-entropy and DMUE at
            ``noise_rates``). Cross-entropy and the whole of DMUE are always trained.
        seeds: of weights, order, augmentation and flipped labels; each variant is trained once with each.
        omegas: values of omega; if not given 0.2, 0.6, 1, 1.4 and 2 times the study's own, which the setting decides.
        temperatures: values of T; if not given 0.75, 0.83, 1, 1.25 and 2 times the study's own.
        betas: values of beta; if not given 1/3, 2/3, 1, 4/3 and 5/3 of the study's own (2 to 10 epochs, as published).
        gammas: values of gamma; if not given 0.1, 0.5, 1, 2 and 10 times the study's own.
        noise_rates: shares of training labels flipped in the part "noise".
        keep_checkpoints: keep every run's last checkpoint, or only those that the figures are made from: a finished run
            needs none.
    """

    parts: list[str] = field(default_factory=lambda: ["ablation", "mining"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    omegas: list[float] | None = None
    temperatures: list[float] | None = None
    betas: list[float] | None = None
    gammas: list[float] | None = None
    noise_rates: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3])
    keep_checkpoints: bool = True

    def __post_init__(self) -> None:
        for item in fields(self):
            given = getattr(self, item.name)
            if item.name == "keep_checkpoints" or given is None:
                continue
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise TypeError(f"{item.name}: expected a list, got {given!r}")
            if not given:
                raise ValueError(f"{item.name}: expected at least one, got none")
            if len(set(given)) < len(given):
                raise ValueError(f"{item.name}: expected each once, got {', '.join(map(str, given))}")
        for part in self.parts:
            check_choice(part, "parts", PARTS)
        for seed in self.seeds:
            check_number(seed, "seeds", 0, integer=True)
        for name in ("omegas", "temperatures", "betas", "gammas"):
            for value in getattr(self, name) or ():
                check_number(value, name, 0, open_low=name == "temperatures")
        for value in self.noise_rates:
            check_number(value, "noise_rates", 0, 1)

    def asked(self, base: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Parts, seeds and the values of the sweeps that are asked for, as a study keeps them on file."""
        result: dict[str, list[Any]] = {"parts": [p for p in PARTS if p in self.parts], "seeds": sorted(self.seeds)}
        for part, (name, factors) in SWEEPS.items():
            if part in self.parts:
                given = getattr(self, name)
                own = base[part]  # as it is: its runs are the study's own
                default = dict.fromkeys(own if factor == 1 else float(f"{own * factor:.6g}") for factor in factors)
                result[name] = sorted(map(float, default if given is None else given))
        if "noise" in self.parts:
            result["noise_rates"] = sorted(map(float, self.noise_rates))
        return result


@dataclass(frozen=True)
class Variant:
    """One configuration of a study, trained once with each seed."""

    name: str  # of its folders, without the seed
    method: str
    options: tuple[tuple[str, Any], ...] = ()  # of the recipe, where they are not the study's
    noise: float | None = None  # of the data, where it is not the study's


def in_digits(value: float) -> str:
    """A number in six digits if these are the whole of it, else in full: no two numbers are written alike.

    >>> in_digits(5.0), in_digits(0.1), in_digits(0.1234567)
    ('5', '0.1', '0.1234567')
    """
    text = f"{value:g}"
    return text if float(text) == value else repr(float(value))


def run_folder(study: Path, variant: Variant, seed: int) -> Path:
    """Where in a study's folder the run of a variant with a seed is."""
    return study / "runs" / f"{variant.name}-seed{seed}"


def merged(before: Mapping[str, Sequence[Any]], now: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """What two calls have asked of one study."""
    names = dict.fromkeys([*now, *before])
    both = {name: set(before.get(name, ())) | set(now.get(name, ())) for name in names}
    return {
        name: [p for p in PARTS if p in values] if name == "parts" else sorted(values) for name, values in both.items()
    }


def plan(asked: Mapping[str, Sequence[Any]], base: Mapping[str, Any], noise: float) -> dict[str, dict[Any, Variant]]:
    """The variants of every part by row; those that are equal in configuration are equal, whatever part asks.

    Args:
        asked: as :meth:`StudyOptions.asked` gives it.
        base: every option of the study's DMUE.
        noise: the study's share of flipped labels.

    >>> base = {"omega": 0.5, **dict.fromkeys(SWITCHES, True), "mining": "leave-one-out"}
    >>> variants = plan({"parts": ["ablation", "omega"], "seeds": [0], "omegas": [0.1, 0.5]}, base, 0.3)
    >>> [variant.name for variant in variants["omega"].values()]
    ['dmue-omega0.1', 'dmue']
    >>> variants["ablation"][(True, True, True)] == variants["omega"][0.5]
    True
    """
    variants: dict[str, dict[Any, Variant]] = {"base": {"ce": _variant("ce", base), "dmue": _variant("dmue", base)}}
    for part in asked["parts"]:
        if part == "ablation":
            variants[part] = {row: _switched(row, base) for row in ABLATION}
        elif part == "mining":
            ways = ("leave-one-out", "all-class")
            variants[part] = {way: _variant("dmue", base, mining=way) for way in ways}
        elif part == "noise":
            variants[part] = {
                (method, rate): _variant(method, base, noise=None if rate == noise else rate)
                for rate in asked["noise_rates"]
                for method in ("ce", "dmue")
            }
        else:
            variants[part] = {value: _variant("dmue", base, **{part: value}) for value in asked[SWEEPS[part][0]]}
    return variants


def _switched(row: tuple[bool, bool, bool], base: Mapping[str, Any]) -> Variant:
    """A row of table 2. With nothing left of DMUE it is cross-entropy itself, whose loss no ramp scales."""
    return _variant("dmue", base, **dict(zip(SWITCHES, row))) if any(row) else _variant("ce", base)


def _variant(method: str, base: Mapping[str, Any], noise: float | None = None, **options: Any) -> Variant:
    changed = {name: value for name, value in options.items() if value != base[name]}
    name = method
    off = [switch.removeprefix("use_") for switch in SWITCHES if changed.get(switch) is False]
    name += "-without-" + "-".join(off) if off else ""
    for option, value in changed.items():
        if option == "mining":
            name += f"-{value}"
        elif option not in SWITCHES:
            name += f"-{option}{in_digits(value)}"
    name += "" if noise is None else f"-noise{in_digits(noise)}"
    return Variant(name, method, tuple(sorted(changed.items())), noise)
