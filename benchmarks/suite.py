"""Imports every file of measurements, so that the registry is full."""

from __future__ import annotations

from benchmarks import (
    class_similarity,
    concordance,
    dmue_losses,
    neighbor_divergence,
    scaled_cross_entropy,
    similarity_preserving,
)
from benchmarks.registry import CASES, Case, cases
from benchmarks.similarity_preserving import MEMORY

__all__ = [
    "CASES",
    "MEMORY",
    "cases",
    "class_similarity",
    "concordance",
    "dmue_losses",
    "find",
    "neighbor_divergence",
    "scaled_cross_entropy",
    "similarity_preserving",
]


def find(name: str, device: str) -> Case:
    """The case of this name, the memory-only one included."""
    return next(case for case in [*CASES, MEMORY] if case.name == name and case.device == device)
