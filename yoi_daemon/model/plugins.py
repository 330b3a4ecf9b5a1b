"""Public shapes of plugins, their events and their tools."""

from collections.abc import Mapping
from typing import Any

import msgspec

from yoi_daemon.model.events import AttemptOutcome, Reason
from yoi_daemon.model.states import ServiceState


class IngressReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a 202: the event is queued; `queue_depth` counts every unfinished event, this one included."""

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
    """One declared ingress. `verify` is a webhook's signature scheme; `every_s` is a timer's period."""

    name: str
    verify: str | None
    every_s: float | None


class DispatchTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Durations of the latest attempts (at most 256), in milliseconds."""

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


class PluginReceipt(msgspec.Struct, frozen=True):
    """The response to a command to a plugin: the plugin, and the cursor at which the change is visible."""

    plugin: PluginRecord
    cursor: str


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of one attempt. `where` is the innermost file and line of the plugin itself."""

    attempt: int
    outcome: AttemptOutcome
    started_at: str
    duration_ms: float
    code: str | None = None
    message: str | None = None
    where: str | None = None


class DeadLetterSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter in a list. `plugin_digest` is that of the plugin's code at the last attempt."""

    event_id: str
    ingress: str
    source: str
    created_at: str
    died_at: str
    correlation_id: str
    bytes: int
    attempts: tuple[AttemptRecord, ...]
    plugin_digest: str
    redelivery_of: str | None


class DeadLetterDetail(DeadLetterSummary, frozen=True, kw_only=True):
    """A dead letter with its payload: the JSON text, and the exact bytes in base 64."""

    payload: msgspec.Raw
    payload_base64: str
    headers: Mapping[str, str]


class DiscardReceipt(msgspec.Struct, frozen=True):
    """The response to a discard: the dead letter is gone."""

    event_id: str
    cursor: str


class ToolInfo(msgspec.Struct, frozen=True):
    """A tool; `arguments` and `result` are JSON Schemas."""

    plugin_id: str
    tool: str
    description: str
    arguments: dict[str, Any]
    result: dict[str, Any]
