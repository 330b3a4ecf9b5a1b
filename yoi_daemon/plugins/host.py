"""All plugins of the daemon: looked up, commanded, reloaded, stopped."""

from collections.abc import Mapping
from functools import partial

import trio

from yoi_daemon.model.errors import ConfigFault, Refused
from yoi_daemon.model.plugins import IngressReceipt, PluginRecord
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.service import Service


class PluginHost:
    """The handle on the plugins of one daemon."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._services: dict[str, Service] = {}
        self.faults: tuple[ConfigFault, ...] = ()
        """What lies in the plugin directory and cannot be a plugin."""

    def add(self, service: Service) -> None:
        """Takes a service under its id."""
        self._services[service.plugin_id] = service

    def remove(self, plugin_id: str) -> None:
        """Lets go of a stopped service."""
        del self._services[plugin_id]

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

    async def accept(
        self, plugin_id: str, ingress: str, payload: bytes, *, key: str | None = None
    ) -> IngressReceipt:
        """See `Admission.accept`; also raises `plugin_not_found`."""
        return await self._admission.accept(self.service(plugin_id), ingress, payload, key=key)

    async def accept_hook(
        self, plugin_id: str, ingress: str, body: bytes, headers: Mapping[str, str]
    ) -> IngressReceipt:
        """See `Admission.accept_hook`; also raises `plugin_not_found`."""
        return await self._admission.accept_hook(self.service(plugin_id), ingress, body, headers)

    async def record(self, plugin_id: str) -> PluginRecord:
        """One plugin as the API shows it."""
        return await self.service(plugin_id).record()

    def records(self) -> tuple[PluginRecord, ...]:
        """All plugins as the API shows them, without asking their status."""
        return tuple(service.record_with() for service in self.services.values())

    def unhealthy(self) -> tuple[str, ...]:
        """The critical plugins that keep the daemon from being ready."""
        return tuple(name for name, service in self.services.items() if service.is_unhealthy)

    def wedged(self) -> tuple[str, ...]:
        """The plugins whose lane is sealed: what runs there cannot be ended."""
        return tuple(name for name, service in self.services.items() if service.is_wedged)

    async def stop(self, *, budget_s: float) -> int:
        """Stops every service at once: handlers in hand finish or are cancelled, what is queued stays.

        Each has `budget_s` for it. Gives the number of events that are accepted and not handled.
        Cancelling the wait forces nothing; leaving `open_plugins` does.
        """
        async with trio.open_nursery() as nursery:
            for service in self.services.values():
                nursery.start_soon(partial(service.stop, budget_s=budget_s))
        return sum(service.report_unfinished() for service in self.services.values())
