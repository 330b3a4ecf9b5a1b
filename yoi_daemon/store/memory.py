"""The store that keeps nothing: the same interface without durability."""

from collections.abc import Callable
from typing import Any, TypeVar

import trio

from yoi_daemon.model.cursor import random_epoch
from yoi_daemon.model.events import Retention
from yoi_daemon.model.histogram import Histogram
from yoi_daemon.store.interface import COMMIT_BOUNDS_S, Batch, Clock, RecoveredLog, StoreStatistics
from yoi_daemon.store.tables import Table

R = TypeVar("R", bound=tuple[Any, ...])


class MemoryStore:
    """See `Store`. Committed data lives only in the memory of its owners."""

    kind = "memory"
    durable = False
    is_low = False
    is_behind = False
    earlier_epochs: tuple[str, ...] = ()

    def __init__(
        self, *, clock: Clock | None = None, new_epoch: Callable[[], str] = random_epoch
    ) -> None:
        # A new epoch each time, so that no cursor of an earlier log can be mistaken for this one's.
        self.epoch = new_epoch()
        # The clock itself, because every event reads it: `trio.current_time` looks it up each time.
        self._clock = clock or trio.lowlevel.current_clock().current_time
        self._commits = 0

    def age_s(self) -> float:
        return self._clock()

    async def commit(self, batch: Batch) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._commits += 1

    async def recover_log(self) -> RecoveredLog:
        nothing: dict[Retention, int] = {"lifecycle": 0, "volume": 0}
        return RecoveredLog(0, [], nothing, nothing, {"lifecycle": {}, "volume": {}})

    async def rows(self, table: Table[R], **equal: str) -> list[R]:
        return []

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            commits=self._commits,
            commit_p50_ms=0,
            commit_p99_ms=0,
            commit_max_ms=0,
            commit_times=Histogram(COMMIT_BOUNDS_S).snapshot(),
            bytes=0,
            free_bytes=0,
            low=False,
        )
