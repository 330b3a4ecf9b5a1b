"""Opens the configured runtimes beside the embedded one, and keeps their status current."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID
from yoi_daemon.model.settings import RegisteredRuntimeSettings
from yoi_daemon.registry.local_compat import LocalCompatRuntime
from yoi_daemon.registry.registry import Registry
from yoi_daemon.runtime.interface import Runtime

LOOK_S = 10.0
"""How old a status that nobody asked for may be; one look at a directory of 1,000 records takes under 0.1 s."""


@asynccontextmanager
async def open_registry(
    embedded: Runtime,
    settings: Mapping[str, RegisteredRuntimeSettings],
    event_log: EventLog,
    *,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Registry]:
    """The registry of `embedded` and of the runtimes that `settings` name. Leaving it ends the looking.

    Entering waits for the first look at each, so `LOOK_DEADLINE_S` at most.
    """
    recorded = {
        runtime_id: LocalCompatRuntime(
            runtime_id,
            one.directory,
            event_log,
            display_name=one.display_name,
            wall_clock=wall_clock,
        )
        for runtime_id, one in settings.items()
    }
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as first:  # so that a status is told from the beginning
            for runtime in recorded.values():
                first.start_soon(nursery.start, _keep_looking, runtime)
        yield Registry({EMBEDDED_RUNTIME_ID: embedded, **recorded})
        nursery.cancel_scope.cancel()


async def _keep_looking(
    runtime: LocalCompatRuntime, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    await runtime.look()
    task_status.started()
    while True:
        await trio.sleep(LOOK_S)
        await runtime.look()
