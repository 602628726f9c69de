"""Batch samplers: they know label arrays and neighbour tables, nothing else."""

from ferkit.samplers.class_coverage import ClassCoverageBatchSampler

__all__ = ["ClassCoverageBatchSampler"]
