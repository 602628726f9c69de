"""The operators: one file each, the only users of torch.library. Private; `ferkit.functional` calls them."""

from ferkit.kernels.eager._labels import flag_out_of_range
from ferkit.kernels.flags import raise_label_errors
from ferkit.ops._select import force as force_backend
from ferkit.ops._select import native
from ferkit.ops.class_similarity import class_similarity
from ferkit.ops.concordance import concordance
from ferkit.ops.neighbor_divergence import neighbor_divergence
from ferkit.ops.scaled_cross_entropy import scaled_cross_entropy
from ferkit.ops.similarity_preserving import similarity_preserving

__all__ = [
    "class_similarity",
    "concordance",
    "flag_out_of_range",
    "force_backend",
    "native",
    "neighbor_divergence",
    "raise_label_errors",
    "scaled_cross_entropy",
    "similarity_preserving",
]
