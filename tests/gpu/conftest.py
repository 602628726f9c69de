"""What the GPU tests share: one Problem per op, the backends of the GPU, and the skip where there is none.

Needs torch, triton, numpy and pytest alone. The oracle is the eager kernel in float64 on the CPU, which the other
tests hold against loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ferkit import ops
from ferkit.ops import _select

HERE = Path(__file__).parent
CUDA = torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in Path(str(item.fspath)).parents:
            item.add_marker(pytest.mark.gpu)
            if not CUDA:
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))


@dataclass(frozen=True)
class Problem:
    """An op with the sizes it is tested at: ``make(rows)`` gives float64 CPU arguments, those with a gradient first."""

    op: str
    make: Callable[[int], tuple[Tensor, ...]]
    call: Callable[..., Tensor]
    leaves: int  # how many of the arguments get a gradient
    scale: float = 1.0  # of the upstream gradient: keeps float16 gradients above its smallest numbers


def _features(rows: int, width: int = 40, branches: int = 3) -> tuple[Tensor, ...]:
    return torch.randn(rows, width).double(), torch.randn(branches, rows, width).double()


def _labels(rows: int, classes: int) -> Tensor:
    labels = torch.arange(rows) % (classes + 1) - 1
    return labels[torch.randperm(rows)]


def _mask(rows: int, branches: int = 3) -> Tensor:
    return (torch.arange(rows) % (branches + 1)) != torch.arange(branches)[:, None]


def _preserving(form: str, normalize: str = "batch") -> Callable[..., Tensor]:
    return lambda target, auxiliary, mask: ops.similarity_preserving(target, auxiliary, mask, normalize, form)


def _entropy(mean: bool) -> Callable[..., Tensor]:
    return lambda logits, scale, labels: ops.scaled_cross_entropy(logits, scale, labels, mean)


def _one_class(features: Tensor, labels: Tensor) -> Tensor:
    return ops.class_similarity(features, labels, 5, False)[0]


PROBLEMS = {
    "class_similarity": Problem(
        "class_similarity",
        lambda rows: (torch.randn(rows, 40).double(), _labels(rows, 5)),
        lambda features, labels: ops.class_similarity(features, labels, 5)[0],
        1,
    ),
    "class_similarity without self": Problem(
        "class_similarity", lambda rows: (torch.randn(rows, 512).double(), _labels(rows, 5)), _one_class, 1
    ),
    "similarity_preserving gram": Problem(
        "similarity_preserving", lambda rows: (*_features(rows), _mask(rows)), _preserving("gram"), 2, 4096.0
    ),
    "similarity_preserving subset": Problem(
        "similarity_preserving", lambda rows: (*_features(rows), _mask(rows)), _preserving("gram", "subset"), 2, 4096.0
    ),
    "similarity_preserving factored": Problem(
        "similarity_preserving", lambda rows: (*_features(rows), _mask(rows)), _preserving("factored"), 2, 4096.0
    ),
    "scaled_cross_entropy": Problem(
        "scaled_cross_entropy",
        lambda rows: (torch.randn(rows, 8).double(), torch.rand(rows).double(), _labels(rows, 8)),
        _entropy(False),
        2,
    ),
    "scaled_cross_entropy mean": Problem(
        "scaled_cross_entropy",
        lambda rows: (torch.randn(rows, 8).double(), torch.rand(rows).double(), _labels(rows, 8)),
        _entropy(True),
        2,
        256.0,
    ),
    "concordance": Problem(
        "concordance",
        lambda rows: (torch.rand(rows, 2).double(), torch.rand(rows, 2).double()),
        lambda prediction, target: ops.concordance(prediction, target, loss=True, mean=True),
        2,
        256.0,
    ),
    "concordance weighted": Problem(
        "concordance",
        lambda rows: (torch.rand(rows, 3).double() + 4, torch.rand(rows, 3).double() + 4, torch.rand(rows).double()),
        ops.concordance,
        2,
        256.0,
    ),
    "neighbor_divergence": Problem(
        "neighbor_divergence",
        lambda rows: (torch.randn(rows, 7).double(), torch.randn(rows, 8, 7).double(), torch.rand(rows, 8).double()),
        ops.neighbor_divergence,
        3,
    ),
}


@dataclass(frozen=True)
class Tools:
    """Functions the tests call; here because test files do not import each other."""

    problems: dict[str, Problem]

    def arguments(self, name: str, rows: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
        """On the GPU, rounded to ``dtype``; leaves require gradients."""
        torch.manual_seed(seed)
        problem = self.problems[name]
        made = [part.to(dtype) if part.is_floating_point() else part for part in problem.make(rows)]
        placed = [part.cuda() for part in made]
        return tuple(part.requires_grad_(number < problem.leaves) for number, part in enumerate(placed))

    def results(self, name: str, arguments: tuple[Tensor, ...]) -> list[Tensor]:
        """Value and gradients under a fixed upstream gradient."""
        problem = self.problems[name]
        value = problem.call(*arguments)
        generator = torch.Generator().manual_seed(1)
        upstream = problem.scale * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        leaves = list(arguments[: problem.leaves])
        return [value.detach(), *torch.autograd.grad(value, leaves, upstream.to(value))]

    def oracle(self, name: str, arguments: tuple[Tensor, ...]) -> list[Tensor]:
        """The same in float64 on the CPU by the eager kernels; both forms of similarity_preserving by the cheap one."""
        wide = [part.detach().cpu() for part in arguments]
        wide = [part.double() if part.is_floating_point() else part for part in wide]
        for part in wide[: self.problems[name].leaves]:
            part.requires_grad_()
        exact = "similarity_preserving factored" if name.endswith("gram") else name
        with _select.force("eager"):
            return self.results(exact, tuple(wide))

    def worst(self, got: list[Tensor], want: list[Tensor], floor: float = 1e-30) -> float:
        """The largest error relative to the largest entry of each result, or ``floor``; NaN counts as infinite."""
        worst = 0.0
        for one, other in zip(got, want):
            assert one.shape == other.shape
            if one.numel():
                exact = other.double().cpu()
                off = (one.double().cpu() - exact).abs().max() / exact.abs().max().clamp_min(floor)
                worst = max(worst, float(off.nan_to_num(nan=float("inf"))))
        return worst

    def skip_unless(self, op: str, backend: str, dtype: torch.dtype = torch.float32) -> None:
        reason = _select.why_not(op, backend, "cuda", dtype)
        if reason is not None:
            pytest.skip(f"{backend}: {reason}")


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools(PROBLEMS)


@pytest.fixture(params=["eager", "triton", "native"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with _select.force(request.param):
        yield request.param


@pytest.fixture(params=list(PROBLEMS))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(autouse=True)
def ieee_products() -> Iterator[None]:
    """float32 means float32, and no memory of one test narrows the next."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)
    if CUDA:
        torch.cuda.empty_cache()


@pytest.fixture
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN, so that memory nobody wrote shows."""
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    settings.fill_uninitialized_memory = before[1]
