"""The spaces: what becomes a point, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.graph.spaces import (
    action_unit_points,
    affect_points,
    column_points,
    describe_points,
    known_affect,
    landmark_points,
)


def faces(n=12, points=68, seed=0):
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, 40, (points, 2))
    return torch.from_numpy(mean + rng.normal(0, 3, (n, points, 2)) + 100)


def moved(shapes, seed=0, mirror=False):
    """Each face turned, scaled and shifted in its own way."""
    rng = np.random.default_rng(seed)
    out = []
    for shape in shapes.numpy():
        angle, scale, shift = rng.uniform(-3, 3), rng.uniform(0.2, 5), rng.uniform(-500, 500, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        out.append(shape * ([-1, 1] if mirror else [1, 1]) @ turn.T * scale + shift)
    return torch.from_numpy(np.stack(out))


def distances(rows):
    return torch.cdist(rows, rows)


def test_action_units_keep_their_values_and_dtype():
    values = torch.rand(5, 17)
    assert torch.equal(action_unit_points(values), values) and action_unit_points(values).dtype == torch.float32
    assert action_unit_points(values.numpy()).dtype == torch.float32
    assert action_unit_points(values.half()).dtype == torch.float32
    whole = action_unit_points(np.array([[0, 5], [3, 2]]))
    assert whole.dtype == torch.float64 and whole.tolist() == [[0, 5], [3, 2]]


def test_zero_rows_are_counted_not_refused():
    values = torch.zeros(6, 3)
    values[4:] = torch.tensor([[1.0, 2, 3], [torch.nan, 0, 0]])
    points = action_unit_points(values[:, :])
    assert describe_points(points) == {"rows": 6, "missing": 1, "all_zero": 4, "copies": 3}
    assert torch.isnan(points[5]).any() and describe_points(torch.zeros(0, 3))["copies"] == 0


def test_constant_columns():
    values = torch.tensor([[1.0, 0.0, 2.0], [2.0, 0.0, 2.0], [torch.nan, 5.0, 5.0]])
    with pytest.warns(UserWarning, match="action units: the same in every row, so without effect: AU02, AU04"):
        action_unit_points(values, ["AU01", "AU02", "AU04"])
    with pytest.raises(ValueError, match="expected action units that differ, got the same in all 3 rows"):
        action_unit_points(torch.ones(3, 2))
    assert action_unit_points(torch.ones(1, 2)).shape == (1, 2) and action_unit_points(torch.ones(0, 2)).shape == (0, 2)


def test_columns_that_are_refused():
    with pytest.raises(ValueError, match="got none that is whole; nothing is known in b"):
        column_points([[1.0, np.nan], [2.0, np.inf]], ["a", "b"])
    with pytest.raises(ValueError, match=r"got none that is whole$"):
        column_points([[1.0, np.nan], [np.nan, 2.0]])
    with pytest.raises(ValueError, match="names: expected 2"):
        column_points(torch.rand(3, 2), ["a"])
    with pytest.raises(ValueError, match="at least one column"):
        column_points(torch.rand(3, 0))
    with pytest.raises(ValueError, match=r"values: expected shape \(N, A\)"):
        column_points(torch.rand(3))
    with pytest.raises(TypeError, match="values: expected a tensor or an array of numbers"):
        column_points([["a"]])


def test_the_input_is_not_written_to():
    valence = torch.tensor([0.5, -2.0, 0.1])
    affect_points(valence, valence)
    shapes = faces()
    before = shapes.clone()
    landmark_points(shapes, "procrustes")
    assert valence.tolist() == pytest.approx([0.5, -2.0, 0.1]) and torch.equal(shapes, before)


def test_landmarks_in_pixels():
    shapes = faces().float()
    points = landmark_points(shapes)
    assert points.shape == (12, 136) and points.dtype == torch.float32
    assert torch.equal(points[3, :4], torch.cat([shapes[3, 0], shapes[3, 1]]))
    with pytest.raises(ValueError, match=r"points: expected shape \(N, L, 2\)"):
        landmark_points(points)
    with pytest.raises(ValueError, match="align"):
        landmark_points(shapes, "affine")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_procrustes_takes_out_position_size_and_rotation(seed):
    shapes = faces(seed=seed)
    plain, other = landmark_points(shapes, "procrustes"), landmark_points(moved(shapes, seed), "procrustes")
    scale = (distances(plain) / distances(other).clamp(min=1e-300))[~torch.eye(12, dtype=torch.bool)]
    assert (scale / scale.mean() - 1).abs().max() < 1e-6  # the mean size is that of the given pixels
    centred = plain.view(12, -1, 2)
    assert centred.mean(1).abs().max() < 1e-9
    assert torch.allclose(centred.square().sum((1, 2)).sqrt(), torch.full((12,), 1.0).double() * size(shapes).mean())


def size(shapes):
    return (shapes - shapes.mean(1, keepdim=True)).square().sum((1, 2)).sqrt()


def test_procrustes_is_the_optimal_rotation_and_never_mirrors():
    shapes = moved(faces(), 3)
    aligned = landmark_points(shapes, "procrustes").view(12, 68, 2)
    mean = aligned.mean(0)
    for row in aligned:
        u, _, vt = torch.linalg.svd(row.T @ mean)  # Kabsch: no further rotation brings it nearer
        turn = u @ torch.diag(torch.tensor([1.0, float(torch.sign(torch.det(u @ vt)))]).double()) @ vt
        assert torch.allclose(turn, torch.eye(2).double(), atol=1e-6)
    mirrored = moved(faces(), 3, mirror=True)
    both = landmark_points(torch.cat([shapes, mirrored[:1]]), "procrustes")
    assert (both[0] - both[12]).norm() > 5 * (both[0] - both[1]).norm()


def test_procrustes_of_failed_and_pointlike_faces():
    shapes = moved(faces(), 5)
    shapes[2, 10] = torch.nan
    shapes[7] = 42.0
    points = landmark_points(shapes, "procrustes")
    assert torch.isnan(points).all(1).nonzero()[:, 0].tolist() == [2, 7]
    keep = [i for i in range(12) if i not in (2, 7)]
    assert torch.allclose(points[keep], landmark_points(shapes[keep], "procrustes"), atol=1e-8)
    assert landmark_points(torch.zeros(0, 68, 2), "procrustes").shape == (0, 136)
    with pytest.raises(ValueError, match="none that is whole"):
        landmark_points(torch.ones(3, 4, 2), "procrustes")


def test_procrustes_keeps_its_precision_far_away():
    shapes = faces()
    near, far = landmark_points(shapes, "procrustes"), landmark_points(shapes + 1e6, "procrustes")
    assert (near - far).abs().max() < 1e-6


def test_affect():
    points = affect_points(np.array([0.5, -2, 0.25, np.nan, 1]), np.array([-1, 0.3, -5, 0.1, -0.25]))
    assert points[[0, 4]].tolist() == [[0.5, -1], [1, -0.25]]
    assert torch.isnan(points).all(1).tolist() == [False, True, True, True, False]


def test_affect_outside_the_scale_is_told_with_its_rows():
    with pytest.raises(ValueError, match=r"valence: expected values in \[-1, 1\].*got 7 \(2 of 4 rows: 1, 3\)"):
        affect_points([0, 7, 0, -9], [0, 0, 0, 0])
    with pytest.raises(ValueError, match=r"arousal: .*got -2\.1"):
        affect_points([0.0], [-2.1])
    with pytest.raises(ValueError, match=r"\(8 of 8 rows: 0, 1, 2, 3, 4, \.\.\.\)"):
        affect_points([3.0] * 8, [0.0] * 8)
    with pytest.raises(ValueError, match=r"arousal: expected shape \(2,\)"):
        affect_points([0.1, 0.2], [0.1])


def test_valence_and_arousal_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="expected valence and arousal that differ"):
        affect_points([0.1] * 4, [0.2] * 4)
    with pytest.raises(ValueError, match="expected valence and arousal in at least one row"):
        affect_points([-2.0] * 4, [-2.0] * 4)
    with pytest.warns(UserWarning, match="arousal"):
        affect_points([0.1, 0.2], [0.3, 0.3])
    assert known_affect([0.1] * 4, [0.2] * 4).shape == (4, 2)
