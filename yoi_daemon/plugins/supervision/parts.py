"""What a service is made of: the host's part of it, and the plugin's own."""

from collections.abc import Awaitable, Callable

import msgspec
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.boots import Boots
from yoi_daemon.plugins.execution.context import WorkersFor
from yoi_daemon.plugins.execution.interface import Executor
from yoi_daemon.plugins.lane.dispatcher import Lane
from yoi_daemon.plugins.lane.settlement import Settlement
from yoi_daemon.plugins.loading.loader import LoadedPlugin
from yoi_daemon.plugins.supervision.lifecycle import Lifecycle


class HostServices(msgspec.Struct, frozen=True, kw_only=True):
    """What the host gives every service. Clocks return seconds; `uniform(low, high)` draws at random.

    `age_s` is the store's own clock, which dead letters and keys age by.
    """

    event_log: EventLog
    workers_for: WorkersFor
    clock: Callable[[], float]
    age_s: Callable[[], float]
    wall_clock: Callable[[], float]
    uniform: Callable[[float, float], float]
    load: Callable[[str, PluginSettings], LoadedPlugin]
    """Blocks; raises `LoadFailed`."""
    forget: Callable[[LoadedPlugin], None]
    """Drops a module that another version has replaced."""
    run_timers: Callable[[str, LoadedPlugin], Awaitable[None]]
    """Runs the timers of a plugin, by its id, until cancelled."""
    boots: Boots
    may_dispatch: trio.Event
    """Set once handlers may be called; the gates of the first generations open then."""


class Supervised(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one plugin that outlive its restarts and reloads, as its supervisor needs them."""

    plugin_id: str
    lane: Lane
    lifecycle: Lifecycle
    settlement: Settlement
    make_executor: Callable[[LoadedPlugin, PluginSettings], Executor]
    """Makes what runs the functions of one version."""
    on_retired: Callable[[], object]
    """Called when the plugin has been stopped for good."""
