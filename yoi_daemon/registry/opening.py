"""Opens the configured runtimes beside the embedded one, and keeps their status current."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID
from yoi_daemon.model.settings import RegisteredRuntimeSettings
from yoi_daemon.registry.local_compat import LocalCompatRuntime
from yoi_daemon.registry.registry import Registry
from yoi_daemon.runtime.interface import Runtime

LOOK_S = 10.0
"""How old a status that nobody asked for may be; one look at a directory of 1,000 records takes under 0.1 s."""


class Prepared(msgspec.Struct, frozen=True):
    """The configured runtimes as they are to be; `fresh` are new or another, the others go on as they are."""

    settings: Mapping[str, RegisteredRuntimeSettings]
    fresh: Mapping[str, LocalCompatRuntime]


class ConfiguredRegistry(Registry):
    """The registry of the embedded runtime and of those that the configuration names."""

    def __init__(
        self,
        embedded: Runtime,
        event_log: EventLog,
        nursery: trio.Nursery,
        *,
        wall_clock: Callable[[], float],
    ) -> None:
        super().__init__({EMBEDDED_RUNTIME_ID: embedded})
        self._event_log = event_log
        self._nursery = nursery
        self._wall_clock = wall_clock
        self._settings: Mapping[str, RegisteredRuntimeSettings] = {}
        self._looking: dict[str, trio.CancelScope] = {}

    async def prepare(self, settings: Mapping[str, RegisteredRuntimeSettings]) -> Prepared:
        """Makes what is new in `settings` and looks at it once, at most `LOOK_DEADLINE_S`; takes nothing."""
        fresh = {
            runtime_id: LocalCompatRuntime(
                runtime_id,
                one.directory,
                self._event_log,
                display_name=one.display_name,
                wall_clock=self._wall_clock,
            )
            for runtime_id, one in settings.items()
            if one != self._settings.get(runtime_id)
        }
        async with trio.open_nursery() as first:  # so that a status is told from the beginning
            for runtime in fresh.values():
                first.start_soon(runtime.look)
        return Prepared(settings, fresh)

    def take(self, prepared: Prepared) -> tuple[str, ...]:
        """Goes on with what was prepared; gives the ids of those that came, went or are another.

        Calls to one that went are answered by it still.
        """
        gone = [name for name in self._settings if name not in prepared.settings]
        for name in (*gone, *prepared.fresh):
            if (looking := self._looking.pop(name, None)) is not None:
                looking.cancel()
        before = self._runtimes
        self._runtimes = {EMBEDDED_RUNTIME_ID: before[EMBEDDED_RUNTIME_ID]} | {
            name: prepared.fresh.get(name) or before[name] for name in prepared.settings
        }
        self._settings = prepared.settings
        for name, runtime in prepared.fresh.items():
            self._looking[name] = trio.CancelScope()
            self._nursery.start_soon(_keep_looking, runtime, self._looking[name])
        return (*gone, *prepared.fresh)


@asynccontextmanager
async def open_registry(
    embedded: Runtime,
    settings: Mapping[str, RegisteredRuntimeSettings],
    event_log: EventLog,
    *,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncGenerator[ConfiguredRegistry]:
    """The registry of `embedded` and of the runtimes that `settings` name. Leaving it ends the looking.

    Entering waits for the first look at each, so `LOOK_DEADLINE_S` at most.
    """
    async with trio.open_nursery() as nursery:
        registry = ConfiguredRegistry(embedded, event_log, nursery, wall_clock=wall_clock)
        registry.take(await registry.prepare(settings))
        yield registry
        nursery.cancel_scope.cancel()


async def _keep_looking(runtime: LocalCompatRuntime, scope: trio.CancelScope) -> None:
    with scope:
        while True:
            await trio.sleep(LOOK_S)
            await runtime.look()
