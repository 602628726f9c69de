"""Transition matrices: rows that sum to 1, whatever the optimiser has done, and confusions that can be learned."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferkit.blocks import TransitionMatrix
from ferkit.losses import TransitionCrossEntropy


@given(st.integers(0, 99), st.floats(0.0, 3.0))
@settings(max_examples=30, deadline=None)
def test_rows_are_distributions_after_any_step(seed, scale):
    table = TransitionMatrix(5, sources=3)
    with torch.no_grad():
        noise = torch.randn(table.weight.shape, generator=torch.Generator().manual_seed(seed))
        table.weight += scale * noise
    matrix = table()
    torch.testing.assert_close(matrix.sum(2), torch.ones(3, 5))
    assert (matrix > 0).all()
    table.project()
    torch.testing.assert_close(table.weight.detach(), matrix.detach())
    torch.testing.assert_close(table(), matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_lies_far_below_is_the_minimum_all_the_same(dtype):
    table = TransitionMatrix(3, minimum=1e-3).to(dtype)
    with torch.no_grad():
        table.weight.copy_(torch.tensor([[1.0, -300.0, -0.1], [-300.0, -300.0, -300.0], [0.0, 0.5, 0.5]]))
    matrix = table().float()
    assert 9e-4 < matrix[0, 1] == matrix[0, 2] < 1.1e-3
    torch.testing.assert_close(matrix[1], torch.full((3,), 1 / 3), rtol=1e-2, atol=0)


def test_start_and_shapes():
    assert TransitionMatrix(4)().shape == (4, 4)
    table = TransitionMatrix(4, 2, diagonal=0.7)
    torch.testing.assert_close(table()[1], 0.1 * torch.ones(4, 4) + 0.6 * torch.eye(4))
    torch.testing.assert_close(TransitionMatrix(4, diagonal=1.0)(), torch.eye(4), rtol=0, atol=1e-4)
    assert repr(table) == "TransitionMatrix(num_classes=4, sources=2, diagonal=0.7, minimum=1e-05)"


def test_an_entry_at_the_minimum_comes_back():
    table = TransitionMatrix(2, diagonal=1.0, minimum=1e-3)
    for _ in range(5):
        table.project()
        table()[0, 1].backward()
    assert table.weight.grad[0, 1] > 4.9


def test_confusions_are_learned_from_labels():
    """The network knows; the annotators' habits are found."""
    generator = torch.Generator().manual_seed(0)
    true = torch.tensor(
        [[[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.1, 0.1, 0.8]], [[1.0, 0, 0], [0.4, 0.6, 0], [0, 0, 1.0]]]
    )
    classes = torch.arange(3).repeat(2000)
    labels = torch.stack([matrix[classes].multinomial(1, generator=generator)[:, 0] for matrix in true], 1)
    logits = 12.0 * torch.nn.functional.one_hot(classes, 3)
    table = TransitionMatrix(3, 2, diagonal=0.9)
    optimizer, loss = torch.optim.SGD(table.parameters(), 0.05), TransitionCrossEntropy()
    for _ in range(300):
        optimizer.zero_grad()
        loss(logits, table(), labels).backward()
        optimizer.step()
        table.project()
    torch.testing.assert_close(table().detach(), true, rtol=0, atol=0.04)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": 1}, "num_classes: expected a value in"),
        ({"num_classes": 3, "sources": 0}, "sources: expected a value in"),
        ({"num_classes": 3, "diagonal": 0.0}, "diagonal: expected a value in"),
        ({"num_classes": 3, "minimum": 0.5}, "minimum: expected a value in"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransitionMatrix(**arguments)
