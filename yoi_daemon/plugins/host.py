"""All plugins of the daemon: looked up, commanded, reloaded, stopped."""

import types
from collections import deque
from collections.abc import Callable, Mapping

import msgspec
import trio

from yoi_daemon.model.errors import ConfigFault, Refused
from yoi_daemon.model.plugins import (
    DeadLetterDetail,
    DeadLetterSummary,
    DiscardReceipt,
    IngressReceipt,
    PluginReceipt,
    PluginRecord,
    ToolInfo,
)
from yoi_daemon.model.settings import PluginSettings, Settings
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.batch import EventBatch
from yoi_daemon.plugins.execution.failures import place_of
from yoi_daemon.plugins.lane.deadletters import detail_of
from yoi_daemon.plugins.lane.ledger import Restored, restore
from yoi_daemon.plugins.loading.loader import Loader
from yoi_daemon.plugins.reloading import PluginPlan, load_changed
from yoi_daemon.plugins.summary import ask_status, record_of
from yoi_daemon.plugins.supervision.commands import ServiceCommand
from yoi_daemon.plugins.supervision.parts import HostServices
from yoi_daemon.plugins.supervision.service import Service
from yoi_daemon.plugins.tools import call_tool, tools_of
from yoi_daemon.store.interface import Store

ONE_BY_ONE_S = 60.0
"""What a careful boot may take in all: one that hangs must not keep the others down for its whole deadline."""


