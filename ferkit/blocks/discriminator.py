"""noisyFER's discriminator: one stream a variable, a marginal score of each, and a joint score of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ferkit.blocks._spectral import spectral
from ferkit.blocks._width import scaled
from ferkit.blocks.mlp import MLPBlock
from ferkit.blocks.streams import ImageStream, LabelStream
from ferkit.checks import check_floating, check_labels, check_number, check_shape, check_tensor

__all__ = ["MultiStreamDiscriminator"]

JOINT = "joint"
HIDDEN = 1024


class MultiStreamDiscriminator(nn.Module):
    """Scores tuples (image, latent noise, labels ...), each variable alone and all of them together.

    Every variable has a stream (`ImageStream` or `LabelStream`) with a feature and a marginal score. The joint score is
    that of an `MLPBlock` of 1024 over the streams' features side by side. Everything is spectrally normalised.

    Args:
        image_size: of the stream ``"image"``, a power of two of 32 or more; None: no image stream.
        latent: width of the stream ``"latent"``; 0: none.
        categorical: name -> number of classes, a stream for each.
        continuous: name -> number of values, a stream for each.
        width: scales every hidden width (to a multiple of 8, at least 8).
        joint: whether there is a joint score.
        marginal: True (every stream has a marginal score), False (none), or the names of those that have one.
        form: ``"paper"`` or ``"released"``, of every `MLPBlock`.
        explicit: attention by the explicit formula, for a gradient penalty; see `SelfAttention2d`.

    Attributes:
        stream_names: "image", "latent", the categorical, then the continuous streams, those there are.
        score_names: the columns of the scores: streams with a marginal score in that order, and "joint" last.

    Call with a mapping from stream name to tensor, in any order: images (N, 3, size, size), everything else (N, width);
    for a categorical stream logits or one-hot rows, or int64 labels (N,), which become one-hot rows (all 0 for -1).
    Gives the scores (N, S), high for what the encoder made.

    Raises:
        TypeError, ValueError: for a missing or unknown stream, wrong dtypes or shapes, batches of different size, names
            used twice, and, without a joint score, a stream that has no score at all.

    Source: Zhang et al., WACV 2021, figure 2 (b); supplement, figure 1 (c).

    >>> critic = MultiStreamDiscriminator(32, categorical={"expression": 7}, continuous={"affect": 2}, width=0.125)
    >>> critic.score_names
    ('image', 'latent', 'expression', 'affect', 'joint')
    >>> inputs = {"image": torch.zeros(4, 3, 32, 32), "affect": torch.zeros(4, 2)}
    >>> inputs |= {"expression": torch.tensor([0, 1, 2, 3]), "latent": torch.randn(4, 100)}
    >>> critic(inputs).shape
    torch.Size([4, 5])
    """

    def __init__(
        self,
        image_size: int | None,
        latent: int = 100,
        categorical: Mapping[str, int] | None = None,
        continuous: Mapping[str, int] | None = None,
        width: float = 1.0,
        joint: bool = True,
        marginal: bool | Sequence[str] = True,
        form: str = "paper",
        explicit: bool = False,
    ) -> None:
        super().__init__()
        check_number(latent, "latent", 0, integer=True)
        self.categorical, self.continuous = dict(categorical or {}), dict(continuous or {})
        self.image_size, self.form = image_size, form
        widths = {"latent": latent} if latent else {}
        for group, streams in (("categorical", self.categorical), ("continuous", self.continuous)):
            for name, size in streams.items():
                if name in (JOINT, "image", "latent") or name in widths:
                    raise ValueError(f"{group}: expected a name not yet taken, got {name!r}")
                check_number(size, f"{group}[{name!r}]", 1, integer=True)
                widths[name] = size
        self.widths = widths
        self.stream_names = (*(() if image_size is None else ("image",)), *widths)
        scored = _scored(marginal, self.stream_names, joint)
        self.score_names = (*scored, *((JOINT,) if joint else ()))
        self.streams = nn.ModuleDict()
        total = 0
        for name in self.stream_names:
            stream: ImageStream | LabelStream
            if name == "image":
                assert image_size is not None
                stream = ImageStream(image_size, width=width, explicit=explicit, score=name in scored)
            else:
                stream = LabelStream(widths[name], width, form, score=name in scored)
            self.streams[_key(name)] = stream
            total += stream.features
        self.joint: nn.Sequential | None = None
        if joint:
            hidden = scaled(HIDDEN, width)
            self.joint = nn.Sequential(MLPBlock(total, hidden, form=form), spectral(nn.Linear(hidden, 1)))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        tensors = self._check(inputs)
        features, scores = [], []
        for name in self.stream_names:
            feature, score = self.streams[_key(name)](tensors[name])
            features.append(feature)
            if score is not None:
                scores.append(score)
        if self.joint is not None:
            scores.append(self.joint(torch.cat(features, dim=1)))
        return torch.cat(scores, dim=1)

    def _check(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not isinstance(inputs, Mapping):
            raise TypeError(f"inputs: expected a mapping from stream name to tensor, got {type(inputs).__name__}")
        missing = [name for name in self.stream_names if name not in inputs]
        unknown = [name for name in inputs if name not in self.stream_names]
        if missing or unknown:
            expected = ", ".join(map(repr, self.stream_names))
            raise ValueError(f"inputs: expected the streams {expected}; missing {missing}, unknown {unknown}")
        tensors, size = {}, -1
        for name in self.stream_names:
            what = f"inputs[{name!r}]"
            value = check_tensor(inputs[name], what)
            if size >= 0 and (value.ndim == 0 or value.shape[0] != size):
                raise ValueError(f"{what}: expected {size} rows as in the other streams, got {tuple(value.shape)}")
            if name == "image":
                check_floating(value, what)
                check_shape(value, what, ("N", 3, self.image_size or 0, self.image_size or 0))
            elif name in self.categorical and value.dtype == torch.int64:
                value = _one_hot(value, self.widths[name], what)
            else:
                check_floating(value, what)
                check_shape(value, what, ("N", self.widths[name]))
            tensors[name], size = value, value.shape[0]
        floating = [value.dtype for value in tensors.values() if value.is_floating_point()]
        dtype = floating[0] if floating else next(self.parameters()).dtype
        return {name: value if value.is_floating_point() else value.to(dtype) for name, value in tensors.items()}

    def extra_repr(self) -> str:
        return f"score_names={self.score_names}, form={self.form!r}"


def _one_hot(labels: Tensor, classes: int, name: str) -> Tensor:
    check_shape(labels, name, ("N",))
    check_labels(labels, labels.shape[0], classes, name)
    return labels.unsqueeze(1) == torch.arange(classes, device=labels.device)


def _key(name: str) -> str:
    """A stream's key among the modules, where a dot is not allowed and ``keys`` or ``values`` is taken."""
    return "stream_" + name.replace("%", "%25").replace(".", "%2E")


def _scored(marginal: bool | Sequence[str], names: Sequence[str], joint: bool) -> tuple[str, ...]:
    """The streams that have a marginal score, in their order."""
    if isinstance(marginal, bool):
        scored = tuple(names) if marginal else ()
    elif isinstance(marginal, str) or not isinstance(marginal, Sequence):
        raise TypeError(f"marginal: expected a bool or the names of streams, got {marginal!r}")
    else:
        unknown = [name for name in marginal if name not in names]
        if unknown:
            raise ValueError(f"marginal: expected names among {', '.join(map(repr, names))}, got {unknown}")
        scored = tuple(name for name in names if name in marginal)
    if not names:
        raise ValueError("image_size: expected a stream of any kind, got none")
    idle = [name for name in names if name not in scored]
    if idle and not joint:
        raise ValueError(f"marginal: expected every stream without a joint score, got none for {idle}: leave them out")
    return scored
