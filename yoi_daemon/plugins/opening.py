"""Opens the plugin host: discovery, a supervised task for each plugin, one watchdog for all."""

import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import PluginSettings, Settings
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.boots import Boots, in_quarantine, in_safe_mode
from yoi_daemon.plugins.execution.context import WorkersFor
from yoi_daemon.plugins.execution.watchdog import run_watchdog
from yoi_daemon.plugins.host import PluginHost
from yoi_daemon.plugins.lane.ledger import Restored, restore
from yoi_daemon.plugins.loading.discovery import Discovery
from yoi_daemon.plugins.loading.loader import LoadedPlugin, Loader
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.plugins.sources.timer import run_timers
from yoi_daemon.plugins.supervision.service import HostServices, Service
from yoi_daemon.store.interface import Store


@asynccontextmanager
async def open_plugins(
    loader: Loader,
    settings: Settings,
    store: Store,
    event_log: EventLog,
    ids: IdSource,
    workers_for: WorkersFor,
    boots: Boots,
    *,
    safe: str | None = None,
    wall_clock: Callable[[], float] = time.time,
    uniform: Callable[[float, float], float] = random.uniform,
) -> AsyncGenerator[PluginHost]:
    """The host of every enabled module in the plugin directory.

    Modules are imported and services started by themselves, but what `boots` tells to hold back, and with
    `safe`, which says why, none. Leaving it cancels what still runs: stop the host first.
    """
    admission = Admission(event_log, ids, clock=trio.current_time, wall_clock=wall_clock)

    def load(plugin_id: str, plugin_settings: PluginSettings) -> LoadedPlugin:
        found = loader.discover().found.get(plugin_id)
        if found is None:
            raise LoadFailed(
                "unreadable", f"plugins/{plugin_id}.py is gone; put it back, or reload"
            )
        return loader.load(loader.read(found), plugin_settings.config)

    async def timers(service: Service, loaded: LoadedPlugin) -> None:
        await run_timers(loaded.manifest.ingresses.values(), partial(admission.tick, service))

    may_dispatch = trio.Event()
    parts = HostServices(
        event_log=event_log,
        workers_for=workers_for,
        # The clock itself: `trio.current_time` finds it anew each time, and a lane asks for every event.
        clock=trio.lowlevel.current_clock().current_time,
        age_s=store.age_s,
        wall_clock=wall_clock,
        uniform=uniform,
        load=load,
        forget=loader.forget,
        timers=timers,
        boots=boots,
        may_dispatch=may_dispatch,
    )
    discovery = await trio.to_thread.run_sync(loader.discover)
    with loader.installed():
        async with trio.open_nursery() as nursery:

            def spawn(service: Service) -> None:
                nursery.start_soon(service.supervise, name=f"supervise {service.plugin_id}")

            def make(plugin_id: str, plugin_settings: PluginSettings) -> Service:
                return Service(plugin_id, plugin_settings, parts)

            async def restore_added(plugin_id: str) -> Restored:
                # Of one that was here before, the last words may still be on their way.
                await event_log.recorded(event_log.record(()))
                return await restore(store, plugin_id, trio.current_time())

            host = PluginHost(loader, admission, spawn, make, restore_added, may_dispatch)
            host.faults = discovery.faults
            nursery.start_soon(run_watchdog, host.watched)
            enabled = [name for name in discovery.found if settings.is_enabled(name)]
            kept = {name: await restore(store, name, trio.current_time()) for name in enabled}
            verdict = await boots.begin(
                {name for name, one in kept.items() if one.has_claims},
                lambda name: settings.for_plugin(name).attempts,
            )
            host.safe_mode = safe or verdict.safe
            for plugin_id, restored in kept.items():
                service = make(plugin_id, settings.for_plugin(plugin_id))
                service.restore(restored)
                host.add(service)
            # What was in hand is judged for good before anything may end the process again.
            await event_log.recorded(event_log.record(()))
            await _hold_back(host, loader, boots, discovery)
            nursery.start_soon(partial(host.bring_up, one_by_one=verdict.is_careful))
            try:
                yield host
            finally:
                nursery.cancel_scope.cancel()


async def _hold_back(host: PluginHost, loader: Loader, boots: Boots, discovery: Discovery) -> None:
    """Holds back what the boots died on, while it is as it was, and everything in safe mode."""
    for plugin_id, service in host.services.items():
        found = boots.quarantined.get(plugin_id)
        if found is not None:
            table = service.settings.config
            with suppress(LoadFailed):  # it says so itself when it is loaded
                source = await trio.to_thread.run_sync(loader.read, discovery.found[plugin_id])
                if loader.edition(source, table) == found.edition:
                    service.hold(in_quarantine(found, plugin_id))
        if host.safe_mode is not None and service.held is None:
            service.hold(in_safe_mode())
