"""Opens the event log: its writer lives exactly as long as the context."""

import os
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager

import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.eventlog.memory import MemoryEventLog
from yoi_daemon.eventlog.ring import Ring
from yoi_daemon.model.cursor import EPOCH_BYTES
from yoi_daemon.model.settings import ObserveSettings


@asynccontextmanager
async def open_event_log(
    settings: ObserveSettings,
    *,
    epoch: str | None = None,
    earlier_epochs: Collection[str] = (),
    wall_clock: Callable[[], float] = time.time,
) -> AsyncGenerator[EventLog]:
    """The log with the window that `settings` state; leaving it commits what is pending.

    A memory log begins a new epoch, so that no cursor of an earlier one can be mistaken for its own;
    `earlier_epochs` are those it knows for its predecessors'.
    Cancelling the body does not cancel the writer: what the body's clean-up appends is committed too.
    """
    clock = trio.lowlevel.current_clock().current_time
    ring = Ring(
        window_events=settings.window_events,
        window_bytes=settings.window_bytes,
        window_age_s=settings.window_age_s,
        clock=clock,
    )
    log = MemoryEventLog(
        epoch or os.urandom(EPOCH_BYTES).hex(),
        ring,
        wall_clock=wall_clock,
        clock=clock,
        earlier_epochs=earlier_epochs,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        try:
            yield log
        finally:
            log.close()
