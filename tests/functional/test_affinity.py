"""Affinities from distances, and the distances themselves, against loops."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from ferkit.functional import gaussian_affinity, laplacian_affinity, neighbor_distances


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(1, 7), count=st.integers(0, 4), width=st.integers(1, 5))
def test_equal_the_loops(seed, size, count, width):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(size, width, generator=generator, dtype=torch.float64)
    indices = torch.randint(-1, size, (size, count), generator=generator)
    l1, l2 = neighbor_distances(points, indices), neighbor_distances(points, indices, "l2")
    near, wide = laplacian_affinity(l1, 0.5), gaussian_affinity(l2, 1.5)
    for n in range(size):
        for k in range(count):
            other = int(indices[n, k])
            if other < 0:
                assert l1[n, k] == l2[n, k] == math.inf
                assert near[n, k] == wide[n, k] == 0
                continue
            apart = [a - b for a, b in zip(points[n].tolist(), points[other].tolist())]
            city, square = sum(abs(a) for a in apart), sum(a * a for a in apart)
            assert math.isclose(l1[n, k], city, rel_tol=1e-12, abs_tol=1e-15)
            assert math.isclose(l2[n, k], square, rel_tol=1e-12, abs_tol=1e-15)
            assert math.isclose(near[n, k], math.exp(-city / 0.5), rel_tol=1e-12)
            assert math.isclose(wide[n, k], math.exp(-square / (2 * 1.5**2)), rel_tol=1e-12)


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_gradients_pass_missing_neighbours_by(metric):
    points = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([[1, 2], [3, -1], [-1, -1], [0, 1]])

    def affinity(values):
        distances = neighbor_distances(values, indices, metric)
        return laplacian_affinity(distances) if metric == "l1" else gaussian_affinity(distances, 2.0)

    assert gradcheck(affinity, points)
    (gradient,) = torch.autograd.grad(affinity(points).sum(), points)
    assert gradient.isfinite().all()
    (gradient,) = torch.autograd.grad(affinity(points)[2].sum(), points)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32(dtype):
    points, indices = torch.randn(3, 2).to(dtype), torch.tensor([[1], [2], [0]])
    with torch.autocast("cpu", torch.bfloat16):
        distances = neighbor_distances(points, indices)
        assert distances.dtype == gaussian_affinity(distances.to(dtype), 1.0).dtype == torch.float32
        assert laplacian_affinity(distances.to(dtype)).dtype == torch.float32
    torch.testing.assert_close(distances, neighbor_distances(points.float(), indices))


def test_edges():
    assert neighbor_distances(torch.zeros(0, 2), torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3)
    assert gaussian_affinity(torch.zeros(()), 1.0) == 1
    huge = torch.tensor([1e30, math.inf, math.nan])
    assert gaussian_affinity(huge, 68.0).tolist()[:2] == [0.0, 0.0]
    assert laplacian_affinity(huge).isnan().tolist() == [False, False, True]
    points = torch.tensor([[math.nan, 0.0], [0.0, 0.0], [1.0, 1.0]])
    distances = neighbor_distances(points, torch.tensor([[1], [0], [1]]))
    assert distances.isnan().flatten().tolist() == [True, True, False]


def test_compiles_whole():
    torch._dynamo.reset()

    def affinity(points, indices):
        return laplacian_affinity(neighbor_distances(points, indices)), gaussian_affinity(points.square(), 2.0)

    compiled = torch.compile(affinity, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (7, 11):
        points, indices = torch.randn(size, 2), torch.randint(-1, size, (size, 3))
        for actual, expected in zip(compiled(points, indices), affinity(points, indices)):
            torch.testing.assert_close(actual, expected)


P, J = torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: gaussian_affinity([1.0], 1.0), TypeError, "squared_distances: expected a torch.Tensor, got list"),
        (lambda: gaussian_affinity(P.long(), 1.0), TypeError, "squared_distances: expected a floating-point tensor"),
        (lambda: gaussian_affinity(P, 0.0), ValueError, "sigma: expected a value in (0.0, inf], got 0.0"),
        (lambda: gaussian_affinity(P - 1, 1.0), ValueError, "squared_distances: expected values of 0 or more, got -1"),
        (lambda: laplacian_affinity(P, -1.0), ValueError, "scale: expected a value in (0.0, inf], got -1.0"),
        (lambda: laplacian_affinity(P - 1), ValueError, "distances: expected values of 0 or more, got -1"),
        (lambda: neighbor_distances(P[0], J), ValueError, "points: expected shape (N, D), got (2,)"),
        (
            lambda: neighbor_distances(P, J.int()),
            TypeError,
            "indices: expected dtype torch.int64, got torch.int32",
        ),
        (lambda: neighbor_distances(P, J[:2]), ValueError, "indices: expected shape (3, K), got (2, 2)"),
        (
            lambda: neighbor_distances(P, J + 3),
            ValueError,
            "indices: expected values in 0..2 or -1 (none), got 3..3",
        ),
        (
            lambda: neighbor_distances(P, J - 2),
            ValueError,
            "indices: expected values in 0..2 or -1 (none), got -2..-2",
        ),
        (
            lambda: neighbor_distances(P, J, "cosine"),
            ValueError,
            "metric: expected one of 'l1', 'l2', got 'cosine'",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
