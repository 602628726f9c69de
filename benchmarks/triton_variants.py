"""How many variants of each Triton kernel the batch sizes 1 to 512 ask for, counted without a GPU.

``python -m benchmarks.triton_variants`` calls every op, forward and backward, at each size with a launch that does not
run: it asks Triton which specialisation the arguments would be compiled to, and remembers it. ``--compile`` then
compiles what a first call at 72 rows asks for, from an empty cache, for sm_90: the seconds of a cold first call that
do not depend on the GPU.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import tempfile
import time
from typing import Any

SIZES, FIRST = 512, 72
Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


def calls() -> dict[str, Any]:
    """Per op, one forward and backward of ``rows`` rows."""
    import torch

    from ferkit import ops

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, requires_grad=True)

    def labels(rows: int) -> torch.Tensor:
        return torch.arange(rows) % 8

    def masked(rows: int) -> torch.Tensor:
        mask = labels(rows) != torch.arange(8)[:, None]
        return ops.similarity_preserving(leaf(rows, 64), leaf(8, rows, 64), mask).sum()

    def entropy(rows: int) -> torch.Tensor:
        return ops.scaled_cross_entropy(leaf(rows, 8), leaf(rows), labels(rows), mean=True)

    def divergence(rows: int) -> torch.Tensor:
        return ops.neighbor_divergence(leaf(rows, 8), torch.randn(rows, 8, 8), torch.rand(rows, 8), mean=True)

    return {
        "class_similarity": lambda rows: ops.class_similarity(leaf(rows, 512), labels(rows), 8)[0].sum(),
        "similarity_preserving": masked,
        "scaled_cross_entropy": lambda rows: ops.scaled_cross_entropy(
            leaf(rows, 8), leaf(rows), labels(rows), mean=True
        ),
        "concordance": lambda rows: ops.concordance(leaf(rows, 2), torch.rand(rows, 2), loss=True, mean=True),
        "neighbor_divergence": divergence,
    }


def launches(sizes: range) -> dict[str, dict[int, list[Launch]]]:
    """Per op and size, every launch in order; nothing is launched, results are whatever memory held."""
    os.environ.pop("TRITON_INTERPRET", None)  # read when the kernels are defined
    from triton.runtime.jit import JITFunction

    from ferkit.kernels.triton import (  # noqa: F401
        class_similarity,
        concordance,
        neighbor_divergence,
        scaled_cross_entropy,
        similarity_preserving,
    )
    from ferkit.ops import _select

    made: list[Launch] = []
    original = JITFunction.run
    JITFunction.run = lambda self, *args, grid, warmup, **options: made.append((self, args, options))
    os.environ["TRITON_INTERPRET"] = "1"  # lets the choice of backend take Triton for tensors on the CPU
    found: dict[str, dict[int, list[Launch]]] = {}
    try:
        with _select.force("triton"):
            for op, call in calls().items():
                found[op] = {}
                for rows in sizes:
                    made.clear()
                    call(rows).backward()
                    found[op][rows] = list(made)
    finally:
        JITFunction.run = original
        os.environ.pop("TRITON_INTERPRET", None)
    return found


def specialised(launch: Launch) -> tuple[str, Any]:
    """What the arguments of a launch are compiled to: a key, and what compiling it takes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel, args, options = launch
    backend = make_backend(GPUTarget("cuda", 90, 32))
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, kept = binder(*args, **options)
    return f"{specialization} {sorted(kept.items())}", (kernel, backend, options, bound, specialization, kept)


def count(sizes: range) -> dict[str, dict[str, int]]:
    """Variants per op and kernel."""
    result = {}
    for op, by_size in launches(sizes).items():
        keys = collections.defaultdict(set)
        for made in by_size.values():
            for launch in made:
                keys[launch[0].__name__].add(specialised(launch)[0])
        result[op] = {name: len(found) for name, found in sorted(keys.items())}
    return result


def compile_seconds() -> dict[str, float]:
    """Seconds to compile what the first call of each op asks for, from an empty cache."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    result = {}
    for op, by_size in launches(range(FIRST, FIRST + 1)).items():
        wanted = dict(specialised(launch) for launch in by_size[FIRST])
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TRITON_CACHE_DIR"] = cache
            start = time.perf_counter()
            for kernel, backend, given, bound, specialization, kept in wanted.values():
                options, signature, constants, attributes = kernel._pack_args(
                    backend, given, bound, specialization, kept
                )
                source = ASTSource(kernel, signature, constants, attributes)
                triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options.__dict__)
            result[op] = time.perf_counter() - start
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.triton_variants", description=__doc__)
    parser.add_argument("--compile", action="store_true", help="time a cold compilation instead")
    options = parser.parse_args()
    print(json.dumps(compile_seconds() if options.compile else count(range(1, SIZES + 1)), indent=1))


if __name__ == "__main__":
    main()
