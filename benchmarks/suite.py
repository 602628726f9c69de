"""Imports every file of measurements, so that the registry is full."""

from benchmarks import class_similarity, scaled_cross_entropy, similarity_preserving
from benchmarks.registry import CASES

__all__ = ["CASES", "class_similarity", "scaled_cross_entropy", "similarity_preserving"]
