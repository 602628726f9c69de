"""SyntheticFaces: the rendered dataset, with everything that is known of each face."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ferkit.checks import check_labels, check_number
from ferkit.data.synthetic.detector import affect, detect_action_units, detect_affect, detect_landmarks
from ferkit.data.synthetic.expression import Expression, draw_expression
from ferkit.data.synthetic.geometry import contours
from ferkit.data.synthetic.prototypes import CLASSES, perceive
from ferkit.data.synthetic.render import render
from ferkit.data.synthetic.scene import Identity, Scene, draw_identity, draw_scene

__all__ = ["NUM_VOTES", "SyntheticFaces"]

NUM_VOTES = 10
MIN_SIZE, MAX_SIZE = 24, 512
# One stream a purpose, so that a change in one leaves the draws of the others alone.
_EXPRESSION, _IDENTITY, _SCENE, _VOTES, _DETECTOR, _SENSOR = range(6)


class SyntheticFaces(Dataset[dict[str, Any]]):
    """Faces rendered from action units; sample ``i`` is a pure function of ``(seed, i)``, of nothing else.

    Every face blends one to three EMFACS prototypes at some strength, on a drawn person, pose, light, camera and,
    for two in five, an occluder. ``distributions`` is what a population of viewers sees in the action units shown and
    not hidden; ten of them vote. Images are rendered when first asked for and kept as uint8.

    Args:
        n: number of faces, 0 or more.
        size: side of the square images in pixels, 24 to 512 (made for 32 to 224).
        seed: 0 or more; another seed is another set of faces.
        num_classes: 7, or 8 with contempt.
        progress: called as ``progress(done, n)`` while all images are rendered at once, up front.

    Attributes (N faces, C classes; all on the CPU):
        classes: names in the order of the label numbers.
        labels: int64 (N,), most of the ten votes, ties to the larger true share; ``with_labels`` replaces them.
        true_labels: int64 (N,), the same, and never replaced.
        distributions: float32 (N, C), the viewers' true distribution.
        votes: int64 (N, C), rows sum to 10.
        action_units, action_units_exact: float32 (N, 17), scale 0 to 5, in the order of ``ACTION_UNITS``.
        landmarks, landmarks_exact: float32 (N, 68, 2), (x, y) in pixels, pixel centres at whole numbers.
        valence, arousal, valence_exact, arousal_exact: float32 (N,) in [-1, 1].

        The names without ``_exact`` are as a detector would report them, with its errors.

    Raises:
        TypeError, ValueError: for an argument of the wrong type or out of range.

    >>> faces = SyntheticFaces(3, size=48, seed=0)
    >>> sample = faces[1]
    >>> sample["image"].shape, sample["image"].dtype, sample["index"]
    (torch.Size([3, 48, 48]), torch.uint8, 1)
    >>> faces.votes.sum(1)
    tensor([10, 10, 10])
    """

    def __init__(
        self,
        n: int,
        size: int = 48,
        seed: int = 0,
        num_classes: int = 7,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        check_number(n, "n", 0, integer=True)
        check_number(size, "size", MIN_SIZE, MAX_SIZE, integer=True)
        check_number(seed, "seed", 0, integer=True)
        check_number(num_classes, "num_classes", integer=True)
        if num_classes not in (7, 8):
            raise ValueError(f"num_classes: expected 7 or 8, got {num_classes}")
        if progress is not None and not callable(progress):
            raise TypeError(f"progress: expected a callable, got {type(progress).__name__}")
        self.size, self.seed, self.num_classes = size, seed, num_classes
        self.classes = CLASSES[:num_classes]
        self._count = n
        table = {name: np.zeros((n, *shape), np.float32) for name, shape in _COLUMNS.items()}
        table["distributions"] = np.zeros((n, num_classes), np.float32)
        votes = np.zeros((n, num_classes), np.int64)
        for index in range(n):
            row = self._annotate(index)
            votes[index] = row.pop("votes")
            for name, value in row.items():
                table[name][index] = value
        self.votes = torch.from_numpy(votes)
        tensors = {name: torch.from_numpy(values) for name, values in table.items()}
        self.distributions = tensors["distributions"]
        self.action_units, self.action_units_exact = tensors["action_units"], tensors["action_units_exact"]
        self.landmarks, self.landmarks_exact = tensors["landmarks"], tensors["landmarks_exact"]
        self.valence, self.arousal = tensors["affect"].unbind(1)
        self.valence_exact, self.arousal_exact = tensors["affect_exact"].unbind(1)
        # Shares are below 1, so they only order the classes that have equally many votes.
        self.true_labels = (
            (self.votes + self.distributions.double() * 0.5).argmax(1) if n else torch.zeros(0, dtype=torch.int64)
        )
        self.labels = self.true_labels.clone()
        # Zero pages are only claimed when written, and copies with other labels share what was rendered.
        self._images = torch.from_numpy(np.zeros((n, 3, size, size), np.uint8))
        self._rendered = np.zeros(n, bool)
        if progress is not None:
            self.render(progress)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(self._count)[index]
        return {"image": self._image(position).clone(), "label": int(self.labels[position]), "index": position}

    @property
    def images(self) -> Tensor:
        """uint8 (N, 3, size, size), rendered now where it was not yet."""
        return self.render()

    def render(self, progress: Callable[[int, int], object] | None = None) -> Tensor:
        """Render all images, telling ``progress(done, n)``, and return them, uint8 (N, 3, size, size)."""
        for index in range(self._count):
            self._image(index)
            if progress is not None:
                progress(index + 1, self._count)
        return self._images

    def with_labels(self, labels: Tensor) -> SyntheticFaces:
        """The same faces with other labels, int64 (N,), -1 for unlabelled; ``true_labels`` stay."""
        check_labels(labels, self._count, self.num_classes)
        other = copy.copy(self)
        other.labels = labels.detach().cpu().clone()
        return other

    def __repr__(self) -> str:
        return f"SyntheticFaces(n={self._count}, size={self.size}, seed={self.seed}, num_classes={self.num_classes})"

    def _stream(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, index, purpose])))

    def _draw(self, index: int) -> tuple[Identity, Expression, Scene]:
        return (
            draw_identity(self._stream(index, _IDENTITY)),
            draw_expression(self._stream(index, _EXPRESSION), self.num_classes),
            draw_scene(self._stream(index, _SCENE)),
        )

    def _annotate(self, index: int) -> dict[str, Any]:
        who, expression, scene = self._draw(index)
        shown = perceive(expression.left, expression.right, self.num_classes, scene.visibility())
        units, points = expression.action_units, contours(who, expression, scene, self.size).landmarks
        exact = affect(perceive(expression.left, expression.right, self.num_classes), units)
        ballots = np.searchsorted(np.cumsum(shown)[:-1], self._stream(index, _VOTES).random(NUM_VOTES), side="right")
        rng = self._stream(index, _DETECTOR)
        return {
            "distributions": shown,
            "votes": np.bincount(ballots, minlength=self.num_classes),
            "action_units": detect_action_units(units, scene, rng),
            "action_units_exact": units,
            "affect": detect_affect(exact, rng),
            "affect_exact": exact,
            "landmarks": detect_landmarks(points, scene, self.size, rng),
            "landmarks_exact": points,
        }

    def _image(self, index: int) -> Tensor:
        if not self._rendered[index]:
            pixels, _ = render(*self._draw(index), self.size, self._stream(index, _SENSOR))
            self._images[index] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
            self._rendered[index] = True
        return self._images[index]


_COLUMNS: dict[str, tuple[int, ...]] = {
    "action_units": (17,),
    "action_units_exact": (17,),
    "affect": (2,),
    "affect_exact": (2,),
    "landmarks": (68, 2),
    "landmarks_exact": (68, 2),
}
