"""What the batch samplers share: an order by seed and epoch, ranks, and going on in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import Sampler

from ferkit.checks import check_number

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ResumableBatchSampler"]


class ResumableBatchSampler(Sampler[list[int]]):
    """Base of samplers whose epoch is a pure function of (data, settings, seed, epoch).

    A subclass gives ``_batches(start)``, this rank's batches of the epoch from number ``start`` on, and
    ``_settings()``, plain integers that must be equal for a state to be loaded.
    """

    def __init__(self, seed: int, rank: int, world_size: int, drop_last: bool) -> None:
        check_number(world_size, "world_size", low=1, integer=True)
        check_number(seed, "seed", low=0, integer=True)
        check_number(rank, "rank", low=0, high=world_size - 1, integer=True)
        self.seed, self.rank, self.world_size, self.drop_last = seed, rank, world_size, bool(drop_last)
        self._steps = 0
        self.epoch = 0
        self._position = 0  # batches of this epoch already handed out
        self._start = 0  # where the next pass begins: not 0 only once, after load_state_dict
        self._running: object = None

    def _batches(self, start: int) -> Iterator[list[int]]:
        raise NotImplementedError

    def _settings(self) -> dict[str, int]:
        raise NotImplementedError

    @property
    def sampler(self) -> Self:
        """This object: Lightning looks for ``set_epoch`` on ``batch_sampler.sampler``."""
        return self

    def __len__(self) -> int:
        return self._steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order. The epoch already set is left where it stands, so a resumed one goes on."""
        check_number(epoch, "epoch", low=0, integer=True)
        if epoch != self.epoch:
            self.epoch, self._position, self._start, self._running = epoch, 0, 0, None

    def __iter__(self) -> Iterator[list[int]]:
        self._position = self._start
        self._running = object()
        return self._pass(self._running)

    def _pass(self, running: object) -> Iterator[list[int]]:
        # Where a resumed pass begins is used up by its first batch: a DataLoader with workers makes two iterators and
        # drops the first.
        start, self._start = self._start, 0
        for step, batch in enumerate(self._batches(start), start + 1):
            if self._running is running:  # only the latest pass moves the position
                self._position = step
            yield batch

    def state_dict(self, position: int | None = None) -> dict[str, int]:
        """State to go on from: plain integers, the same on every rank.

        Args:
            position: batches of this epoch that are done. The default is what this sampler has handed out; a
                DataLoader with workers takes batches ahead of training, so give the number trained on there.
        """
        if position is not None:
            check_number(position, "position", low=0, high=len(self), integer=True)
        return {"epoch": self.epoch, "position": self._position if position is None else position, **self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken: the next pass yields the rest of that epoch, later ones whole epochs.

        Raises:
            ValueError: the state was taken from other data or settings, naming what differs.
        """
        settings = self._settings()
        for name in ("epoch", "position", *settings):
            if name not in state:
                raise ValueError(f"state: expected the key {name!r}, got {sorted(state)}")
        for name, value in settings.items():
            if state[name] != value:
                raise ValueError(f"state: expected {name} {value} as in this sampler, got {state[name]}")
        check_number(state["epoch"], "state['epoch']", low=0, integer=True)
        check_number(state["position"], "state['position']", low=0, high=len(self), integer=True)
        self.epoch, self._running = int(state["epoch"]), None
        self._position = self._start = int(state["position"])

    def __repr__(self) -> str:
        settings = {k: v for k, v in self._settings().items() if not k.endswith("_crc32")}
        shown = ", ".join(f"{k}={v}" for k, v in (settings | {"drop_last": self.drop_last}).items())
        return f"{type(self).__name__}({shown}, rank={self.rank}, batches={len(self)})"
