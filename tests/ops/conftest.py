"""Every test that asks for `backend` runs once per backend of the CPU."""

from collections.abc import Iterator

import pytest
import torch

from ferkit.ops import _select


@pytest.fixture(params=["eager", "native"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    reason = _select.why_not("class_similarity", request.param)
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    with _select.force(request.param):
        yield request.param


@pytest.fixture
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN, and so does what the native kernels allocate: memory nobody wrote shows."""
    native = _select.why_not("class_similarity", "native") is None
    if native:
        torch.ops.ferkit_native.poison(True)
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    if native:
        torch.ops.ferkit_native.poison(False)
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]
