"""The renderer is frozen: whoever changes a pixel changes RENDERER_VERSION and these numbers together."""

from __future__ import annotations

import pytest
import torch

from ferkit.data.synthetic import RENDERER_VERSION, SyntheticFaces

# Of version 1, SyntheticFaces(6, 48, seed=2024, num_classes=8).
QUADRANTS = [
    [65.96, 66.7, 61.2, 66.19],
    [44.96, 50.78, 47.59, 60.12],
    [107.39, 126.17, 141.5, 150.67],
    [76.78, 73.91, 74.53, 63.73],
    [112.65, 90.7, 126.09, 119.61],
    [44.16, 40.66, 49.66, 50.56],
]
SPREAD = [
    [37.87, 31.04, 28.9],
    [38.68, 31.48, 29.8],
    [76.26, 67.34, 62.99],
    [42.25, 37.69, 38.85],
    [37.8, 35.81, 43.28],
    [39.69, 20.74, 16.82],
]
THUMBNAIL = [
    [50.6, 31.1, 40.4, 45.7, 39.7, 37.9, 32.0, 40.6],
    [30.3, 70.4, 87.5, 98.1, 101.1, 81.9, 61.0, 33.8],
    [33.8, 85.3, 76.1, 95.3, 94.7, 74.7, 87.1, 46.8],
    [33.2, 89.2, 89.4, 99.3, 102.1, 91.3, 95.8, 46.8],
    [29.1, 86.2, 103.5, 93.8, 96.1, 101.5, 98.0, 36.2],
    [28.8, 52.9, 86.4, 94.7, 95.3, 89.0, 68.1, 29.0],
    [28.8, 29.7, 68.2, 102.7, 104.6, 86.9, 35.0, 29.0],
    [29.1, 29.0, 46.9, 69.7, 71.0, 61.7, 29.1, 28.6],
]
LABELS = [1, 5, 2, 1, 1, 7]
TOP = [0.995, 0.994, 0.867, 0.59, 0.66, 0.596]
CORNERS = [
    [24.7, 45.5, 24.3, 27.5, 12.9, 32.0],
    [19.6, 50.5, 24.6, 25.7, 13.1, 34.7],
    [19.2, 48.5, 23.9, 26.0, 14.1, 36.4],
    [24.3, 45.6, 22.0, 26.9, 13.3, 31.6],
    [25.9, 47.3, 18.8, 26.6, 12.6, 31.0],
    [22.2, 47.7, 21.7, 25.5, 14.7, 34.5],
]


@pytest.fixture(scope="module")
def faces() -> SyntheticFaces:
    return SyntheticFaces(6, 48, seed=2024, num_classes=8)


def test_version() -> None:
    assert RENDERER_VERSION == 1


def test_pixels_are_those_of_this_version(faces: SyntheticFaces) -> None:
    images = faces.images.double()
    # Another platform may round a few pixels the other way; a moved feature shifts these by far more.
    quadrants = images.reshape(6, 3, 2, 24, 2, 24).mean((1, 3, 5)).reshape(6, 4)
    torch.testing.assert_close(quadrants, torch.tensor(QUADRANTS).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(images.std((2, 3)), torch.tensor(SPREAD).double(), atol=0.1, rtol=0)
    thumbnail = images[0].mean(0).reshape(8, 6, 8, 6).mean((1, 3))
    torch.testing.assert_close(thumbnail, torch.tensor(THUMBNAIL).double(), atol=0.4, rtol=0)


def test_truth_is_that_of_this_version(faces: SyntheticFaces) -> None:
    assert faces.labels.tolist() == LABELS
    torch.testing.assert_close(faces.distributions.max(1).values, torch.tensor(TOP), atol=2e-3, rtol=0)
    points = faces.landmarks_exact[:, [8, 30, 48]].reshape(6, 6)
    torch.testing.assert_close(points, torch.tensor(CORNERS), atol=0.06, rtol=0)
