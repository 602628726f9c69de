"""SyntheticFaces: a pure function of (seed, index), and what it says of its faces holds."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from ferkit.data.synthetic import ACTION_UNITS, CLASSES, SyntheticFaces

TABLES = (
    "labels",
    "true_labels",
    "distributions",
    "votes",
    "action_units",
    "action_units_exact",
    "landmarks",
    "landmarks_exact",
    "valence",
    "valence_exact",
    "arousal",
    "arousal_exact",
)


@pytest.fixture(scope="module")
def faces() -> SyntheticFaces:
    return SyntheticFaces(600, size=48, seed=7)


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    short, long = SyntheticFaces(5, seed=3), SyntheticFaces(9, seed=3)
    backwards = [long[index]["image"] for index in reversed(range(9))][::-1]
    # The global generators must play no part.
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    forwards = [short[index]["image"] for index in range(5)]
    for index in range(5):
        assert torch.equal(forwards[index], backwards[index])
    for name in TABLES:
        assert torch.equal(getattr(short, name), getattr(long, name)[:5]), name


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    SyntheticFaces(2, seed=0).render()
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_seeds_differ() -> None:
    first, second = SyntheticFaces(4, seed=0), SyntheticFaces(4, seed=1)
    assert not torch.equal(first.action_units_exact, second.action_units_exact)
    assert not torch.equal(first.images, second.images)


def test_size_changes_pixels_only() -> None:
    small, large = SyntheticFaces(6, size=32, seed=2), SyntheticFaces(6, size=96, seed=2)
    for name in ("labels", "distributions", "votes", "action_units", "valence"):
        assert torch.equal(getattr(small, name), getattr(large, name)), name
    # Pixel centres are whole numbers, so coordinates scale about half a pixel outside the corner.
    torch.testing.assert_close((small.landmarks_exact + 0.5) * 3 - 0.5, large.landmarks_exact, atol=1e-3, rtol=0)
    # Averaged down, the large picture is the small one, but for sensor noise and edges.
    down = torch.nn.functional.avg_pool2d(large.images.float(), 3)
    assert (down - small.images.float()).abs().mean() < 14


@pytest.mark.parametrize("size", [24, 32, 33, 48, 224])
def test_sizes(size: int) -> None:
    image = SyntheticFaces(1, size=size, seed=1)[0]["image"]
    assert image.shape == (3, size, size) and image.dtype == torch.uint8
    assert image.float().std() > 10


def test_ranges(faces: SyntheticFaces) -> None:
    n, c = 600, 7
    assert len(faces) == n and faces.classes == CLASSES[:7]
    assert faces.distributions.shape == (n, c) and faces.distributions.dtype == torch.float32
    torch.testing.assert_close(faces.distributions.sum(1), torch.ones(n))
    assert faces.distributions.min() > 0
    assert faces.votes.dtype == torch.int64 and bool((faces.votes.sum(1) == 10).all())
    assert faces.labels.dtype == torch.int64
    for units in (faces.action_units, faces.action_units_exact):
        assert units.shape == (n, len(ACTION_UNITS)) and units.min() >= 0 and units.max() <= 5
    for points in (faces.landmarks, faces.landmarks_exact):
        assert points.shape == (n, 68, 2) and points.dtype == torch.float32
    assert faces.landmarks.min() >= 0 and faces.landmarks.max() <= 47
    inside = ((faces.landmarks_exact >= -2) & (faces.landmarks_exact <= 49)).all(2)
    assert inside[:, 17:].float().mean() > 0.995 and inside.float().mean() > 0.97
    for value in (faces.valence, faces.valence_exact, faces.arousal, faces.arousal_exact):
        assert value.shape == (n,) and value.abs().max() <= 1


@pytest.mark.parametrize("num_classes", [7, 8])
def test_every_class_is_present(num_classes: int) -> None:
    faces = SyntheticFaces(800, size=24, seed=11, num_classes=num_classes)
    share = torch.bincount(faces.labels, minlength=num_classes) / 800
    assert share.min() > 0.05 and share.max() < 0.30


def test_labels_are_the_majority_and_ties_go_to_the_larger_share(faces: SyntheticFaces) -> None:
    ties = 0
    for votes, shares, label in zip(faces.votes.tolist(), faces.distributions.tolist(), faces.labels.tolist()):
        best = [k for k in range(7) if votes[k] == max(votes)]
        ties += len(best) > 1
        assert label == max(best, key=lambda k: shares[k])
    assert ties > 0


def test_votes_follow_the_distribution(faces: SyntheticFaces) -> None:
    # Mean of 6000 ballots: three standard errors are below 0.02 for every class.
    torch.testing.assert_close(
        faces.votes.double().mean(0) / 10, faces.distributions.double().mean(0), atol=0.02, rtol=0
    )
    residual = faces.votes / 10 - faces.distributions
    spread = (faces.distributions * (1 - faces.distributions) / 10).mean().sqrt()
    assert 0.9 < residual.square().mean().sqrt() / spread < 1.1


def test_ambiguous_and_clear_faces_are_both_there(faces: SyntheticFaces) -> None:
    top = faces.distributions.max(1).values
    assert (top > 0.9).float().mean() > 0.15 and (top < 0.5).float().mean() > 0.1


def test_detector_errs_but_follows_the_truth(faces: SyntheticFaces) -> None:
    zero = (faces.action_units == 0).float().mean()
    assert 0.4 < zero < 0.75
    assert (faces.action_units == 5).any()
    present = faces.action_units_exact > 2
    missed = (faces.action_units[present] == 0).float().mean()
    assert 0.02 < missed < 0.3
    for position, code in enumerate(ACTION_UNITS):
        if code != 14:  # without contempt nobody dimples
            pair = torch.stack([faces.action_units[:, position], faces.action_units_exact[:, position]])
            assert 0.55 < torch.corrcoef(pair)[0, 1] < 0.99, code
    for name in ("valence", "arousal"):
        pair = torch.stack([getattr(faces, name), getattr(faces, name + "_exact")])
        assert 0.6 < torch.corrcoef(pair)[0, 1] < 0.99
    error = (faces.landmarks - faces.landmarks_exact).norm(dim=2).mean(1)
    assert 0.2 < error.median() < 2.0 and error.max() > 3 * error.median()


def test_valence_tells_happy_from_sad(faces: SyntheticFaces) -> None:
    happy, sad = (faces.valence_exact[faces.labels == k].mean() for k in (1, 2))
    assert happy > 0.3 and sad < -0.2
    surprise = faces.arousal_exact[faces.labels == 3].mean()
    assert surprise > faces.arousal_exact[faces.labels == 2].mean() + 0.3


def test_with_labels(faces: SyntheticFaces) -> None:
    labels = faces.labels.clone()
    labels[:3] = torch.tensor([-1, 0, 6])
    other = faces.with_labels(labels)
    assert torch.equal(other.labels, labels) and torch.equal(other.true_labels, faces.true_labels)
    assert torch.equal(faces.labels, faces.true_labels)
    assert other[0]["label"] == -1 and torch.equal(other[2]["image"], faces[2]["image"])
    labels[0] = 5
    assert other[0]["label"] == -1
    with pytest.raises(ValueError, match="labels"):
        faces.with_labels(labels[:5])
    with pytest.raises(ValueError, match="labels"):
        faces.with_labels(torch.full((600,), 7))
    with pytest.raises(TypeError, match="labels"):
        faces.with_labels(labels.float())


def test_items_are_the_callers_own() -> None:
    faces = SyntheticFaces(2, seed=4)
    first = faces[0]["image"]
    kept = first.clone()
    first.zero_()
    assert torch.equal(faces[0]["image"], kept)
    assert faces[-1]["index"] == 1
    with pytest.raises(IndexError):
        faces[2]


def test_progress_renders_up_front() -> None:
    calls: list[tuple[int, int]] = []
    faces = SyntheticFaces(3, seed=0, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(faces.images, SyntheticFaces(3, seed=0).images)


def test_workers_see_the_same_faces() -> None:
    faces = SyntheticFaces(4, size=24, seed=6)
    loaded = torch.cat([batch["image"] for batch in torch.utils.data.DataLoader(faces, batch_size=1, num_workers=2)])
    assert torch.equal(loaded, faces.images)


def test_no_faces() -> None:
    faces = SyntheticFaces(0)
    assert len(faces) == 0 and faces.labels.shape == (0,) and faces.images.shape == (0, 3, 48, 48)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"n": -1}, ValueError, "n"),
        ({"n": 2.0}, TypeError, "n"),
        ({"n": 1, "size": 8}, ValueError, "size"),
        ({"n": 1, "size": 1000}, ValueError, "size"),
        ({"n": 1, "seed": -3}, ValueError, "seed"),
        ({"n": 1, "num_classes": 6}, ValueError, "num_classes"),
        ({"n": 1, "num_classes": "7"}, TypeError, "num_classes"),
        ({"n": 1, "progress": 3}, TypeError, "progress"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=f"^{name}: expected"):
        SyntheticFaces(**arguments)  # type: ignore[arg-type]
