"""What torchmetrics lacks for doubtful labels: distances between label distributions, and how well a score finds flips.

Definitions, ranges and conventions: ``docs/metrics.md``.
"""

try:
    import torchmetrics  # noqa: F401
except ImportError as error:
    raise ImportError('ferkit.metrics needs torchmetrics: pip install "ferkit[train]"') from error

from ferkit.metrics.class_accuracy import MeanClassAccuracy, mean_class_accuracy
from ferkit.metrics.divergences import (
    DistributionKL,
    JeffreysDivergence,
    TotalVariation,
    distribution_kl,
    jeffreys_divergence,
    total_variation,
)
from ferkit.metrics.label_noise import flip_auc, suspicion
from ferkit.metrics.other_classes import other_classes

__all__ = [
    "DistributionKL",
    "JeffreysDivergence",
    "MeanClassAccuracy",
    "TotalVariation",
    "distribution_kl",
    "flip_auc",
    "jeffreys_divergence",
    "mean_class_accuracy",
    "other_classes",
    "suspicion",
    "total_variation",
]
