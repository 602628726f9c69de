"""Two people who label the rendered faces, each with mistakes of their own, and a worse detector of affect."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferkit.data.synthetic.dataset import SyntheticFaces

__all__ = ["CONFUSIONS", "annotators", "confusion_matrix", "noisy_affect"]

# For each true class what it is mistaken for, and how often; the rest is named rightly.
CONFUSIONS: dict[str, dict[str, dict[str, float]]] = {
    # Sees little in a face, and mixes up what opens the eyes and what wrinkles the nose.
    "annotator1": {
        "neutral": {"sad": 0.05, "happy": 0.05},
        "happy": {"neutral": 0.15, "contempt": 0.03},
        "sad": {"neutral": 0.20, "disgust": 0.05},
        "surprise": {"fear": 0.30, "neutral": 0.05},
        "fear": {"surprise": 0.35, "neutral": 0.05},
        "disgust": {"anger": 0.35, "neutral": 0.05},
        "anger": {"disgust": 0.30, "neutral": 0.08},
        "contempt": {"neutral": 0.25, "happy": 0.10},
    },
    # Sees much in a calm face, and mixes up other pairs: pleasant and astonished, angry and afraid.
    "annotator2": {
        "neutral": {"sad": 0.45, "contempt": 0.03},
        "happy": {"surprise": 0.30, "contempt": 0.04},
        "sad": {"neutral": 0.40, "fear": 0.05},
        "surprise": {"happy": 0.38, "anger": 0.05},
        "fear": {"anger": 0.38, "sad": 0.05},
        "disgust": {"sad": 0.30, "contempt": 0.08},
        "anger": {"fear": 0.42, "disgust": 0.03},
        "contempt": {"disgust": 0.25, "anger": 0.15},
    },
}
AFFECT_SPREAD = 0.25
AFFECT_LOST = 0.10
# Streams of their own: 0 to 5 are those of SyntheticFaces, whose draws stay as they are.
_FIRST_ANNOTATOR, _AFFECT = 6, 100


def confusion_matrix(annotator: str, classes: tuple[str, ...]) -> NDArray[np.float64]:
    """(C, C): how often each true class (row) is given each label. What is mistaken for a class not there is right.

    >>> confusion_matrix("annotator1", ("neutral", "happy"))
    array([[0.95, 0.05],
           [0.15, 0.85]])
    """
    table = CONFUSIONS[annotator]
    matrix = np.zeros((len(classes), len(classes)))
    for row, name in enumerate(classes):
        for other, share in table[name].items():
            if other in classes:
                matrix[row, classes.index(other)] = share
        matrix[row, row] = 1 - matrix[row].sum()
    return matrix


def annotators(faces: SyntheticFaces) -> dict[str, Tensor]:
    """Labels of two annotators, int64 (N,) each, drawn from ``true_labels`` by their confusions.

    A face's labels are a pure function of (``faces.seed``, index, annotator) and its true label. About 0.30 of the
    first one's are wrong and 0.40 of the second's, each among a few classes only and not among the same: where one is
    torn the other is not.

    Example:
        >>> labels = annotators(SyntheticFaces(3, size=32, seed=0))
        >>> list(labels), labels["annotator1"].shape
        (['annotator1', 'annotator2'], torch.Size([3]))
    """
    truth = faces.true_labels.numpy()
    result = {}
    for number, name in enumerate(CONFUSIONS):
        cumulative = confusion_matrix(name, faces.classes).cumsum(1)
        drawn = np.array([_stream(faces, i, _FIRST_ANNOTATOR + number).random() for i in range(len(faces))])
        # The last sum may be a rounding below 1.
        labels = (cumulative[truth, :-1] <= drawn[:, None]).sum(1)
        result[name] = torch.from_numpy(labels.astype(np.int64))
    return result


def noisy_affect(faces: SyntheticFaces) -> dict[str, Tensor]:
    """``valence`` and ``arousal``, float32 (N,) in [-1, 1]: the detector's with more noise.

    Normal noise of standard deviation 0.25 is added; one value in ten is a guess (uniform) that has nothing to do with
    the face. A pure function of (``faces.seed``, index).

    Example:
        >>> noisy_affect(SyntheticFaces(3, size=32, seed=0))["valence"].shape
        torch.Size([3])
    """
    reported = torch.stack([faces.valence, faces.arousal], 1).double().numpy()
    draws = np.empty((len(faces), 6))
    for index in range(len(faces)):
        stream = _stream(faces, index, _AFFECT)
        draws[index, :4], draws[index, 4:] = stream.random(4), stream.standard_normal(2)
    values = np.clip(reported + AFFECT_SPREAD * draws[:, 4:], -1, 1)
    values = np.where(draws[:, :2] < AFFECT_LOST, 2 * draws[:, 2:4] - 1, values)
    result = torch.from_numpy(values.astype(np.float32))
    return {"valence": result[:, 0].contiguous(), "arousal": result[:, 1].contiguous()}


def _stream(faces: SyntheticFaces, index: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([faces.seed, index, purpose])))
