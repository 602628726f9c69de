"""A shared trunk with one target branch and C auxiliary copies of the last stage (DMUE, section 3.2)."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ferkit.blocks.backbones import BackboneParts, split_backbone
from ferkit.checks import check_choice, check_floating, check_number, check_shape

__all__ = ["MINING", "BranchedBackbone", "BranchedOutput"]

MINING = ("leave-one-out", "all-class", "none")


class BranchedOutput(NamedTuple):
    """Pooled features and logits of the target branch, and in training of the M auxiliary ones."""

    features: Tensor  # (N, D)
    logits: Tensor  # (N, C)
    auxiliary_features: Tensor | None = None  # (M, N, D)
    auxiliary_logits: Tensor | None = None  # (M, N, C-1), or (M, N, C) with mining="all-class"
    embedding: Tensor | None = None  # (N, D), what the target's classifier reads where that is not ``features``


class BranchedBackbone(nn.Module):
    r"""Backbone whose last stage exists once for the target and once for each auxiliary branch.

    In training every sample goes once through every branch: the cross-entropy of branch j reads the samples not
    labelled j, and the others give the latent distribution. In ``eval()`` only the target branch exists: no auxiliary
    work, no labels, one result per image whatever its batch mates.

    Args:
        backbone: a name in :data:`ferkit.blocks.BACKBONES`, ``"timm:NAME:STAGE"`` or ``"torchvision:NAME:STAGE"``, or
            the parts of any network (:func:`ferkit.blocks.split_model`).
        num_classes: C.
        mining: ``"leave-one-out"`` gives C branches of C-1 classes (the paper's LD-N), ``"all-class"`` C branches of C
            classes (its LD-A), ``"none"`` no branch: the plain model, with the same parameter names.
        bias: whether classifiers have a bias; without one (eq. 9) confidence scales the whole logit.
        classifier_std: deviation of the classifiers' initial weights; None: ``torch.nn.Linear``'s own. The released
            code has 0.001, which starves a backbone that is not pretrained: its gradients stay below Adam's L2 term.

    Shape:
        images (N, 3, H, W) -> :class:`BranchedOutput`.

    Source: She et al., CVPR 2021, section 3.2 and figure 2.

    >>> model = BranchedBackbone("small", num_classes=7)
    >>> model(torch.zeros(4, 3, 48, 48)).auxiliary_logits.shape
    torch.Size([7, 4, 6])
    >>> model.eval()(torch.zeros(4, 3, 48, 48)).auxiliary_logits is None
    True
    """

    def __init__(
        self,
        backbone: str | BackboneParts = "small",
        num_classes: int = 8,
        mining: str = "leave-one-out",
        bias: bool = False,
        classifier_std: float | None = None,
    ) -> None:
        super().__init__()
        check_number(num_classes, "num_classes", 2, integer=True)
        check_choice(mining, "mining", MINING)
        if not isinstance(backbone, (str, BackboneParts)):
            raise TypeError(f"backbone: expected a name or BackboneParts (split_model), got {type(backbone).__name__}")
        parts = split_backbone(backbone) if isinstance(backbone, str) else backbone
        self.num_classes, self.mining, self.stage_prefix = num_classes, mining, parts.stage_prefix
        branches = 0 if mining == "none" else num_classes
        outputs = num_classes - 1 if mining == "leave-one-out" else num_classes
        self.trunk = parts.trunk
        self.target = parts.stage
        self.target_classifier = nn.Linear(parts.features, num_classes, bias=bias)
        self.branches = nn.ModuleList(copy.deepcopy(parts.stage) for _ in range(branches))
        self.branch_classifiers = nn.ModuleList(nn.Linear(parts.features, outputs, bias=bias) for _ in range(branches))
        if classifier_std is not None:
            for classifier in (self.target_classifier, *self.branch_classifiers):
                nn.init.normal_(classifier.weight, std=classifier_std)

    def forward(self, images: Tensor) -> BranchedOutput:
        return self._run(images, with_branches=self.training)

    def forward_branches(self, images: Tensor) -> BranchedOutput:
        """Like ``forward``, with the auxiliary branches whatever the mode: to look at what they mined."""
        return self._run(images, with_branches=True)

    def forward_target(self, images: Tensor) -> BranchedOutput:
        """Like ``forward``, without the auxiliary branches whatever the mode."""
        return self._run(images, with_branches=False)

    def _run(self, images: Tensor, with_branches: bool) -> BranchedOutput:
        check_floating(images, "images")
        check_shape(images, "images", ("N", 3, "H", "W"))
        shared = self.trunk(images)
        features = self.target(shared).mean((2, 3))
        embedding = self._embed(features)
        logits = self.target_classifier(embedding)
        other = None if embedding is features else embedding
        if not with_branches or not self.branches:
            return BranchedOutput(features, logits, embedding=other)
        auxiliary = [branch(shared).mean((2, 3)) for branch in self.branches]
        auxiliary_logits = [head(self._embed(x)) for head, x in zip(self.branch_classifiers, auxiliary)]
        return BranchedOutput(features, logits, torch.stack(auxiliary), torch.stack(auxiliary_logits), other)

    def _embed(self, features: Tensor) -> Tensor:
        """What classifiers read of pooled features (n, D)."""
        return features

    def target_state_dict(self) -> dict[str, Tensor]:
        """The plain model's share of the state dict: what is deployed."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("branch")}

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, mining={self.mining!r}, branches={len(self.branches)}"
