"""torch.compile of concordance: whole graph, one compilation for every batch of two or more."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ferkit.functional import concordance_loss


@pytest.mark.parametrize("weighted", [False, True])
def test_compiles_once(weighted):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(concordance_loss, fullgraph=True, dynamic=True, backend=counter)
    for size in (7, 40, 1500, 2):
        x, y = torch.randn(size, 2, requires_grad=True), torch.randn(size, 2)
        weight = torch.rand(size) if weighted else None
        got, want = compiled(x, y, weight), concordance_loss(x, y, weight)
        torch.testing.assert_close(got, want)
        for one, other in zip(torch.autograd.grad(got, x), torch.autograd.grad(want, x)):
            torch.testing.assert_close(one, other)
    assert counter.frame_count == 1
