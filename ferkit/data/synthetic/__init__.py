"""Faces rendered from action units, of which everything is known: distribution, votes, landmarks, valence, arousal."""

from ferkit.data.synthetic.dataset import SyntheticFaces
from ferkit.data.synthetic.prototypes import ACTION_UNITS, CLASSES
from ferkit.data.synthetic.render import RENDERER_VERSION

__all__ = ["ACTION_UNITS", "CLASSES", "RENDERER_VERSION", "SyntheticFaces"]
