"""An accepted event on its way through a lane, and one attempt to handle it."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import trio

from yoi_daemon.cancellation import GuardedCall
from yoi_daemon.model.events import AttemptOutcome
from yoi_daemon.model.plugins import AttemptRecord
from yoi_daemon.sdk.context import AttemptClosedError

Place = Literal["new", "reserved", "queued", "claimed", "in_hand", "parked", "held", "ended"]
"""Where a delivery is; `plugins.lane.places` has the table.

It has room (`reserved`) before it is committed, then waits (`queued`). `claimed`: that its attempt is to
begin is being committed, or is. `in_hand`: its handler runs. `parked` and `held` wait for their next
attempt, and let later events by or not.
"""


class Delivery:
    """An accepted event, as bytes: what the host keeps, and all that a handler is given of it.

    `size` is what it counts against `queue_bytes`. `attempt` is how many attempts have begun,
    `failures` how many of them used one up (an interrupted one does not). `number` is that of the
    acceptance, `position` that of the latest one, where it was redelivered. An `is_suspect` event
    may have ended the process before: it is attempted by itself. `coalesce_value` is the value at the
    path it was asked for last, and that path.
    """

    __slots__ = (
        "accepted_s",
        "attempt",
        "attempts",
        "body",
        "coalesce_value",
        "correlation_id",
        "created_at",
        "event_id",
        "failures",
        "headers",
        "ingress",
        "is_suspect",
        "not_before",
        "number",
        "payload",
        "place",
        "position",
        "redelivery_of",
        "size",
        "source",
    )

    def __init__(
        self,
        *,
        event_id: str,
        correlation_id: str,
        source: str,
        ingress: str,
        payload: bytes,
        created_at: str,
        accepted_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        redelivery_of: str | None = None,
    ) -> None:
        self.event_id = event_id
        self.correlation_id = correlation_id
        self.source = source
        self.ingress = ingress
        self.payload = payload
        self.created_at = created_at
        self.accepted_s = accepted_s
        self.headers = headers or {}
        self.body = body
        self.redelivery_of = redelivery_of
        self.size = len(payload) + (0 if body is payload else len(body))
        if self.headers:
            self.size += sum(len(name) + len(value) for name, value in self.headers.items())
        self.number = 0
        self.position = 0
        self.attempt = 0
        self.failures = 0
        self.is_suspect = False
        self.attempts: list[AttemptRecord] = []
        self.not_before = 0.0
        self.place: Place = "new"
        self.coalesce_value: tuple[tuple[str, ...], Any] | None = None


class LaneLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a lane, in events, bytes and seconds."""

    queue_events: int
    queue_bytes: int
    dispatch_timeout_s: float
    dispatch_warn_s: float
    dispatch_grace_s: float


class PluginCall(GuardedCall):
    """A call of an author's function, under the eyes of the watchdog."""

    __slots__ = ()

    closed_error = AttemptClosedError


class Attempt(PluginCall):
    """One run of a handler on one event. The scopes are those of its batch."""

    __slots__ = ("delivery",)

    def __init__(
        self,
        delivery: Delivery,
        started_s: float,
        limits: LaneLimits,
        scope: trio.CancelScope,
        give_up: trio.CancelScope,
    ) -> None:
        # Spelled out, not by super(): this runs for every event.
        self.delivery = delivery
        self.started_s = started_s
        self.due = started_s + limits.dispatch_timeout_s
        self.warn_at = started_s + limits.dispatch_warn_s
        self.grace_s = limits.dispatch_grace_s
        self.scope = scope
        self.give_up = give_up
        self.is_open = True
        self.is_late = False
        self.is_wedged = False


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something of a plugin that went wrong.

    `where` is the innermost file and line of the plugin itself. `traceback` is for the log alone: it
    holds paths.
    """

    code: str
    message: str
    where: str | None = None
    traceback: str | None = None


class Failure(Fault, frozen=True, kw_only=True):
    """What an executor says of a handler that did not succeed.

    `retry_after_s` is set where the handler asked for a retry and named its time.
    """

    outcome: AttemptOutcome
    retry_after_s: float | None = None
