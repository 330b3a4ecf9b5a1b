"""Events that come together share a commit."""

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.supervision.service import Service

SHARED_EVENTS = 64
"""How many events of a batch share a commit; the next wait for it, so that the lane gets its turn."""
MAX_SHARED_EVENTS = 256
"""How many while the queue is less than half full: what fits shall not be refused for coming at once."""


class EventBatch:
    """Events for one plugin, admitted one after another and committed together."""

    def __init__(self, service: Service, admission: Admission, event_log: EventLog) -> None:
        self._service = service
        self._admission = admission
        self._event_log = event_log
        self._position = 0

    async def admit(
        self, ingress: str, payload: bytes, *, key: str | None = None
    ) -> IngressReceipt:
        """Accepts JSON that `check_json` took. Nobody may be told of it until `commit` has returned.

        Raises `Refused`, as `PluginHost.accept`.
        """
        receipt, seq = await self._admission.admit(
            self._service, ingress, payload, key=key, is_checked=True
        )
        self._position = max(self._position, seq)
        return receipt

    def may_share(self, events: int) -> bool:
        """Returns True where one event more may share the commit of `events`."""
        if events < SHARED_EVENTS:
            return True
        lane = self._service.lane
        return events < MAX_SHARED_EVENTS and 2 * lane.depth < lane.limits.queue_events

    async def commit(self) -> None:
        """Waits until everything admitted so far is committed."""
        await self._event_log.committed(self._position)
