"""Branches that see samples by label, one BN-neck for all: the network of DMUE's released code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ferkit.blocks.backbones import BackboneParts
from ferkit.blocks.bn_neck import BNNeck
from ferkit.blocks.branched_backbone import BranchedBackbone, BranchedOutput
from ferkit.checks import check_floating, check_label_range, check_labels, check_number, check_shape

__all__ = ["RoutedBackbone"]


class RoutedBackbone(BranchedBackbone):
    """:class:`BranchedBackbone` whose branches see only the samples that their loss reads, in two passes.

    In training, with N labelled images:

    1. branch j's last stage runs on the samples not labelled j, for every j, and the target's on all of them;
    2. pooled features go through dropout, the BN-neck and a classifier without bias: C calls of the neck, one a branch,
       then one for the target;
    3. branch j runs again, without gradient, on the samples labelled j: pooled features, the neck (C more calls), the
       classifier, no dropout. The latent distribution is read from these.

    The neck is one module: every call normalises with the statistics of its own sub-batch and moves the same running
    ones, 2C + 1 times a step. So do the batch normalisations within a branch, twice. In ``eval()`` there is neither
    dropout nor a branch, nor are labels needed: trunk, target stage, neck with running statistics, classifier.

    Args:
        backbone: a name in :data:`ferkit.blocks.BACKBONES`, or the parts of any network.
        num_classes: C.
        dropout: share of the pooled features set to 0 before the neck; drawn from torch's global generator.
        classifier_std: deviation of the classifiers' initial weights, see :class:`BranchedBackbone`.

    Call with images (N, 3, H, W) and, in training, int64 labels (N,). Gives a :class:`BranchedOutput` whose
    ``features`` and ``auxiliary_features`` are pooled, before dropout and neck, and whose ``embedding`` is what the
    target's classifier reads. Row n of branch y_n comes from the second pass and has no gradient. An image labelled -1
    is seen by the target alone: its auxiliary rows are 0.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, or labels outside -1..C-1; in training without labels, or with
            a class of fewer than two samples, which has no batch statistics (the released code skips such a batch).

    The labels are read on the host, once a call in training: the sub-batches' sizes depend on them.

    Source: the released code of She et al., CVPR 2021; the paper has neither neck nor dropout, and sends every sample
    through every branch.

    >>> model = RoutedBackbone("small", num_classes=3)
    >>> labels = torch.tensor([0, 0, 1, 1, 2, 2])
    >>> model(torch.zeros(6, 3, 48, 48), labels).auxiliary_logits.shape, int(model.neck.num_batches_tracked)
    (torch.Size([3, 6, 2]), 7)
    >>> model.eval()(torch.zeros(1, 3, 48, 48)).logits.shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        backbone: str | BackboneParts = "small",
        num_classes: int = 8,
        dropout: float = 0.5,
        classifier_std: float | None = 0.001,
    ) -> None:
        check_number(dropout, "dropout", 0, 1)
        super().__init__(backbone, num_classes, "leave-one-out", bias=False, classifier_std=classifier_std)
        self.dropout = nn.Dropout(dropout)
        self.neck = BNNeck(self.target_classifier.in_features)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> BranchedOutput:
        if not self.training:
            return self._run(images, with_branches=False)
        check_floating(images, "images")
        check_shape(images, "images", ("N", 3, "H", "W"))
        given = check_labels(labels, len(images)).cpu()
        check_label_range(given, self.num_classes)
        negative, positive = self._rows(given, images.device)
        shared = self.trunk(images)
        seen = [_pooled(branch, shared[rows]) for branch, rows in zip(self.branches, negative)]
        features = _pooled(self.target, shared)
        auxiliary = [head(self._embed(x)) for head, x in zip(self.branch_classifiers, seen)]
        embedding = self._embed(features)
        with torch.no_grad():
            own = [_pooled(branch, shared[rows]) for branch, rows in zip(self.branches, positive)]
            latent = [head(self.neck(x)) for head, x in zip(self.branch_classifiers, own)]
        return BranchedOutput(
            features,
            self.target_classifier(embedding),
            _joined(seen, own, negative, positive, len(images)),
            _joined(auxiliary, latent, negative, positive, len(images)),
            embedding,
        )

    def _embed(self, features: Tensor) -> Tensor:
        embedding: Tensor = self.neck(self.dropout(features))
        return embedding

    def _rows(self, labels: Tensor, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        """Positions of the samples that are not, and that are, of each class; labels on the CPU."""
        own = labels == torch.arange(self.num_classes)[:, None]
        few = [f"{count} of class {j}" for j, count in enumerate(own.sum(1).tolist()) if count < 2]
        if few:
            raise ValueError(
                f"labels: expected 2 samples or more of each of the {self.num_classes} classes in a training batch, "
                f"got {', '.join(few)}"
            )
        rest = ~own & (labels >= 0)
        negative, positive = ([row.nonzero()[:, 0].to(device) for row in part] for part in (rest, own))
        return negative, positive

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, routed by label"


def _pooled(stage: nn.Module, maps: Tensor) -> Tensor:
    features: Tensor = stage(maps).mean((2, 3))
    return features


def _joined(seen: list[Tensor], own: list[Tensor], negative: list[Tensor], positive: list[Tensor], size: int) -> Tensor:
    """(C, size, width): each branch's rows of both passes in the order of the batch, 0 where it saw neither."""
    return torch.stack(
        [
            first.new_zeros(size, first.shape[1]).index_copy(0, rest, first).index_copy(0, rows, second)
            for first, second, rest, rows in zip(seen, own, negative, positive)
        ]
    )