class PluginHost:
    """The plugins of one daemon: whoever asks something of a plugin asks here, by its id.

    Every method that takes a plugin's id raises `Refused` (`plugin_not_found`). A receipt is given after
    the commit of what it tells; its cursor is where the change became visible.
    """

    def __init__(
        self,
        loader: Loader,
        admission: Admission,
        store: Store,
        services: HostServices,
        spawn: Callable[[Service], None],
    ) -> None:
        self._event_log = services.event_log
        self._store = store
        self._host_services = services
        self._loader = loader
        self._admission = admission
        self._spawn = spawn
        self._may_dispatch = services.may_dispatch
        self._services: dict[str, Service] = {}
        self._retired: list[Service] = []
        """Services that were removed, of which something may still run."""
        self.faults: tuple[ConfigFault, ...] = ()
        """What lies in the plugin directory and cannot be a plugin."""
        self.safe_mode: str | None = None
        """Why no plugin was loaded at the start, until a reload of all of them."""

    async def restored(self, plugin_id: str) -> Restored:
        """Reads what the store keeps of a plugin. Raises `StorageFailed`."""
        # The last rows of one that was removed may still be on their way.
        await self._event_log.recorded(self._event_log.record(()))
        return await restore(self._store, plugin_id, trio.current_time())

    def make(self, plugin_id: str, settings: PluginSettings, restored: Restored) -> Service:
        """Makes a service with what the store kept of it."""
        service = Service(plugin_id, settings, self._host_services)
        service.restore(restored)
        return service

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
        """Returns the services by plugin id, in the order of ids."""
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
        added = (
            change.plugin_id for change in plan.changes if change.plugin_id not in self._services
        )
        restored = {plugin_id: await self.restored(plugin_id) for plugin_id in added}
        return msgspec.structs.replace(plan, restored=restored)

    def take(self, plan: PluginPlan) -> Mapping[str, ServiceCommand]:
        """Goes on with what was prepared. Returns the commands under way, by plugin id.

        Cannot fail. A service that is replaced drains first; what is queued stays.
        """
        self.faults = plan.bad_files
        for plugin_id, failure in plan.failed.items():
            self._services[plugin_id].installation.fail(failure)
        self._retired = self._still_ending()
        commands: dict[str, ServiceCommand] = {}
        for plugin_id in plan.removed:
            service = self._services.pop(plugin_id)
            self._retired.append(service)
            commands[plugin_id] = service.retire()
        for change in plan.changes:
            service = self._services.get(change.plugin_id)
            if service is not None:
                commands[change.plugin_id] = service.replace(change.loaded, change.settings)
                continue
            restored = plan.restored[change.plugin_id]
            service = self.make(change.plugin_id, change.settings, restored)
            service.installation.adopt(change.loaded)
            self.add(service)
            self._spawn(service)
        if plan.only is None:
            self.safe_mode = None
        return commands

    # -- one plugin

    async def start(self, plugin_id: str) -> PluginReceipt:
        """Starts a service and forgets its restarts; returns when it is starting.

        Raises `Refused`: `invalid_state`, `draining`. Cancelling the wait does not take the command back.
        """
        service = self.service(plugin_id)
        await service.start()
        return await self._receipt(service)

    async def stop(self, plugin_id: str) -> PluginReceipt:
        """Drains and stops a service, in the plugin's own times. Raises as `start` does."""
        service = self.service(plugin_id)
        await service.stop()
        return await self._receipt(service)

    async def restart(self, plugin_id: str) -> PluginReceipt:
        """Stops and starts a service. Raises as `start` does."""
        service = self.service(plugin_id)
        await service.restart()
        return await self._receipt(service)

    async def _receipt(self, service: Service) -> PluginReceipt:
        # Position and state in one stretch, told after the commit.
        seq, record = service.lifecycle.seq, record_of(service)
        await self._event_log.committed(seq)
        return PluginReceipt(record, self._event_log.cursors.encode(seq))

    async def accept(
        self, plugin_id: str, ingress: str, payload: bytes, *, key: str | None = None
    ) -> IngressReceipt:
        """Accepts JSON for an ingress. Cancelled, the event may be accepted or not.

        Raises `Refused`: `ingress_not_found`, `service_unavailable`, `service_failed`, `safe_mode`,
        `payload_too_large`, `invalid_event`, `queue_full`, `storage_low`, `delivery_id_conflict`.
        """
        return await self._admission.accept(self.service(plugin_id), ingress, payload, key=key)

    async def accept_hook(
        self, plugin_id: str, ingress: str, body: bytes, headers: Mapping[str, str]
    ) -> IngressReceipt:
        """Accepts a webhook whose signature is right. `headers` are in lower case.

        Raises `Refused` as `accept` does, and before anything about the body `unauthenticated` and
        `rate_limited`.
        """
        return await self._admission.accept_hook(self.service(plugin_id), ingress, body, headers)

    def open_batch(self, plugin_id: str) -> EventBatch:
        """Begins a batch of events for one plugin."""
        return EventBatch(self.service(plugin_id), self._admission, self._event_log)

    def dead_letters(
        self, plugin_id: str, *, after: str | None, limit: int
    ) -> tuple[list[DeadLetterSummary], str | None]:
        """Returns up to `limit` dead letters after the event id `after`, and where the next page begins."""
        return self.service(plugin_id).dead_letters.page(after, limit)

    def dead_letter(self, plugin_id: str, event_id: str) -> DeadLetterDetail:
        """Returns one dead letter with its payload. Raises `Refused` (`event_not_found`)."""
        return detail_of(self.service(plugin_id).dead_letters.get(event_id))

    async def redeliver(self, plugin_id: str, event_id: str) -> IngressReceipt:
        """Queues a dead letter once more, with the same id.

        Raises `Refused`: `event_not_found`, `rate_limited`, `queue_full`, `service_unavailable`,
        `service_failed`, `safe_mode`.
        """
        return await self._admission.redeliver(self.service(plugin_id), event_id)

    async def discard(self, plugin_id: str, event_id: str) -> DiscardReceipt:
        """Deletes a dead letter. Raises `Refused` (`event_not_found`)."""
        _, seq = self.service(plugin_id).settlement.discard(event_id)
        await self._event_log.committed(seq)
        return DiscardReceipt(event_id, self._event_log.cursors.encode(seq))

    def tools(self) -> tuple[ToolInfo, ...]:
        """Returns every tool of the plugins that are loaded."""
        return tuple(tool for service in self.services.values() for tool in tools_of(service))

    async def call_tool(self, plugin_id: str, tool: str, arguments: bytes) -> bytes:
        """Runs a tool at once and returns its result as JSON. Cancelled, the tool is cancelled.

        Raises `Refused`: `tool_not_found`, `service_unavailable`, `draining`, `invalid_request`,
        `limit_reached`, `tool_timeout`, `tool_failed`.
        """
        return await call_tool(self.service(plugin_id), tool, arguments)

    async def record(self, plugin_id: str) -> PluginRecord:
        """Returns one plugin as the API shows it, and asks its status."""
        service = self.service(plugin_id)
        return record_of(service, await ask_status(service))

    # -- all plugins

    def records(self) -> tuple[PluginRecord, ...]:
        """Returns all plugins as the API shows them, without asking their status."""
        return tuple(record_of(service) for service in self.services.values())

    def unhealthy(self) -> tuple[str, ...]:
        """Returns the critical plugins that keep the daemon from being ready."""
        return tuple(name for name, service in self.services.items() if service.is_unhealthy)

    def unended(self) -> tuple[str, ...]:
        """Returns the plugins of which something still runs: after `stop`, what ignores its end."""
        return tuple(service.plugin_id for service in self.watched() if service.has_unended)

    async def wait_loaded(self) -> None:
        """Waits until every module was imported, good or bad."""
        for service in self.services.values():
            await service.installation.is_loaded.wait()

    async def wait_settled(self) -> None:
        """Waits until each was loaded and started once, good or bad."""
        for service in self.services.values():
            await service.settled()

    def watched(self) -> tuple[Service, ...]:
        """Returns every service with calls to watch: also those that were removed and still run."""
        return (*self._services.values(), *self._still_ending())

    def _still_ending(self) -> list[Service]:
        return [service for service in self._retired if service.has_unended]

    def place_of(self, frame: types.FrameType, line: int) -> tuple[str, str] | None:
        """Whose code a line of a frame is: the plugin's id and `plugins/NAME.py:LINE`. From any thread."""
        for service in self.watched():
            loaded = service.installed.loaded
            if loaded is not None and (place := place_of(frame, line, loaded)) is not None:
                return service.plugin_id, place
        return None

    async def shutdown(self, *, budget_s: float) -> None:
        """Stops every service at once: handlers in hand finish or are cancelled, what is queued stays.

        Each has `budget_s` for it; what is accepted and not handled is reported. Cancelling the wait
        forces nothing; leaving `open_plugins` does.
        """
        try:
            async with trio.open_nursery() as nursery:
                for service in self.watched():
                    nursery.start_soon(service.end, budget_s)
        finally:
            # Also when the wait was cut short: nothing accepted is lost in silence.
            for service in self.services.values():
                service.report_unfinished()
