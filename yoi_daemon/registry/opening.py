"""Opens the configured runtimes beside the embedded one, and runs their tasks."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID
from yoi_daemon.model.settings import LocalCompatSettings, RegisteredRuntimeSettings
from yoi_daemon.registry.interface import ConfiguredRuntime, Runtime
from yoi_daemon.registry.local_compat import LocalCompatRuntime
from yoi_daemon.registry.registry import Registry

WallClock = Callable[[], float]


class Prepared(msgspec.Struct, frozen=True):
    """The next configured runtimes; `fresh` are those that are new or changed, the others stay as they are."""

    settings: Mapping[str, RegisteredRuntimeSettings]
    fresh: Mapping[str, ConfiguredRuntime]


class ConfiguredRegistry(Registry):
    """The registry of the embedded runtime and of those that the configuration names."""

    def __init__(
        self,
        embedded: Runtime,
        event_log: EventLog,
        nursery: trio.Nursery,
        *,
        wall_clock: WallClock,
    ) -> None:
        super().__init__({EMBEDDED_RUNTIME_ID: embedded})
        self._event_log = event_log
        self._nursery = nursery
        self._wall_clock = wall_clock
        self._settings: Mapping[str, RegisteredRuntimeSettings] = {}
        self._running: dict[str, trio.CancelScope] = {}

    async def prepare(self, settings: Mapping[str, RegisteredRuntimeSettings]) -> Prepared:
        """Makes the runtimes that are new or changed in `settings` and refreshes each once; `take` uses them."""
        fresh = {
            runtime_id: MAKERS[type(runtime)](
                runtime_id, runtime, self._event_log, self._wall_clock
            )
            for runtime_id, runtime in settings.items()
            if runtime != self._settings.get(runtime_id)
        }
        async with trio.open_nursery() as nursery:
            for runtime in fresh.values():
                nursery.start_soon(runtime.refresh)
        return Prepared(settings, fresh)

    def take(self, prepared: Prepared) -> tuple[str, ...]:
        """Puts what was prepared into use; returns the ids that were added, removed or changed.

        Calls to a removed runtime are still answered by it.
        """
        removed = [name for name in self._settings if name not in prepared.settings]
        for name in (*removed, *prepared.fresh):
            if (running := self._running.pop(name, None)) is not None:
                running.cancel()
        before = self._runtimes
        self._runtimes = {EMBEDDED_RUNTIME_ID: before[EMBEDDED_RUNTIME_ID]} | {
            name: prepared.fresh.get(name) or before[name] for name in prepared.settings
        }
        self._settings = prepared.settings
        for name, runtime in prepared.fresh.items():
            self._running[name] = trio.CancelScope()
            self._nursery.start_soon(_run, runtime, self._running[name], name=f"runtime {name}")
        return (*removed, *prepared.fresh)


def _make_local_compat(
    runtime_id: str, settings: LocalCompatSettings, event_log: EventLog, wall_clock: WallClock
) -> LocalCompatRuntime:
    return LocalCompatRuntime(
        runtime_id,
        settings.directory,
        event_log,
        display_name=settings.display_name,
        wall_clock=wall_clock,
    )


MAKERS: Mapping[
    type[RegisteredRuntimeSettings], Callable[[str, Any, EventLog, WallClock], ConfiguredRuntime]
] = {
    LocalCompatSettings: _make_local_compat,
}
"""Makes a runtime of each kind from its id and settings."""


@asynccontextmanager
async def open_registry(
    embedded: Runtime,
    settings: Mapping[str, RegisteredRuntimeSettings],
    event_log: EventLog,
    *,
    wall_clock: WallClock = time.time,
) -> AsyncGenerator[ConfiguredRegistry]:
    """Opens the registry of `embedded` and of the runtimes in `settings`; leaving it ends their tasks.

    Entering waits for the first refresh of each.
    """
    async with trio.open_nursery() as nursery:
        registry = ConfiguredRegistry(embedded, event_log, nursery, wall_clock=wall_clock)
        registry.take(await registry.prepare(settings))
        yield registry
        nursery.cancel_scope.cancel()


async def _run(runtime: ConfiguredRuntime, scope: trio.CancelScope) -> None:
    with scope:
        await runtime.run()
