"""Which version of a plugin the host has, and how another takes its place."""

import msgspec
import trio

from yoi_daemon.model.manifest import PluginManifest
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.boots import Hold
from yoi_daemon.plugins.delivery import Fault
from yoi_daemon.plugins.execution.interface import Executor
from yoi_daemon.plugins.lane.dispatcher import lane_limits
from yoi_daemon.plugins.loading.loader import LoadedPlugin
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.plugins.supervision.parts import HostServices, Supervised

LOAD_TIMEOUT_S = 30.0
"""A module's import may take as long as a start."""


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a plugin: its settings, its code once that is loaded, or what holds it back."""

    settings: PluginSettings
    executor: Executor | None = None
    """What runs the plugin's functions, once it is taken."""
    loaded: LoadedPlugin | None = None
    """The code and its configuration; None before the first load, or where it failed."""
    held: Hold | None = None
    """Why the plugin is not loaded, until it is taken or a command says otherwise."""

    @property
    def manifest(self) -> PluginManifest | None:
        """Returns what the plugin declares, once it is loaded."""
        return None if self.loaded is None else self.loaded.manifest

    @property
    def has_service(self) -> bool:
        """Returns whether the plugin is loaded and has a service to run."""
        return self.loaded is not None and self.loaded.manifest.has_service


class Installation:
    """Loads one plugin and keeps what is `installed`."""

    def __init__(self, subject: Supervised, settings: PluginSettings, host: HostServices) -> None:
        self.installed = Installed(settings=settings)
        self.is_loaded = trio.Event()
        """The first load has ended, well or not."""
        self._subject = subject
        self._host = host

    async def load(self) -> None:
        """Loads the plugin with the settings it has, or notes that it cannot be loaded."""
        settings = self.installed.settings
        try:
            with trio.move_on_after(LOAD_TIMEOUT_S) as limit:
                # Abandoned when late: a thread cannot be killed, and the daemon must come up.
                loaded = await trio.to_thread.run_sync(
                    self._host.load, self._subject.plugin_id, settings, abandon_on_cancel=True
                )
                self.take(loaded, settings)
            if limit.cancelled_caught:
                self.fail(
                    LoadFailed("import_timeout", f"the import took over {LOAD_TIMEOUT_S:g} s")
                )
        except LoadFailed as failure:
            self.fail(failure)
        finally:
            self.is_loaded.set()

    async def release(self) -> bool:
        """Loads what is held back, on an operator's word. True where nothing is left to start."""
        if self.installed.held is None:
            return False
        self._hold(None)
        await self.load()
        return self.installed.loaded is not None and not self.installed.has_service

    def adopt(self, loaded: LoadedPlugin) -> None:
        """Begins with a plugin that was loaded already. Before `Supervisor.run`."""
        self.take(loaded, self.installed.settings)
        self.is_loaded.set()

    def hold(self, hold: Hold) -> None:
        """Keeps the plugin from being loaded by itself; what is queued stays. Before `Supervisor.run`."""
        if hold.code == "quarantined":
            self.fail(LoadFailed(hold.code, hold.message))
        else:
            self._subject.lifecycle.move("stopped", hold.code, hold.message)
        self._hold(hold)
        self.is_loaded.set()

    def fail(self, failure: LoadFailed) -> None:
        """Notes that the module cannot be loaded. No restart is spent: it waits for a change or a command."""
        self._hold(None)
        self._subject.lifecycle.move("failed", failure.code, failure.message)
        self._subject.settlement.note_error(Fault(code=failure.code, message=failure.message))

    def take(self, loaded: LoadedPlugin, settings: PluginSettings) -> None:
        """Goes on with this version; what is queued stays. Only while no generation dispatches."""
        subject, before = self._subject, self.installed.loaded
        executor = subject.make_executor(loaded, settings)
        self.installed = Installed(settings=settings, loaded=loaded, executor=executor)
        if before is not None and before.module != loaded.module:
            self._host.forget(before)
        if not self.installed.has_service:
            self._host.boots.came_up(subject.plugin_id, loaded.edition)
        lifecycle = subject.lifecycle
        if lifecycle.state in ("failed", "stopped") and not self.installed.has_service:
            lifecycle.move("ready", "loaded", "the module is loaded")
        if lifecycle.state == "ready":
            lifecycle.explain("loaded", "the module is loaded")
        ingresses = loaded.manifest.ingresses
        subject.settlement.take(
            loaded.digest,
            settings,
            holds=lambda name: name in ingresses and ingresses[name].on_retry == "hold",
        )
        if subject.lane.limits != lane_limits(settings):
            subject.lane.resize(lane_limits(settings))

    def _hold(self, hold: Hold | None) -> None:
        self.installed = msgspec.structs.replace(self.installed, held=hold)
