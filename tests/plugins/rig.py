"""A plugin host on the test's clock: services from plugin objects, without files, in memory or on a store."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from tests.clocks import ManualClock
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import (
    MemoryStoreSettings,
    ObserveSettings,
    PluginSettings,
    SqliteStoreSettings,
)
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.boots import Boots, NotJournaled
from yoi_daemon.plugins.execution.watchdog import run_watchdog
from yoi_daemon.plugins.lane.ledger import Restored, restore
from yoi_daemon.plugins.loading.loader import LoadedPlugin
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.plugins.sources.timer import run_timers
from yoi_daemon.plugins.supervision.parts import HostServices
from yoi_daemon.plugins.supervision.service import Service
from yoi_daemon.sdk import Plugin
from yoi_daemon.store.interface import Store
from yoi_daemon.store.opening import open_store


class Rig:
    def __init__(
        self, store: Store, event_log: EventLog, nursery: trio.Nursery, *, ids: IdSource
    ) -> None:
        self.store = store
        self.event_log = event_log
        self.ids = ids
        self.nursery = nursery
        self.services: list[Service] = []
        self.boots: Boots = NotJournaled()
        self.may_dispatch = trio.Event()
        self.may_dispatch.set()
        self.admission = Admission(
            event_log, self.ids, clock=trio.current_time, wall_clock=ManualClock()
        )

    def add(
        self,
        plugin: Plugin[Any],
        *,
        load_error: LoadFailed | None = None,
        restored: Restored | None = None,
        **settings: Any,
    ) -> Service:
        """A service of `plugin` under supervision; it starts by itself, or fails to load."""
        admission = self.admission

        async def timers(_id: str, loaded: LoadedPlugin) -> None:
            def tick(spec):
                admission.tick(service, spec)

            await run_timers(loaded.manifest.ingresses.values(), tick)

        def load(_id, _settings):
            assert load_error is not None
            raise load_error

        parts = HostServices(
            event_log=self.event_log,
            workers_for=lambda *_: None,
            clock=trio.current_time,
            age_s=self.store.age_s,
            wall_clock=ManualClock(),
            uniform=lambda low, high: (low + high) / 2,
            load=load,
            forget=lambda _loaded: None,
            run_timers=timers,
            boots=self.boots,
            may_dispatch=self.may_dispatch,
        )
        service = Service(plugin.name, PluginSettings(**settings), parts)
        if restored is not None:
            service.restore(restored)
        if load_error is None:
            service.installation.adopt(loaded_of(plugin))
        self.services.append(service)
        self.nursery.start_soon(service.supervisor.run, name=f"supervise {plugin.name}")
        return service

    async def add_restored(self, plugin: Plugin[Any], **settings: Any) -> Service:
        """The same with what the store kept of it."""
        kept = await restore(self.store, plugin.name, trio.current_time())
        return self.add(plugin, restored=kept, **settings)

    async def until(self, kind: str, count: int = 1) -> None:
        """Waits until so many events of a kind are committed."""
        while len(self.events(kind)) < count:
            await self.event_log.wait_beyond(self.event_log.head)

    async def accept(self, service: Service, ingress: str, payload: Any = None, **options: Any):
        return await self.admission.accept(
            service, ingress, msgspec.json.encode(payload), **options
        )

    async def settled(self) -> None:
        """Waits until what was appended is committed."""
        await self.event_log.committed(self.event_log.appended)

    def events(self, prefix: str = "") -> list[dict[str, Any]]:
        """Every committed event so far whose kind begins so."""
        entries = self.event_log.read(self.event_log.window().floor, 1 << 30)
        decoded = [json.loads(entry.message) for entry in entries]
        return [event for event in decoded if event["kind"].startswith(prefix)]

    def states(self) -> list[tuple[str, str]]:
        return [
            (event["data"]["state"], event["data"]["reason"]["code"])
            for event in self.events("plugin.state")
        ]

    def outcomes(self) -> list[str]:
        """How attempts and events ended, in order."""
        kinds = [event["kind"] for event in self.events("plugin.ingress.")]
        names = [kind.removeprefix("plugin.ingress.") for kind in kinds]
        return [name for name in names if name != "accepted"]


def loaded_of(plugin: Plugin[Any], **config: Any) -> LoadedPlugin:
    """A plugin as loading gives it; its code's place is this test's own file."""
    file = next(
        (
            spec.function.call.__code__.co_filename
            for spec in (*plugin.ingresses.values(), *plugin.tools.values())
        ),
        __file__,
    )
    return LoadedPlugin(
        plugin=plugin,
        manifest=plugin.manifest(),
        config=plugin.config_type(**config),
        digest="d1",
        module=f"test_{plugin.name}",
        file=file,
        folder=file,
        base=file.rpartition("/")[0],
    )


@asynccontextmanager
async def open_rig(
    directory: Path | None = None, *, now: float = ManualClock().now
) -> AsyncGenerator[Rig]:
    """A host in memory, or with its store in `directory`; `now` is what ids are made from."""
    epoch = "00112233aabbccdd"
    kind = MemoryStoreSettings if directory is None else SqliteStoreSettings
    settings = kind(low_bytes=1024, reserve_bytes=1024)
    async with (
        open_store(settings, directory or Path(), new_epoch=lambda: epoch) as store,
        open_event_log(ObserveSettings(), store, wall_clock=ManualClock()) as log,
        trio.open_nursery() as nursery,
    ):
        rig = Rig(store, log, nursery, ids=IdSource(ManualClock(now), bytes))
        nursery.start_soon(run_watchdog, lambda: rig.services)
        try:
            yield rig
        finally:
            nursery.cancel_scope.cancel()
