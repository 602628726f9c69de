"""Network parts as nn.Modules; names resolve on first use, so that one part can be taken alone."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "AdaptiveSimilarity": "ferkit.blocks.adaptive_similarity",
    "BACKBONES": "ferkit.blocks.backbones",
    "BackboneParts": "ferkit.blocks.backbones",
    "BNNeck": "ferkit.blocks.bn_neck",
    "BranchedBackbone": "ferkit.blocks.branched_backbone",
    "BranchedOutput": "ferkit.blocks.branched_backbone",
    "DeconvDecoder": "ferkit.blocks.deconv_decoder",
    "EncoderOutput": "ferkit.blocks.vgg_encoder",
    "ImageStream": "ferkit.blocks.streams",
    "LabelStream": "ferkit.blocks.streams",
    "LoadReport": "ferkit.blocks.pretrained",
    "MLPBlock": "ferkit.blocks.mlp",
    "MultiStreamDiscriminator": "ferkit.blocks.discriminator",
    "ResidualBlock": "ferkit.blocks.residual",
    "RoutedBackbone": "ferkit.blocks.routed_backbone",
    "RowSGD": "ferkit.blocks.row_sgd",
    "SampleCertainty": "ferkit.blocks.sample_certainty",
    "SelfAttention2d": "ferkit.blocks.attention",
    "TransitionMatrix": "ferkit.blocks.transition_matrix",
    "UncertaintyHead": "ferkit.blocks.uncertainty_head",
    "VGGEncoder": "ferkit.blocks.vgg_encoder",
    "load_pretrained": "ferkit.blocks.pretrained",
    "split_model": "ferkit.blocks.backbones",
}

__all__ = [
    "BACKBONES",
    "AdaptiveSimilarity",
    "BNNeck",
    "BackboneParts",
    "BranchedBackbone",
    "BranchedOutput",
    "DeconvDecoder",
    "EncoderOutput",
    "ImageStream",
    "LabelStream",
    "LoadReport",
    "MLPBlock",
    "MultiStreamDiscriminator",
    "ResidualBlock",
    "RoutedBackbone",
    "RowSGD",
    "SampleCertainty",
    "SelfAttention2d",
    "TransitionMatrix",
    "UncertaintyHead",
    "VGGEncoder",
    "load_pretrained",
    "split_model",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
