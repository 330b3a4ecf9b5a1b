"""Where a service is in its life, since when and why. Each move is an event and a log line."""

from collections.abc import Callable

import trio
from structlog.typing import FilteringBoundLogger

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Draft, PluginStateChanged, Reason, format_time
from yoi_daemon.model.states import SERVICE_TRANSITIONS, Machine, ServiceState


class Lifecycle:
    """The state of one service and its public account of it. Times are monotonic but `since`."""

    def __init__(
        self,
        plugin_id: str,
        event_log: EventLog,
        logger: FilteringBoundLogger,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._plugin_id = plugin_id
        self._event_log = event_log
        self._logger = logger
        self._clock = clock
        self._wall_clock = wall_clock
        self._machine: Machine[ServiceState] = Machine(SERVICE_TRANSITIONS, "ready")
        self._since_wall_s = wall_clock()
        self.since_s = clock()
        self.reason = Reason("loading", "the module is being loaded")
        self.retry_at_s: float | None = None
        self._retry_at_wall_s = 0.0
        self.restarts = 0
        self.gave_up = False
        self.changed = trio.Event()
        """Set at the next move, and when a command has changed what is wanted."""
        self.seq = 0
        """The number of the latest move's event: a command's cursor."""

    @property
    def state(self) -> ServiceState:
        return self._machine.state

    @property
    def since(self) -> str:
        """Returns when the state began, RFC 3339."""
        return format_time(self._since_wall_s)

    @property
    def retry_at(self) -> str | None:
        """Returns when the host starts the service again, RFC 3339."""
        return None if self.retry_at_s is None else format_time(self._retry_at_wall_s)

    def wake(self) -> None:
        """Whoever waits for a change looks again."""
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    def explain(self, code: str, message: str) -> None:
        """Changes the reason without a move."""
        self.reason = Reason(code, message)

    def move(
        self, to: ServiceState, code: str, message: str, *, retry_in_s: float | None = None
    ) -> None:
        """Goes to `to`. Raises `UndefinedTransitionError`."""
        before = self._machine.move(to)
        self.since_s = self._clock()
        self._since_wall_s = self._wall_clock()
        self.reason = Reason(code, message)
        self.retry_at_s = None if retry_in_s is None else self.since_s + retry_in_s
        self._retry_at_wall_s = self._since_wall_s + (retry_in_s or 0)
        data = PluginStateChanged(
            state=to,
            before=before,
            reason=self.reason,
            restarts=self.restarts,
            retry_in_s=retry_in_s,
        )
        self.seq = self._event_log.append(
            Draft(kind="plugin.state", plugin_id=self._plugin_id, data=data)
        )
        self.wake()
        level = "error" if to == "failed" else "info"
        getattr(self._logger, level)(
            f"service {to}", before=before, code=code, reason=message, retry_in_s=retry_in_s
        )

    def refusal(self) -> Refused | None:
        """Returns why nothing is accepted now, if so.

        While a retry is near the queue goes on accepting, so that a webhook is not lost to a restart.
        """
        state = self.state
        if state == "failed" and (self.retry_at_s is None or self.gave_up):
            return Refused(
                "service_failed",
                f"the service failed: {self.reason.message}",
                retry_after_s=self._retry_after_s(),
                state=state,
                reason={"code": self.reason.code, "message": self.reason.message},
            )
        if state == "stopped" and self.reason.code == "safe_mode":
            return Refused("safe_mode", self.reason.message, state=state)
        if state in ("stopping", "stopped"):
            return Refused(
                "service_unavailable", f"the service is {state}; start it, or wait", state=state
            )
        return None

    def _retry_after_s(self) -> float | None:
        return (
            None if self.retry_at_s is None else max(1.0, round(self.retry_at_s - self._clock(), 1))
        )
