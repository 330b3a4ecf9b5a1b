"""Opens the plugin host: discovery, a supervised task for each plugin, one watchdog for all."""

import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import PluginSettings, Settings
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.context import WorkersFor
from yoi_daemon.plugins.host import PluginHost
from yoi_daemon.plugins.loading import LoadedPlugin, Loader
from yoi_daemon.plugins.records import restore
from yoi_daemon.plugins.service import Parts, Service
from yoi_daemon.plugins.source import LoadFailed
from yoi_daemon.plugins.sources import run_timers
from yoi_daemon.plugins.watchdog import run_watchdog
from yoi_daemon.store.interface import Store


@asynccontextmanager
async def open_plugins(
    loader: Loader,
    settings: Settings,
    store: Store,
    event_log: EventLog,
    ids: IdSource,
    workers_for: WorkersFor,
    *,
    wall_clock: Callable[[], float] = time.time,
    uniform: Callable[[float, float], float] = random.uniform,
) -> AsyncGenerator[PluginHost]:
    """The host of every enabled module in the plugin directory.

    Modules are imported and services started by themselves. Leaving it cancels what still runs: stop the
    host first.
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
        await run_timers(loaded.plugin.ingresses.values(), partial(admission.tick, service))

    parts = Parts(
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
    )
    discovery = await trio.to_thread.run_sync(loader.discover)
    with loader.installed():
        async with trio.open_nursery() as nursery:

            def spawn(service: Service) -> None:
                nursery.start_soon(service.supervise, name=f"supervise {service.plugin_id}")

            async def make(plugin_id: str, plugin_settings: PluginSettings) -> Service:
                service = Service(plugin_id, plugin_settings, parts)
                # Of one that was here before, the last words may still be on their way.
                await event_log.recorded(event_log.record(()))
                service.restore(await restore(store, plugin_id, trio.current_time()))
                return service

            host = PluginHost(loader, admission, spawn, make)
            host.faults = discovery.faults
            nursery.start_soon(run_watchdog, host.watched)
            for plugin_id in discovery.found:
                if settings.is_enabled(plugin_id):
                    host.add(await make(plugin_id, settings.for_plugin(plugin_id)))
            try:
                yield host
            finally:
                nursery.cancel_scope.cancel()
