"""On a GPU: the first call of each op in a fresh process with an empty Triton cache, and what batch sizes compile.

``python -m benchmarks.cold``. Variants are counted from the compiled files themselves, per kernel.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = 512
OPS = {
    "class_similarity": "class_similarity 72x512",
    "similarity_preserving": "similarity_preserving 72x512x8",
    "scaled_cross_entropy": "scaled_cross_entropy 72x8",
    "concordance": "concordance 72x2",
    "neighbor_divergence": "neighbor_divergence 72x8x8",
}

_CODE = """
import json, time, torch
from benchmarks import runner, suite
from ferkit.ops import _select
backend = {backend!r}
matrix = torch.randn(64, 64, device="cuda", requires_grad=True)
(matrix @ matrix).sum().backward()  # CUDA, cuBLAS and autograd are not what is timed
torch.cuda.synchronize()
case = suite.find({name!r}, "cuda")
with _select.force(backend):
    arguments = runner.seeded(case, torch.float32)
    torch.cuda.synchronize()
    start = time.perf_counter()
    runner.step(case.ours, arguments, once=True)()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    for rows in range(1, {sizes} + 1):
        runner.step(case.ours, case.make(torch.float32, "cuda", rows), once=True)()
    torch.cuda.synchronize()
print(json.dumps(seconds))
"""


def variants(cache: Path) -> dict[str, int]:
    """Compiled files per kernel in a Triton cache."""
    return dict(collections.Counter(path.stem for path in cache.rglob("*.cubin")))


def measure(op: str, backend: str | None = None, sizes: int = SIZES) -> dict[str, Any]:
    """Seconds of the first call, and per kernel the variants compiled over batch sizes 1 to ``sizes``."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TRITON_CACHE_DIR": cache}
        environment.pop("TRITON_INTERPRET", None)
        code = _CODE.format(backend=backend, name=OPS[op], sizes=sizes)
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
        )
        if done.returncode:
            raise RuntimeError(f"{op}: the first call failed:\n{done.stderr[-2000:]}")
        return {"op": op, "seconds": json.loads(done.stdout.split("\n")[-2]), "variants": variants(Path(cache))}


def main() -> None:
    for op in OPS:
        print(json.dumps(measure(op)), flush=True)


if __name__ == "__main__":
    main()
