"""Losses and their parts as functions: argument checks, precision, weights and reduction over the operators."""

from ferkit.functional.adversarial import hinge_discriminator_loss, hinge_generator_loss
from ferkit.functional.affinity import gaussian_affinity, laplacian_affinity, neighbor_distances
from ferkit.functional.centers import (
    center_loss,
    inter_class_loss,
    inter_class_step,
    intra_class_step,
    uncertainty_center_loss,
)
from ferkit.functional.co_teaching import co_teaching_loss, forget_rate, small_loss_selection
from ferkit.functional.concordance import concordance, concordance_loss
from ferkit.functional.cross_entropy import auxiliary_cross_entropy, weighted_logit_cross_entropy
from ferkit.functional.divergence import jeffreys_divergence, label_distribution_loss
from ferkit.functional.latent import latent_distribution, latent_distribution_loss, sharpen
from ferkit.functional.neighbor import neighbor_guidance_loss
from ferkit.functional.preserving import msp_loss, similarity_preserving_loss
from ferkit.functional.ramps import ramp_down, ramp_up
from ferkit.functional.rank import rank_regularization
from ferkit.functional.similarity import class_similarity
from ferkit.functional.symmetric import symmetric_cross_entropy
from ferkit.functional.target_distribution import va_target_distribution
from ferkit.functional.transition import trace_regularization, transition_cross_entropy
from ferkit.ops import force_backend, raise_label_errors

__all__ = [
    "auxiliary_cross_entropy",
    "center_loss",
    "class_similarity",
    "co_teaching_loss",
    "concordance",
    "concordance_loss",
    "force_backend",
    "forget_rate",
    "gaussian_affinity",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "inter_class_loss",
    "inter_class_step",
    "intra_class_step",
    "jeffreys_divergence",
    "label_distribution_loss",
    "laplacian_affinity",
    "latent_distribution",
    "latent_distribution_loss",
    "msp_loss",
    "neighbor_distances",
    "neighbor_guidance_loss",
    "raise_label_errors",
    "ramp_down",
    "ramp_up",
    "rank_regularization",
    "sharpen",
    "similarity_preserving_loss",
    "small_loss_selection",
    "symmetric_cross_entropy",
    "trace_regularization",
    "transition_cross_entropy",
    "uncertainty_center_loss",
    "va_target_distribution",
    "weighted_logit_cross_entropy",
]
