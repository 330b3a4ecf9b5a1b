"""Public shapes of plugins and of what they are fed."""

from typing import Any

import msgspec

from yoi_daemon.model.events import Reason
from yoi_daemon.model.states import ServiceState


class IngressReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The 202: the event is on the queue; `queue_depth` counts it and everything unfinished before."""

    event_id: str
    correlation_id: str
    queue_depth: int
    cursor: str


class LastError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The latest failure of a plugin. `where` is the innermost file and line of the plugin itself."""

    code: str
    message: str
    time: str
    where: str | None = None
    event_id: str | None = None


class IngressInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One declared ingress. `verify` is the signature a webhook asks for; `every_s` is a timer's period."""

    name: str
    verify: str | None
    every_s: float | None


class DispatchTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long handlers took, in milliseconds, over the latest attempts (at most 256)."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class PluginRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin as the API shows it."""

    plugin_id: str
    state: ServiceState
    since: str
    reason: Reason
    restarts: int
    retry_at: str | None
    queue_depth: int
    queue_capacity: int
    queue_bytes: int
    queue_bytes_capacity: int
    oldest_waiting_s: float | None
    counters: dict[str, int]
    dispatch: DispatchTimes
    detail: Any
    last_error: LastError | None
    isolation: str
    critical: bool
    tools: tuple[str, ...]
    ingresses: tuple[IngressInfo, ...]
