"""Affinities of neighbours from their distances: LDL-ALSG's Gaussian and LDLVA's Laplacian."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import (
    check_choice,
    check_device,
    check_floating,
    check_index_range,
    check_not_negative,
    check_number,
    check_shape,
    check_tensor,
)
from ferkit.functional._inputs import full_precision, promote

__all__ = ["gaussian_affinity", "laplacian_affinity", "neighbor_distances"]

METRICS = ("l1", "l2")


@full_precision
def gaussian_affinity(squared_distances: Tensor, sigma: float) -> Tensor:
    r"""Gaussian affinity :math:`\exp(-d^2 / (2\sigma^2))` of *squared* distances (LDL-ALSG).

    The paper takes sigma = 1 for action units and 68 for landmarks in pixels.

    Args:
        squared_distances: any shape, 0 or more, in the squared unit of the points (what `KNNGraph.distances` of an l2
            graph holds); infinite for a missing neighbour, whose affinity is 0.
        sigma: bandwidth in the unit of the points, above 0.

    Returns:
        The same shape, in [0, 1]; float32 for half precision and under autocast. It underflows to 0, no neighbour,
        where the distance is above about 14 sigma (float32).

    Raises:
        TypeError, ValueError: for a wrong dtype, negative distances (read on the CPU) or a sigma of 0 or less.

    >>> gaussian_affinity(torch.tensor([0.0, 2.0, torch.inf]), sigma=1.0)
    tensor([1.0000, 0.3679, 0.0000])
    """
    check_floating(squared_distances, "squared_distances")
    check_number(sigma, "sigma", 0.0, open_low=True)
    check_not_negative(squared_distances, "squared_distances")
    (squared_distances,) = promote(squared_distances)
    return torch.exp(squared_distances / (-2.0 * sigma * sigma))


@full_precision
def laplacian_affinity(distances: Tensor, scale: float = 0.5) -> Tensor:
    r"""Laplacian affinity :math:`\exp(-d / \text{scale})`, LDLVA's local similarity of l1 distances.

    The released code takes the l1 distance of valence and arousal and a scale of 0.5 (`neighbor_distances` gives that
    distance from the rows). The paper, as far as known, prints a Gaussian of the l2 distance instead:
    ``gaussian_affinity``.

    Args:
        distances: any shape, 0 or more, not squared; infinite for a missing neighbour, whose affinity is 0.
        scale: in the unit of the distances, above 0.

    Returns:
        The same shape, in [0, 1]; float32 for half precision and under autocast.

    Raises:
        TypeError, ValueError: for a wrong dtype, negative distances (read on the CPU) or a scale of 0 or less.

    >>> laplacian_affinity(torch.tensor([0.0, 0.5, torch.inf]))
    tensor([1.0000, 0.3679, 0.0000])
    """
    check_floating(distances, "distances")
    check_number(scale, "scale", 0.0, open_low=True)
    check_not_negative(distances, "distances")
    (distances,) = promote(distances)
    return torch.exp(distances / -scale)


@full_precision
def neighbor_distances(points: Tensor, indices: Tensor, metric: str = "l1") -> Tensor:
    """Distance of every row of ``points`` to its listed neighbours, by direct differences.

    For an affinity in another metric than the one a graph was searched in: LDLVA's is
    ``laplacian_affinity(neighbor_distances(affect, graph.indices, "l1"), 0.5)`` whatever found the neighbours.

    Args:
        points: (N, D).
        indices: int64 (N, K), rows of ``points``; -1 is no neighbour.
        metric: ``"l1"``, or ``"l2"``: squared, as a graph stores it.

    Returns:
        (N, K), infinite where there is no neighbour; float32 for half precision and under autocast.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, a metric unknown, or indices outside -1..N-1 (read on
            the CPU; elsewhere such a distance is NaN).

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    >>> neighbor_distances(points, torch.tensor([[1, -1], [0, -1]]))
    tensor([[3., inf],
            [3., inf]])
    """
    check_choice(metric, "metric", METRICS)
    check_floating(points, "points")
    check_shape(points, "points", ("N", "D"))
    size, width = points.shape
    check_tensor(indices, "indices")
    if indices.dtype != torch.int64:
        raise TypeError(f"indices: expected dtype torch.int64, got {indices.dtype}")
    check_shape(indices, "indices", (size, "K"))
    check_device(points, indices=indices)
    check_index_range(indices, size, "indices", missing=True)
    (points,) = promote(points)
    listed = indices.clamp(0, max(size - 1, 0))
    others = points[listed.flatten()].view(*indices.shape, width)
    missing = indices == -1
    # blanked before the difference: the gradient of infinity minus infinity would be NaN
    difference = torch.where(missing.unsqueeze(2), 0, points.unsqueeze(1) - others)
    distance = (difference.abs() if metric == "l1" else difference.square()).sum(2)
    distance = torch.where((indices < -1) | (indices >= size), torch.nan, distance)
    return torch.where(missing, torch.inf, distance)
