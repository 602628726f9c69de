"""What every adapter gives: a backbone in two."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

__all__ = ["BackboneParts", "torchvision_models"]


class BackboneParts(NamedTuple):
    """A backbone in two: ``stage(trunk(images))`` is its last feature map (N, features, h, w)."""

    trunk: nn.Module
    stage: nn.Module
    features: int
    stage_prefix: str  # what the stage's keys start with in a checkpoint of the whole backbone


def torchvision_models(backbone: str) -> Any:
    """``torchvision.models``, or an ImportError that names the backbone and the extra."""
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(f'backbone {backbone!r} needs torchvision: pip install "ferkit[train]"') from error
    return models
