"""Work in fixed blocks on a pool of threads, each computing alone: results never depend on how many there are."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Crew", "crew", "tracked"]

T = TypeVar("T")
R = TypeVar("R")
# One by one: torch refuses its older, common setting once somebody has set one of these.
_BACKENDS: Any = torch.backends
_MATMULS: tuple[Any, ...] = (_BACKENDS.cuda.matmul, _BACKENDS.mkldnn.matmul)


class Crew:
    """``map`` over blocks on ``count`` threads, in order."""

    def __init__(self, count: int, pool: ThreadPoolExecutor | None) -> None:
        self.count = count
        self._pool = pool
        self._own = threading.local()

    def room(self, rows: int, columns: int) -> Tensor:
        """An empty float32 block (rows, columns) of this thread's, good until the thread asks again.

        Fresh memory costs more than the product that is written to it.
        """
        size = rows * columns
        held: Tensor | None = getattr(self._own, "room", None)
        if held is None or held.numel() < size:
            held = self._own.room = torch.empty(size, dtype=torch.float32, device="cpu")
        return held[:size].view(rows, columns)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        if self._pool is None:
            return [work(item) for item in items]
        return list(self._pool.map(work, items))


@contextlib.contextmanager
def crew() -> Iterator[Crew]:
    """As many threads as torch has been given, one BLAS thread in each; every setting is restored.

    Matrix products are full float32 meanwhile: the error bounds of the search rest on it.
    """
    count = torch.get_num_threads()
    precisions = [(matmul, matmul.fp32_precision) for matmul in _MATMULS]
    pool = ThreadPoolExecutor(count) if count > 1 else None
    try:
        torch.set_num_threads(1)
        for matmul, _ in precisions:
            matmul.fp32_precision = "ieee"
        yield Crew(count, pool)
    finally:
        if pool is not None:
            pool.shutdown()
        for matmul, before in precisions:
            matmul.fp32_precision = before
        torch.set_num_threads(count)


def tracked(items: Sequence[T], text: str, enabled: bool) -> Iterable[T]:
    """``items`` behind a tqdm bar where asked for (a plain line where tqdm is missing)."""
    if not enabled:
        return items
    try:
        from tqdm.auto import tqdm
    except ImportError:
        print(f"{text}: {len(items)} blocks", file=sys.stderr)
        return items
    bar: Any = tqdm(items, desc=text, leave=False)
    found: Iterable[T] = bar
    return found
