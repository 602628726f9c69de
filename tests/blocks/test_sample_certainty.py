"""SampleCertainty and RowSGD: rows of the batch only, and scalars that stay with their images."""

import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ferkit.functional as ff
from ferkit.blocks import RowSGD, SampleCertainty

GOLDENS = Path(__file__).parents[1] / "goldens"
IDS = ["ä/1.png", "b\n2.png", "c,3.png", "4"]


def filled(ids=IDS):
    table = SampleCertainty(len(ids), ids=ids)
    table.logit.data.copy_(torch.tensor([float(sum(map(ord, str(name)))) for name in ids]))
    return table


def test_values_and_gradients_are_those_of_the_rows():
    table = SampleCertainty(5)
    assert table.logit.tolist() == [0.5] * 5
    index = torch.tensor([3, 1, 3])
    value = table(index)
    torch.testing.assert_close(value, torch.full((3,), 1 / (1 + math.exp(-0.5))))
    (value * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    slope = value[0].item() * (1 - value[0].item())
    torch.testing.assert_close(table.logit.grad, slope * torch.tensor([0.0, 2.0, 0.0, 5.0, 0.0]))
    assert table(torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert SampleCertainty(0)(torch.zeros(0, dtype=torch.int64)).shape == (0,)
    torch.testing.assert_close(SampleCertainty(1, 0.8)(torch.tensor([0])), torch.tensor([0.6900]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, RowSGD])
def test_golden_step(optimiser):
    with np.load(GOLDENS / "ldlva_target.npz") as archive:
        data = {name: torch.from_numpy(archive[name]) for name in archive.files if archive[name].ndim}
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:10]
    table = SampleCertainty(20).double()
    table.logit.data[order] = data["lambda_hat"][:, 0]
    before = table.logit.detach().clone()
    contribution = data["knn_weights"] * data["calibration"]
    near = data["neighbor_logits"].softmax(2)
    target = ff.va_target_distribution(data["labels"], table(order), near, contribution)
    step = optimiser(table.parameters(), lr=10)
    options = {"divergence": "cross-entropy", "eps": 1e-10}
    ff.label_distribution_loss(data["center_logits"], target, **options).backward()
    step.step()
    torch.testing.assert_close(table.logit[order], data["lambda_hat_after_sgd_lr10"][:, 0], rtol=1e-9, atol=1e-12)
    others = torch.ones(20, dtype=torch.bool).index_fill(0, order, False)
    assert torch.equal(table.logit[others], before[others])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), momentum=st.sampled_from([0.0, 0.5, 0.9]))
def test_row_sgd_moves_the_rows_of_the_batch_only(seed, momentum):
    generator = torch.Generator().manual_seed(seed)
    table = SampleCertainty(6).double()
    step = RowSGD(table.parameters(), lr=2.0, momentum=momentum)
    values, velocity = [0.5] * 6, [0.0] * 6
    for _ in range(5):
        rows = torch.randperm(6, generator=generator)[:3]
        slopes = torch.randn(3, generator=generator, dtype=torch.float64)
        step.zero_grad()
        (table(rows) * slopes).sum().backward()
        step.step()
        for row, slope in zip(rows.tolist(), slopes.tolist()):
            certainty = 1 / (1 + math.exp(-values[row]))
            velocity[row] = momentum * velocity[row] + slope * certainty * (1 - certainty)
            values[row] -= 2.0 * velocity[row]
        torch.testing.assert_close(table.logit.tolist(), values, rtol=1e-12, atol=1e-12)


def test_row_sgd_resumes_and_plain_momentum_would_move_other_rows():
    def train(table, step, batches):
        for rows in batches:
            step.zero_grad()
            table(torch.tensor(rows)).sum().backward()
            step.step()

    whole = SampleCertainty(4)
    step = RowSGD(whole.parameters(), lr=1.0, momentum=0.9)
    train(whole, step, [[0, 1], [1, 2], [0]])
    first, again = SampleCertainty(4), SampleCertainty(4)
    before = RowSGD(first.parameters(), lr=1.0, momentum=0.9)
    train(first, before, [[0, 1], [1, 2]])
    again.load_state_dict(first.state_dict())
    after = RowSGD(again.parameters(), lr=1.0, momentum=0.9)
    after.load_state_dict(before.state_dict())
    train(again, after, [[0]])
    assert torch.equal(again.logit, whole.logit)
    plain = SampleCertainty(4)
    train(plain, torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9), [[0, 1], [1, 2], [0]])
    assert plain.logit[2] != whole.logit[2]
    assert RowSGD(plain.parameters()).step(lambda: 7) == 7


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_a_checkpoint_is_loaded_by_name(order):
    saved = filled()
    stored = io.BytesIO()
    torch.save(saved.state_dict(), stored)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    copies = {name: value.clone() for name, value in state.items()}
    table = SampleCertainty(4, ids=[IDS[row] for row in order])
    table.load_state_dict(state)
    assert torch.equal(table.logit, saved.logit[order])
    assert all(torch.equal(value, copies[name]) for name, value in state.items())
    inside = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2), "certainty": saved})
    outside = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2), "certainty": SampleCertainty(4, ids=table.ids)})
    outside.load_state_dict(inside.state_dict())
    assert torch.equal(outside["certainty"].logit, table.logit)


