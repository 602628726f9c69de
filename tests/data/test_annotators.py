"""The rendered faces' annotators: their errors, their streams, and the truth that they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ferkit.data import SyntheticFaces
from ferkit.data.synthetic import CLASSES
from ferkit.data.synthetic.annotators import CONFUSIONS, annotators, confusion_matrix, noisy_affect
from ferkit.functional import concordance

ERRORS = {"annotator1": 0.30, "annotator2": 0.40}


@pytest.fixture(scope="module", params=(7, 8))
def faces(request: pytest.FixtureRequest) -> SyntheticFaces:
    return SyntheticFaces(2000, 32, seed=5, num_classes=request.param)


@pytest.mark.parametrize("name", CONFUSIONS)
@pytest.mark.parametrize("count", (7, 8))
def test_rows_are_distributions_in_which_the_truth_leads(name: str, count: int) -> None:
    assert set(CONFUSIONS[name]) == set(CLASSES)
    for row in CONFUSIONS[name].values():
        assert set(row) < set(CLASSES)
    matrix = confusion_matrix(name, CLASSES[:count])
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=0, atol=1e-12)
    assert (matrix >= 0).all() and (matrix.argmax(1) == np.arange(count)).all()


def test_errors_are_as_large_as_said_and_structured(faces: SyntheticFaces) -> None:
    labels, truth = annotators(faces), faces.true_labels
    assert list(labels) == list(CONFUSIONS)
    for name, given in labels.items():
        assert given.dtype == torch.int64 and abs(float((given != truth).double().mean()) - ERRORS[name]) < 0.04
        found = np.zeros((len(faces.classes),) * 2)
        np.add.at(found, (truth.numpy(), given.numpy()), 1)
        rows = found.sum(1, keepdims=True)
        wanted = confusion_matrix(name, faces.classes)
        assert (found[wanted == 0] == 0).all()
        # Four standard deviations of a share.
        assert (np.abs(found / rows - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / rows) + 1e-12).all()


def test_annotators_err_apart(faces: SyntheticFaces) -> None:
    first, second = (labels != faces.true_labels for labels in annotators(faces).values())
    # Independent streams: both err about as often as the product, within a class.
    for label in range(len(faces.classes)):
        group = faces.true_labels == label
        product = float(first[group].double().mean() * second[group].double().mean())
        assert abs(float((first & second)[group].double().mean()) - product) < 0.1


def test_a_label_depends_on_seed_and_index_alone() -> None:
    many, few = SyntheticFaces(40, 32, seed=9), SyntheticFaces(15, 48, seed=9)
    replaced = few.with_labels(torch.zeros(15, dtype=torch.int64))
    for made in (annotators, noisy_affect):
        for name, values in made(many).items():
            assert torch.equal(values[:15], made(few)[name]) and torch.equal(made(replaced)[name], made(few)[name])
    other = annotators(SyntheticFaces(40, 32, seed=10))
    assert not torch.equal(other["annotator1"], annotators(many)["annotator1"])


def test_the_faces_own_values_and_the_global_generators_stay() -> None:
    faces = SyntheticFaces(10, 32, seed=9)
    kept = [faces.valence.clone(), faces.votes.clone(), faces.true_labels.clone()]
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    annotators(faces), noisy_affect(faces)
    assert all(map(torch.equal, kept, [faces.valence, faces.votes, faces.true_labels]))
    assert np.array_equal(np.random.get_state()[1], numpy_state) and torch.equal(torch.get_rng_state(), torch_state)


def pair(values: dict[str, Tensor]) -> Tensor:
    return torch.stack([values["valence"], values["arousal"]], 1).double()


def test_affect_is_worse_than_the_detector_s_but_not_useless(faces: SyntheticFaces) -> None:
    noisy = noisy_affect(faces)
    assert all(value.dtype == torch.float32 and bool((value.abs() <= 1).all()) for value in noisy.values())
    exact = pair({"valence": faces.valence_exact, "arousal": faces.arousal_exact})
    reported = pair({"valence": faces.valence, "arousal": faces.arousal})
    found = concordance(pair(noisy), exact)
    assert (found < concordance(reported, exact)).all()
    assert 0.5 < float(found.mean()) < 0.7


def test_no_face_has_no_label() -> None:
    empty = SyntheticFaces(0)
    assert annotators(empty)["annotator2"].shape == (0,) and noisy_affect(empty)["arousal"].shape == (0,)
