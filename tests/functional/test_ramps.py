"""The ramps' ends, and numbers and tensors alike."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ferkit.functional import ramp_down, ramp_up

EPOCHS = st.floats(0, 100, allow_subnormal=False)


@given(epoch=EPOCHS, beta=EPOCHS, form=st.sampled_from(["paper", "released"]))
def test_numbers_and_tensors_agree_and_stay_in_range(epoch, beta, form):
    as_tensor = torch.tensor([epoch], dtype=torch.float64)
    for number, tensor in (
        (ramp_up(epoch, beta, form), ramp_up(as_tensor, beta, form)),
        (ramp_down(epoch, beta), ramp_down(as_tensor, beta)),
    ):
        assert isinstance(number, float)
        assert math.exp(-5) <= number <= 1
        assert tensor.shape == (1,)
        assert tensor.item() == pytest.approx(number, rel=1e-12)


@given(first=EPOCHS, second=EPOCHS, beta=EPOCHS)
def test_up_goes_up_and_down_goes_down(first, second, beta):
    early, late = sorted((first, second))
    assert ramp_up(early, beta) <= ramp_up(late, beta)
    assert ramp_down(early, beta) >= ramp_down(late, beta)


def test_ends():
    assert ramp_up(0, 6) == pytest.approx(math.exp(-1))
    assert ramp_up(0, 6, form="released") == pytest.approx(math.exp(-5))
    assert ramp_up(6, 6) == ramp_up(60, 6) == ramp_down(0, 6) == ramp_down(6, 6) == 1.0
    assert ramp_down(1e9, 6) == pytest.approx(math.exp(-1), rel=1e-6)


def test_without_a_ramp():
    assert ramp_up(0, 0) == ramp_up(5, 0) == ramp_down(0, 0) == 1.0
    assert ramp_down(5, 0) == pytest.approx(math.exp(-1))
    epochs = torch.tensor([0, 5])
    assert torch.equal(ramp_up(epochs, 0), torch.ones(2))
    torch.testing.assert_close(ramp_down(epochs, 0), torch.tensor([1.0, math.exp(-1)]))
