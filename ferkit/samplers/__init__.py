"""Batch samplers: they know label arrays and neighbour tables, nothing else."""

from ferkit.samplers.class_coverage import ClassCoverageBatchSampler
from ferkit.samplers.inverse_frequency import InverseFrequencyBatchSampler
from ferkit.samplers.neighbor_group import NeighborGroupBatchSampler

__all__ = ["ClassCoverageBatchSampler", "InverseFrequencyBatchSampler", "NeighborGroupBatchSampler"]
