"""kth_smallest, by which the inverted file chooses cells and bounds, against a sorted row."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ferkit import ops
from ferkit.functional import force_backend
from ferkit.graph import _cells
from ferkit.ops import _native

pytestmark = pytest.mark.skipif(_native.why_not("cpu") is not None, reason=str(_native.why_not("cpu")))


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(0, 4), st.integers(1, 70)),
        elements=st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45])),
    ),
    st.data(),
)
def test_the_number_at_its_place_in_the_sorted_row(values, data):
    k = data.draw(st.integers(1, values.shape[1]))
    expected = np.sort(values, axis=1)[:, k - 1]
    assert ops.native("kth_smallest")(torch.from_numpy(values), k).tolist() == expected.tolist()
    with force_backend("eager"):
        assert _cells.kth_smallest(torch.from_numpy(values), k).tolist() == expected.tolist()


@pytest.mark.parametrize("width", [1, 15, 16, 17, 160, 1024])
def test_many_rows(width):
    values = torch.randn(300, width, generator=torch.Generator().manual_seed(width))
    for k in {1, (width + 1) // 2, width}:
        assert torch.equal(ops.native("kth_smallest")(values, k), values.kthvalue(k, dim=1).values)


@pytest.mark.parametrize("level", [3, 0])
def test_the_same_in_every_instruction_set(level):
    environment = os.environ | {"FERKIT_CPU_LEVEL": str(level)}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == drawn()


def test_what_cannot_be():
    run = ops.native("kth_smallest")
    for k in (0, 4):
        with pytest.raises(RuntimeError, match="k: expected from 1 to 3"):
            run(torch.zeros(2, 3), k)
    with pytest.raises(RuntimeError, match=r"values: expected dtype torch\.float32"):
        run(torch.zeros(2, 3, dtype=torch.float64), 1)
    with pytest.raises(RuntimeError, match="values: expected contiguous rows"):
        run(torch.zeros(2, 6)[:, ::2], 1)


def drawn():
    values = torch.randn(50, 45, generator=torch.Generator().manual_seed(0))
    return [str(number) for number in ops.native("kth_smallest")(values, 9).tolist()]


if __name__ == "__main__":
    print(*drawn())
