"""All plugins of the daemon: looked up, commanded, reloaded, stopped."""

import types
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import trio

from yoi_daemon.model.errors import ConfigFault, Refused
from yoi_daemon.model.plugins import PluginRecord
from yoi_daemon.model.settings import PluginSettings, Settings
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.execution.inline import place_of
from yoi_daemon.plugins.lane.ledger import Restored
from yoi_daemon.plugins.loading.loader import Loader
from yoi_daemon.plugins.reloading import PluginPlan, load_changed
from yoi_daemon.plugins.summary import ask_status, record_of
from yoi_daemon.plugins.supervision.service import Service
from yoi_daemon.plugins.supervision.supervisor import Command

ONE_BY_ONE_S = 60.0
"""What a careful boot may take in all: one that hangs must not keep the others down for its whole deadline."""


class PluginHost:
    """The handle on the plugins of one daemon."""

    def __init__(
        self,
        loader: Loader,
        admission: Admission,
        spawn: Callable[[Service], None],
        make: Callable[[str, PluginSettings], Service],
        restore: Callable[[str], Awaitable[Restored]],
        may_dispatch: trio.Event,
    ) -> None:
        self._loader = loader
        self._spawn = spawn
        self._make = make
        self._restore = restore
        self._may_dispatch = may_dispatch
        self._services: dict[str, Service] = {}
        self._retired: list[Service] = []
        """Services that were removed, of which something may still run."""
        self.admission = admission
        """The way in for events."""
        self.faults: tuple[ConfigFault, ...] = ()
        """What lies in the plugin directory and cannot be a plugin."""
        self.safe_mode: str | None = None
        """Why no plugin was loaded at the start, until a reload of all of them."""

    def add(self, service: Service) -> None:
        """Takes a service under its id; `bring_up` or a reload begins its supervision."""
        self._services[service.plugin_id] = service

    async def bring_up(self, *, one_by_one: bool) -> None:
        """Begins the supervision of every service that was added, then lets handlers be called.

        `one_by_one`: each has been loaded and started before the next is; after `ONE_BY_ONE_S` the rest is
        at once.
        """
        waiting = deque(self.services.values())
        if one_by_one:
            with trio.move_on_after(ONE_BY_ONE_S):
                while waiting:
                    service = waiting.popleft()
                    self._spawn(service)
                    await service.settled()
        for service in waiting:
            self._spawn(service)
        self._may_dispatch.set()

    @property
    def services(self) -> Mapping[str, Service]:
        """The services by plugin id, in the order of ids."""
        return dict(sorted(self._services.items()))

    def service(self, plugin_id: str) -> Service:
        """One service. Raises `Refused` (`plugin_not_found`)."""
        service = self._services.get(plugin_id)
        if service is None:
            known = ", ".join(sorted(self._services)) or "none"
            raise Refused("plugin_not_found", f"there is no plugin {plugin_id}; there is {known}")
        return service

    async def prepare(self, settings: Settings, only: str | None = None) -> PluginPlan:
        """Loads what changed, of all plugins or `only` one, and changes nothing.

        Raises `Refused`: `plugin_not_found`, or `invalid_state` with every fault. One reload at a time: the
        caller sees to it.
        """
        plan = await load_changed(self._loader, settings, self._services, only)
        added = (one.plugin_id for one in plan.changes if one.plugin_id not in self._services)
        restored = {plugin_id: await self._restore(plugin_id) for plugin_id in added}
        return msgspec.structs.replace(plan, restored=restored)

    def take(self, plan: PluginPlan) -> Mapping[str, Command]:
        """Goes on with what was prepared. Returns the commands under way, by plugin id.

        Cannot fail. A service that is replaced drains first; what is queued stays.
        """
        self.faults = plan.bad_files
        for plugin_id, failure in plan.failed.items():
            self._services[plugin_id].fail_load(failure)
        self._retired = self._still_ending()
        commands: dict[str, Command] = {}
        for plugin_id in plan.removed:
            service = self._services.pop(plugin_id)
            self._retired.append(service)
            commands[plugin_id] = service.retire()
        for change in plan.changes:
            service = self._services.get(change.plugin_id)
            if service is not None:
                commands[change.plugin_id] = service.replace(change.loaded, change.settings)
                continue
            service = self._make(change.plugin_id, change.settings)
            service.restore(plan.restored[change.plugin_id])
            service.adopt(change.loaded)
            self.add(service)
            self._spawn(service)
        if plan.only is None:
            self.safe_mode = None
        return commands

    async def record(self, plugin_id: str) -> PluginRecord:
        """One plugin as the API shows it."""
        service = self.service(plugin_id)
        return record_of(service, await ask_status(service))

    def records(self) -> tuple[PluginRecord, ...]:
        """All plugins as the API shows them, without asking their status."""
        return tuple(record_of(service) for service in self.services.values())

    def unhealthy(self) -> tuple[str, ...]:
        """The critical plugins that keep the daemon from being ready."""
        return tuple(name for name, service in self.services.items() if service.is_unhealthy)

    def unended(self) -> tuple[str, ...]:
        """The plugins of which something still runs: after `stop`, what ignores its end."""
        return tuple(service.plugin_id for service in self.watched() if service.has_unended)

    async def wait_loaded(self) -> None:
        """Waits until every module was imported, good or bad."""
        for service in self.services.values():
            await service.is_loaded.wait()

    async def wait_settled(self) -> None:
        """Waits until each was loaded and started once, good or bad."""
        for service in self.services.values():
            await service.settled()

    def watched(self) -> tuple[Service, ...]:
        """Every service with calls to watch: also those that were removed and still run."""
        return (*self._services.values(), *self._still_ending())

    def _still_ending(self) -> list[Service]:
        return [service for service in self._retired if service.has_unended]

    def place_of(self, frame: types.FrameType, line: int) -> tuple[str, str] | None:
        """Whose code a line of a frame is: the plugin's id and `plugins/NAME.py:LINE`. From any thread."""
        for service in self.watched():
            loaded = service.loaded
            if loaded is not None and (place := place_of(frame, line, loaded)) is not None:
                return service.plugin_id, place
        return None

    async def stop(self, *, budget_s: float) -> None:
        """Stops every service at once: handlers in hand finish or are cancelled, what is queued stays.

        Each has `budget_s` for it; what is accepted and not handled is reported. Cancelling the wait
        forces nothing; leaving `open_plugins` does.
        """
        self._may_dispatch.set()
        try:
            async with trio.open_nursery() as nursery:
                for service in self.watched():
                    nursery.start_soon(service.end, budget_s)
        finally:
            # Also when the wait was cut short: nothing accepted is lost in silence.
            for service in self.services.values():
                service.report_unfinished()
