"""Messages of the argument checks: name, expected, got."""

import math
import re

import pytest
import torch

from ferkit import checks


def refuses(error, message):
    return pytest.raises(error, match="^" + re.escape(message))


def test_tensor_kinds():
    tensor = torch.zeros(2)
    assert checks.check_tensor(tensor, "x") is tensor
    assert checks.check_floating(tensor, "x") is tensor
    with refuses(TypeError, "x: expected a torch.Tensor, got list"):
        checks.check_tensor([1.0], "x")
    with refuses(TypeError, "x: expected a floating-point tensor, got dtype torch.int64"):
        checks.check_floating(torch.zeros(2, dtype=torch.int64), "x")
    with refuses(TypeError, "x: expected a floating-point tensor, got dtype torch.complex64"):
        checks.check_floating(torch.zeros(2, dtype=torch.complex64), "x")


@pytest.mark.parametrize(
    "shape, wanted, text",
    [
        ((3, 5), ("N", 7), "(N, 7), got (3, 5)"),
        ((3,), ("N", "D"), "(N, D), got (3,)"),
        ((3, 1), (3,), "(3,), got (3, 1)"),
    ],
)
def test_shapes(shape, wanted, text):
    checks.check_shape(torch.zeros(*shape), "x", shape)
    checks.check_shape(torch.zeros(*shape), "x", ["A"] * len(shape))
    with refuses(ValueError, f"x: expected shape {text}"):
        checks.check_shape(torch.zeros(*shape), "x", wanted)


def test_devices():
    here, there = torch.zeros(1), torch.zeros(1, device="meta")
    checks.check_device(here, a=here, b=None)
    with refuses(ValueError, "b: expected device cpu, got meta"):
        checks.check_device(here, a=here, b=there)


def test_labels():
    labels = torch.tensor([0, 2, -1])
    assert checks.check_labels(labels, 3, 3) is labels
    with refuses(TypeError, "y: expected dtype torch.int64, got torch.float32"):
        checks.check_labels(labels.float(), 3, name="y")
    with refuses(ValueError, "labels: expected shape (4,), got (3,)"):
        checks.check_labels(labels, 4)
    with refuses(ValueError, "labels: expected values in 0..1 or -1 (unlabelled), got -1..2"):
        checks.check_labels(labels, 3, 2)
    with refuses(ValueError, "labels: expected values in 0..2 or -1 (unlabelled), got -3..1"):
        checks.check_labels(labels - 2 + (labels == 2), 3, 3)


def test_label_range_tells_whether_every_label_is_there():
    assert checks.check_label_range(torch.tensor([0, 1]), 2) is True
    assert checks.check_label_range(torch.tensor([0, -1]), 2) is False
    assert checks.check_label_range(torch.zeros(0, dtype=torch.int64), 2) is True
    assert checks.check_label_range(torch.zeros(2, dtype=torch.int64, device="meta"), 1) is False
    with torch._subclasses.FakeTensorMode():
        assert checks.check_label_range(torch.full((2,), 9), 2) is False


def test_choice():
    assert checks.check_choice("a", "x", ("a", "b")) == "a"
    with refuses(ValueError, "x: expected one of 'a', 'b', got None"):
        checks.check_choice(None, "x", ("a", "b"))


@pytest.mark.parametrize("value", [True, "1", None, 1 + 0j])
def test_numbers_are_numbers(value):
    with refuses(TypeError, f"x: expected a number, got {value!r}"):
        checks.check_number(value, "x")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5, 2.5, 0])
def test_numbers_are_in_range(value):
    with refuses(ValueError, f"x: expected a value in (0, 2], got {value!r}"):
        checks.check_number(value, "x", 0, 2, open_low=True)


@pytest.mark.parametrize("value", [2, -0.5])
def test_an_open_upper_end_is_out_of_range(value):
    with refuses(ValueError, f"x: expected a value in [0, 2), got {value!r}"):
        checks.check_number(value, "x", 0, 2, open_high=True)
    checks.check_number(1.999, "x", 0, 2, open_high=True)


def test_numbers_accepted():
    checks.check_number(2, "x", 0, 2, integer=True)
    checks.check_number(0, "x", 0, 2)
    checks.check_number(1e-9, "x", 0, 2, open_low=True)
    with refuses(TypeError, "x: expected an integer, got 1.0"):
        checks.check_number(1.0, "x", integer=True)


def test_unit_interval_and_indices():
    checks.check_unit_interval(torch.tensor([0.0, 1.0, torch.nan]), "x")
    checks.check_unit_interval(torch.zeros(0), "x")
    with refuses(ValueError, "x: expected values in [0, 1], got 0.5..1.5"):
        checks.check_unit_interval(torch.tensor([0.5, 1.5]), "x")
    checks.check_index_range(torch.tensor([0, 2]), 3, "x")
    checks.check_index_range(torch.tensor([-1, 2]), 3, "x", missing=True)
    checks.check_index_range(torch.zeros(0, dtype=torch.int64), 0, "x")
    with refuses(ValueError, "x: expected values in 0..2, got -1..2"):
        checks.check_index_range(torch.tensor([-1, 2]), 3, "x")
    with refuses(ValueError, "x: expected values in 0..2 or -1 (none), got -1..3"):
        checks.check_index_range(torch.tensor([-1, 3]), 3, "x", missing=True)
