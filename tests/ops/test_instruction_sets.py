"""The native CPU kernels of every instruction set this CPU has, each in a process of its own, against float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ferkit import ops
from ferkit.ops import _native, _select


def every_op(dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
    """Values and gradients of every op: whole vectors and not, rows shorter and longer than one, absent rows."""
    torch.manual_seed(0)
    found: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor, *leaves: Tensor) -> None:
        upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).to(value).view_as(value)
        gradients = torch.autograd.grad(value, leaves, upstream)
        found.update({f"{name} {i}": result.detach().double() for i, result in enumerate((value, *gradients))})

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_()

    with _select.force(backend):
        for size, classes, width in ((72, 8, 64), (37, 7, 50), (5, 3, 7), (130, 19, 33)):
            labels = torch.randint(-1, classes, (size,))
            logits, scale, features = leaf(size, classes), leaf(size), leaf(size, width)
            shape = f"{size}x{classes}x{width}"
            for mean in (False, True):
                value = ops.scaled_cross_entropy(logits, scale, labels, mean=mean)
                keep(f"scaled_cross_entropy {shape} {mean}", value, logits, scale)
                neighbors, weight = leaf(size, 5, classes), torch.rand(size, 5, dtype=torch.float64).to(dtype)
                weight = torch.where(weight < 0.2, 0, weight).requires_grad_()
                value = ops.neighbor_divergence(logits, neighbors, weight, mean=mean)
                keep(f"neighbor_divergence {shape} {mean}", value, logits, neighbors, weight)
            for own in (False, True):
                value = ops.class_similarity(features, labels, classes, own)[0]
                keep(f"class_similarity {shape} {own}", value, features)
            prediction, target = leaf(size, 3), leaf(size, 3)
            present = (torch.rand(size, dtype=torch.float64) + 0.1).to(dtype)
            for name, given in (("", None), (" weighted", present)):
                value = ops.concordance(prediction, target, given)
                keep(f"concordance {shape}{name}", value, prediction, target)
            auxiliary, mask = leaf(3, size, width), torch.rand(3, size) < 0.8
            for form in ("gram", "factored"):
                for normalize in ("batch", "subset"):
                    value = ops.similarity_preserving(features, auxiliary, mask, normalize, form)
                    keep(f"similarity_preserving {shape} {form} {normalize}", value, features, auxiliary)
    return found


def level() -> int:
    return int(torch.ops.ferkit_native.cpu_level())


@pytest.mark.parametrize("name", list(_native.INSTRUCTION_SETS.values()))
def test_every_instruction_set_is_exact(name: str, tmp_path: Path) -> None:
    reason = _native.why_not("cpu")
    if reason is not None:
        pytest.skip(f"native: {reason}")
    asked = next(number for number, known in _native.INSTRUCTION_SETS.items() if known == name)
    if asked > level():
        pytest.skip(f"this CPU, or what ferkit was compiled with, has no {name}")
    out = tmp_path / "results.pt"
    environment = os.environ | {"FERKIT_CPU_LEVEL": str(asked)}
    subprocess.run([sys.executable, __file__, str(out)], check=True, env=environment)
    found = torch.load(out)
    assert found["level"] == asked
    exact = every_op(torch.float64, "eager")
    for dtype, relative in (("float32", 2e-4), ("float64", 1e-9)):
        assert found[dtype].keys() == exact.keys()
        for case, value in found[dtype].items():
            scale = exact[case].abs().max().clamp_min(1e-30)
            assert (value - exact[case]).abs().max() <= relative * scale, f"{case} in {dtype}"


if __name__ == "__main__":
    assert _native.why_not("cpu") is None
    results = {name: every_op(getattr(torch, name), "native") for name in ("float32", "float64")}
    torch.save({"level": level(), **results}, sys.argv[1])
