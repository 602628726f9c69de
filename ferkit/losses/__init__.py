"""Losses as nn.Modules, each usable alone: ``from ferkit.losses import MSPLoss``."""

from ferkit.losses.auxiliary_cross_entropy import AuxiliaryCrossEntropy
from ferkit.losses.ccc import CCCLoss
from ferkit.losses.center import CenterLoss
from ferkit.losses.co_teaching import CoTeachingLoss
from ferkit.losses.hinge import HingeDiscriminatorLoss, HingeGeneratorLoss
from ferkit.losses.label_distribution import LabelDistributionLoss
from ferkit.losses.latent_distribution import LatentDistributionLoss
from ferkit.losses.msp import MSPLoss
from ferkit.losses.neighbor_guidance import NeighborGuidanceLoss
from ferkit.losses.rank_regularization import RankRegularization
from ferkit.losses.similarity_preserving import SimilarityPreservingLoss
from ferkit.losses.symmetric_cross_entropy import SymmetricCrossEntropy
from ferkit.losses.transition import TraceRegularization, TransitionCrossEntropy
from ferkit.losses.uncertainty_center import UncertaintyCenterLoss
from ferkit.losses.weighted_logit_cross_entropy import WeightedLogitCrossEntropy

__all__ = [
    "AuxiliaryCrossEntropy",
    "CCCLoss",
    "CenterLoss",
    "CoTeachingLoss",
    "HingeDiscriminatorLoss",
    "HingeGeneratorLoss",
    "LabelDistributionLoss",
    "LatentDistributionLoss",
    "MSPLoss",
    "NeighborGuidanceLoss",
    "RankRegularization",
    "SimilarityPreservingLoss",
    "SymmetricCrossEntropy",
    "TraceRegularization",
    "TransitionCrossEntropy",
    "UncertaintyCenterLoss",
    "WeightedLogitCrossEntropy",
]
