"""Opens the event log on a store: its writer lives exactly as long as the context."""

import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager

import msgspec
import trio

from yoi_daemon.eventlog.filter import Scope
from yoi_daemon.eventlog.group_commit import GroupCommitLog
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.eventlog.retention import RetentionClass
from yoi_daemon.eventlog.ring import Ring
from yoi_daemon.model.events import Retention
from yoi_daemon.model.settings import ObserveSettings
from yoi_daemon.store.interface import RecoveredLog, Store
from yoi_daemon.store.memory import MemoryStore
from yoi_daemon.store.tables import WORKER_NUMBER

RECOVERED_AT_ONCE = 4096
"""Recovered events between two checkpoints: about 10 ms of the loop."""


@asynccontextmanager
async def open_event_log(
    settings: ObserveSettings,
    store: Store | None = None,
    *,
    earlier_epochs: Collection[str] = (),
    wall_clock: Callable[[], float] = time.time,
) -> AsyncGenerator[EventLog]:
    """The log with the window that `settings` state, on `store` or in memory alone.

    Leaving it commits what is pending. `earlier_epochs` are those it knows for its predecessors'.
    Cancelling the body does not cancel the writer: what the body's clean-up appends is committed too.
    Raises `StorageFailed`.
    """
    if store is None:
        store = MemoryStore()
    ring = await _recover(settings, store, await store.recover_log())
    log = GroupCommitLog(
        store,
        ring,
        wall_clock=wall_clock,
        earlier_epochs=earlier_epochs,
        worker_seqs={row[:2]: row.worker_seq for row in await store.rows(WORKER_NUMBER)},
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        try:
            yield log
        finally:
            log.close()


async def _recover(settings: ObserveSettings, store: Store, recovered: RecoveredLog) -> Ring:
    first = recovered.events[0].seq if recovered.events else recovered.head + 1
    ring = Ring(
        window_events=settings.window_events,
        window_bytes=settings.window_bytes,
        window_age_s=settings.window_age_s,
        clock=store.age_s,
        head=first - 1,
        lifecycle=_retention(recovered, "lifecycle"),
        volume=_retention(recovered, "volume"),
    )
    for number, event in enumerate(recovered.events):
        ring.restore(event)
        if number % RECOVERED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    ring.evict()
    return ring


def _retention(recovered: RecoveredLog, retention: Retention) -> RetentionClass:
    marks: dict[Scope, int] = {
        msgspec.json.decode(scope, type=tuple[str, str] | str): seq
        for scope, seq in recovered.watermarks[retention].items()
    }
    return RetentionClass(recovered.floors[retention], recovered.shared_marks[retention], marks)