def test_integers_are_names_too():
    table = SampleCertainty(3, ids=np.array([7, 5, 9]))
    table.logit.data.copy_(torch.tensor([7.0, 5.0, 9.0]))
    again = SampleCertainty(3, ids=["9", "7", "5"])
    again.load_state_dict(table.state_dict())
    assert again.logit.tolist() == [9.0, 7.0, 5.0]


def test_other_images_are_refused_by_name_or_left_as_they_are():
    saved = filled()
    table = SampleCertainty(3, ids=[IDS[2], "new.png", IDS[0]])
    with pytest.raises(RuntimeError) as refusal:
        table.load_state_dict(saved.state_dict())
    assert """Missing key(s) in state_dict: "logit of 1 images by id: 'new.png'".""" in str(refusal.value)
    assert "Unexpected key(s) in state_dict: \"logit of 2 images by id: 'b\\n2.png', '4'\"" in str(refusal.value)
    table.logit.data.fill_(0.5)
    table.load_state_dict(saved.state_dict(), strict=False)
    assert table.logit.tolist() == [saved.logit[2].item(), 0.5, saved.logit[0].item()]
    nothing = SampleCertainty(2, ids=["x", "y"])
    nothing.load_state_dict(saved.state_dict(), strict=False)
    assert nothing.logit.tolist() == [0.5, 0.5]


def test_tables_without_names():
    plain = SampleCertainty(4)
    plain.logit.data.copy_(torch.arange(4.0))
    again = SampleCertainty(4)
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again.logit, plain.logit) and again.ids is None
    with pytest.raises(RuntimeError, match="logit: expected a state dict with ids, as this table has, got none"):
        SampleCertainty(4, ids=IDS).load_state_dict(plain.state_dict())
    again.load_state_dict(filled().state_dict())
    assert again.ids == IDS and torch.equal(again.logit, filled().logit)
    with pytest.raises(RuntimeError, match="size mismatch"):
        SampleCertainty(3).load_state_dict(filled().state_dict())


def test_repr_and_state():
    assert repr(filled()) == "SampleCertainty(num_samples=4, init=0.5, ids=yes)"
    state = filled().state_dict()
    assert state["_extra_state"].dtype == torch.uint8
    assert [name for name, _ in filled().named_parameters()] == ["logit"]


def test_compiles_whole():
    torch._dynamo.reset()
    table = filled()
    compiled = torch.compile(table, backend="aot_eager", fullgraph=True, dynamic=True)
    for index in (torch.tensor([0, 3]), torch.tensor([1, 1, 2])):
        assert torch.equal(compiled(index), table(index))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: SampleCertainty(-1), ValueError, "num_samples: expected a value in [0, inf], got -1"),
        (lambda: SampleCertainty(2, math.inf), ValueError, "init: expected a value in"),
        (lambda: SampleCertainty(2, ids=["a"]), ValueError, "ids: expected 2 ids, one per sample, got 1"),
        (lambda: SampleCertainty(2, ids=["a", "a"]), ValueError, "ids: expected every id once, got 'a' more than once"),
        (lambda: SampleCertainty(2, ids="ab"), TypeError, "ids: expected a sequence of strings or integers, got str"),
        (lambda: SampleCertainty(2)(torch.tensor([2])), ValueError, "index: expected values in 0..1, got 2..2"),
        (lambda: SampleCertainty(2)(torch.tensor([-1])), ValueError, "index: expected values in 0..1, got -1..-1"),
        (lambda: SampleCertainty(2)(torch.tensor([0.0])), TypeError, "index: expected dtype torch.int64"),
        (lambda: SampleCertainty(2)(torch.tensor(0)), ValueError, "index: expected shape (B,), got ()"),
        (lambda: RowSGD(SampleCertainty(2).parameters(), -1.0), ValueError, "lr: expected a value in [0.0, inf]"),
        (lambda: RowSGD(SampleCertainty(2).parameters(), 1.0, 1.5), ValueError, "momentum: expected a value in"),
        (lambda: RowSGD(SampleCertainty(2).parameters(), 1.0, 1.0), ValueError, "momentum: expected a value in [0, 1)"),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_positions_that_are_not_there_in_a_compiled_region():
    found = torch.compile(SampleCertainty(3), backend="aot_eager")(torch.tensor([7, -4, 1]))
    assert found.isnan().tolist() == [True, True, False]
