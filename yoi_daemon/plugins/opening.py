"""Opens the plugin host: discovery, a supervised task for each plugin, one watchdog for all."""

import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.boots import BootVerdict
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import PluginSettings, Settings
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.boots import Boots, in_quarantine, in_safe_mode
from yoi_daemon.plugins.execution.context import WorkersFor
from yoi_daemon.plugins.execution.watchdog import run_watchdog
from yoi_daemon.plugins.host import PluginHost
from yoi_daemon.plugins.loading.discovery import Discovery
from yoi_daemon.plugins.loading.loader import LoadedPlugin, Loader
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.plugins.sources.timer import run_timers
from yoi_daemon.plugins.supervision.parts import HostServices
from yoi_daemon.plugins.supervision.service import Service
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

    async def timers(plugin_id: str, loaded: LoadedPlugin) -> None:
        tick = partial(admission.tick, host.service(plugin_id))
        await run_timers(loaded.manifest.ingresses.values(), tick)

    parts = HostServices(
        event_log=event_log,
        workers_for=workers_for,
        # The clock itself: `trio.current_time` finds it anew each time, and a lane asks for every event.
        clock=trio.lowlevel.current_clock().current_time,
        age_s=store.age_s,
        wall_clock=wall_clock,
        uniform=uniform,
        load=partial(_load, loader),
        forget=loader.forget,
        run_timers=timers,
        boots=boots,
        may_dispatch=trio.Event(),
    )
    discovery = await trio.to_thread.run_sync(loader.discover)
    with loader.installed():
        async with trio.open_nursery() as nursery:

            def spawn(service: Service) -> None:
                nursery.start_soon(service.supervisor.run, name=f"supervise {service.plugin_id}")

            host = PluginHost(loader, admission, store, parts, spawn)
            host.faults = discovery.faults
            nursery.start_soon(run_watchdog, host.watched)
            verdict = await _restore_enabled(host, discovery, settings, boots)
            host.safe_mode = safe or verdict.safe
            # What was in hand is judged for good before anything may end the process again.
            await event_log.recorded(event_log.record(()))
            await _hold_back(host, loader, boots, discovery)
            nursery.start_soon(partial(host.bring_up, one_by_one=verdict.is_careful))
            try:
                yield host
            finally:
                nursery.cancel_scope.cancel()


def _load(loader: Loader, plugin_id: str, settings: PluginSettings) -> LoadedPlugin:
    found = loader.discover().found.get(plugin_id)
    if found is None:
        raise LoadFailed("unreadable", f"plugins/{plugin_id}.py is gone; put it back, or reload")
    return loader.load(loader.read(found), settings.config)


async def _restore_enabled(
    host: PluginHost, discovery: Discovery, settings: Settings, boots: Boots
) -> BootVerdict:
    """Makes a service of every enabled plugin. Returns what the boots before this one say of it."""
    enabled = [name for name in discovery.found if settings.is_enabled(name)]
    kept = {plugin_id: await host.restored(plugin_id) for plugin_id in enabled}
    verdict = await boots.begin(
        {plugin_id for plugin_id, restored in kept.items() if restored.has_claims},
        lambda plugin_id: settings.for_plugin(plugin_id).attempts,
    )
    for plugin_id, restored in kept.items():
        host.add(host.make(plugin_id, settings.for_plugin(plugin_id), restored))
    return verdict


async def _hold_back(host: PluginHost, loader: Loader, boots: Boots, discovery: Discovery) -> None:
    """Holds back what the boots died on, while it is as it was, and everything in safe mode."""
    for plugin_id, service in host.services.items():
        found = boots.quarantined.get(plugin_id)
        if found is not None:
            table = service.installed.settings.config
            with suppress(LoadFailed):  # it says so itself when it is loaded
                source = await trio.to_thread.run_sync(loader.read, discovery.found[plugin_id])
                if loader.edition(source, table) == found.edition:
                    service.installation.hold(in_quarantine(found, plugin_id))
        if host.safe_mode is not None and service.installed.held is None:
            service.installation.hold(in_safe_mode())
