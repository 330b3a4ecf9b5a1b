"""Observation events: the catalogue of kinds, the shape of each `data`, and the envelope."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec

from yoi_daemon.model.states import WORKER_TERMINAL, ServiceState, WorkerState

MAX_EVENT_BYTES = 262_144
"""Limit of an event's encoded `data`: 256 KiB, a promise to subscribers."""

AttemptOutcome = Literal[
    "handled",
    "retry_scheduled",
    "dispatch_timeout",
    "handler_failed",
    "interrupted",
    "invalid_event",
]
"""How one attempt to handle an ingress event ended."""


class Reason(msgspec.Struct, frozen=True):
    """The reason for a state: a stable code and a sentence."""

    code: str
    message: str


class Data(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The root of every `data` shape below."""


class DaemonReady(Data, frozen=True):
    """`daemon.ready`: the listeners answer."""

    version: str


class DaemonDraining(Data, frozen=True):
    """`daemon.draining`: the daemon began to shut down; `queued` events wait."""

    queued: int


class DaemonSafeMode(Data, frozen=True):
    """`daemon.safe_mode`: the daemon started without plugins; or, if not `active`, a reload loaded them."""

    active: bool
    reason: str | None = None


class DaemonReloaded(Data, frozen=True):
    """`daemon.reloaded`: a changed configuration took effect, with the plugins and runtimes that changed."""

    plugins: tuple[str, ...]
    runtimes: tuple[str, ...] = ()


class DaemonReloadRefused(Data, frozen=True):
    """`daemon.reload_refused`: the changed configuration has faults; the old one stays in effect."""

    faults: tuple[str, ...]


class LoopBlocked(Data, frozen=True):
    """`daemon.loop_blocked`: code blocked the event loop; a plugin's, if the event has a `plugin_id`.

    `where` is the innermost line: `plugins/NAME.py:LINE`, or one of the daemon's own.
    """

    where: str | None
    blocked_s: float


class TokenChanged(Data, frozen=True):
    """`daemon.token.created`: a token was created, with these scopes, `by` which token.

    `daemon.token.revoked`: a token was revoked, `by` which token.
    """

    token_id: str
    scopes: tuple[str, ...]
    by: str


class PluginStateChanged(Data, frozen=True):
    """`plugin.state`: a service changed its state."""

    state: ServiceState
    before: ServiceState
    reason: Reason
    restarts: int
    retry_in_s: float | None = None


class PluginGaveUp(Data, frozen=True):
    """`plugin.gave_up`: too many restarts; the next attempt follows after a long pause."""

    restarts: int
    within_s: float
    retry_in_s: float | None = None


class PluginSlow(Data, frozen=True):
    """`plugin.slow`: a start or a handler exceeded its warning time."""

    doing: str
    elapsed_s: float
    limit_s: float
    event_id: str | None = None


class PluginWedged(Data, frozen=True):
    """`plugin.wedged`: a call outlived its deadline and its grace; the lane is sealed."""

    doing: str
    where: str
    event_id: str | None = None


class IngressAccepted(Data, frozen=True):
    """`plugin.ingress.accepted`: an event was queued for a service."""

    event_id: str
    ingress: str
    source: str
    queue_depth: int
    redelivery_of: str | None = None


class IngressAttempt(Data, frozen=True):
    """`plugin.ingress.handled`: the handler returned.

    `plugin.ingress.retry_scheduled`: the handler raised `Retry`, and the event is tried again.
    `plugin.ingress.dispatch_timeout`: the handler did not finish within its deadline.
    `plugin.ingress.handler_failed`: the handler raised an exception.
    `plugin.ingress.interrupted`: the attempt was cut off by a stop, a restart or the end of the process.
    `plugin.ingress.invalid_event`: the payload no longer decodes into the type that the ingress declares.
    """

    event_id: str
    ingress: str
    attempt: int
    duration_ms: float
    code: str | None = None
    message: str | None = None
    where: str | None = None
    retry_in_s: float | None = None


class IngressDead(Data, frozen=True):
    """`plugin.ingress.dead_lettered`: no attempt is left; the event is kept for an operator."""

    event_id: str
    ingress: str
    attempts: int
    outcome: AttemptOutcome


class IngressDropped(Data, frozen=True):
    """`plugin.ingress.dropped`: newer events took the place of waiting ones in a full queue.

    `plugin.ingress.coalesced`: newer events took the place of waiting ones of the same value.
    At most one such event a second for each ingress; `count` says how many it stands for.
    """

    ingress: str
    count: int
    last_event_id: str


class IngressDiscarded(Data, frozen=True):
    """`plugin.ingress.discarded`: an operator discarded a dead letter."""

    event_id: str
    ingress: str


class IngressUnfinished(Data, frozen=True):
    """`plugin.ingress.unfinished`: the daemon stops before these accepted events are handled."""

    count: int
    kept: bool


class WorkerCreated(Data, frozen=True):
    """`worker.created`: a worker was created."""

    profile: str
    label: str
    state: WorkerState


class WorkerStateChanged(Data, frozen=True):
    """`worker.state`: a worker changed its state.

    `inputs_dropped` counts accepted inputs that get no turn, because the worker ended.
    """

    state: WorkerState
    before: WorkerState
    generation: int
    reason: Reason | None = None
    inputs_dropped: int = 0


class WorkerInputAccepted(Data, frozen=True):
    """`worker.input_accepted`: an input was queued for a turn."""

    item_id: str
    inbox_depth: int


class WorkerTurnStarted(Data, frozen=True):
    """`worker.turn.started`: the engine began a turn."""

    generation: int
    item_id: str


class WorkerItem(Data, frozen=True):
    """`worker.item`: an item was appended to the transcript; `text` is cut at 8 KiB."""

    item_id: str
    role: str
    text: str
    truncated: bool
    full_bytes: int


class WorkerDelta(Data, frozen=True):
    """`worker.delta`: a part of an item that is being written; small parts are joined.

    The parts of an item, each at its offset in UTF-8, make up the text of the `worker.item` that
    follows. If the turn ends without one, they are void.
    """

    item_id: str
    generation: int
    role: str
    offset_bytes: int
    text: str


class WorkerTurnGivenUp(Data, frozen=True):
    """`worker.turn.given_up`: the engine did not end when the turn was cancelled; its output is ignored."""

    generation: int
    waited_s: float


class WorkerTurnInterrupted(Data, frozen=True):
    """`worker.turn.interrupted`: the daemon ended during the turn, which is not run again."""

    generation: int


class WorkerTurnFinished(Data, frozen=True):
    """`worker.turn.finished`: the engine ended a turn."""

    generation: int
    outcome: Literal["completed", "cancelled", "failed"]
    duration_ms: float
    reason: Reason | None = None


CATALOGUE: Mapping[str, type[Data]] = {
    "daemon.ready": DaemonReady,
    "daemon.draining": DaemonDraining,
    "daemon.safe_mode": DaemonSafeMode,
    "daemon.reloaded": DaemonReloaded,
    "daemon.reload_refused": DaemonReloadRefused,
    "daemon.loop_blocked": LoopBlocked,
    "daemon.token.created": TokenChanged,
    "daemon.token.revoked": TokenChanged,
    "plugin.state": PluginStateChanged,
    "plugin.gave_up": PluginGaveUp,
    "plugin.slow": PluginSlow,
    "plugin.wedged": PluginWedged,
    "plugin.ingress.accepted": IngressAccepted,
    "plugin.ingress.handled": IngressAttempt,
    "plugin.ingress.retry_scheduled": IngressAttempt,
    "plugin.ingress.dispatch_timeout": IngressAttempt,
    "plugin.ingress.handler_failed": IngressAttempt,
    "plugin.ingress.interrupted": IngressAttempt,
    "plugin.ingress.invalid_event": IngressAttempt,
    "plugin.ingress.dead_lettered": IngressDead,
    "plugin.ingress.discarded": IngressDiscarded,
    "plugin.ingress.dropped": IngressDropped,
    "plugin.ingress.coalesced": IngressDropped,
    "plugin.ingress.unfinished": IngressUnfinished,
    "worker.created": WorkerCreated,
    "worker.state": WorkerStateChanged,
    "worker.input_accepted": WorkerInputAccepted,
    "worker.turn.started": WorkerTurnStarted,
    "worker.item": WorkerItem,
    "worker.delta": WorkerDelta,
    "worker.turn.given_up": WorkerTurnGivenUp,
    "worker.turn.interrupted": WorkerTurnInterrupted,
    "worker.turn.finished": WorkerTurnFinished,
}
"""Every kind that the daemon emits. A plugin's own kinds are `<plugin_id>.<name>`, with any JSON."""


class Draft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event before the log numbers it. `data` is a catalogue shape, or any JSON value.

    Its fields are those of `ObservationEvent`, without those that the log adds.
    """

    kind: str
    runtime_id: str | None = None
    worker_id: str | None = None
    plugin_id: str | None = None
    correlation_id: str | None = None
    data: Any


class ObservationEvent(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="event"
):
    """An event as subscribers get it: one text frame, the same bytes for all."""

    cursor: str
    seq: int
    time: str
    kind: str
    runtime_id: str | None = None
    worker_id: str | None = None
    worker_seq: int | None = None
    plugin_id: str | None = None
    correlation_id: str | None = None
    data: Any


def format_time(unix_s: float) -> str:
    """Returns Unix seconds as RFC 3339 in UTC with microseconds: `2026-01-02T03:04:05.000006Z`."""
    second, microsecond = divmod(round(unix_s * 1e6), 1_000_000)
    return f"{format_second(second)}.{microsecond:06d}Z"


@lru_cache(maxsize=4)
def format_second(unix_s: int) -> str:
    """Returns a whole second as RFC 3339 without its zone: `2026-01-02T03:04:05`."""
    # Most times are of the current second.
    return datetime.fromtimestamp(unix_s, UTC).isoformat()[:-6]


def matches_kind(kind: str, prefix: str) -> bool:
    """True if `kind` is `prefix` or lies below it: `worker.` and `worker` both match `worker.x`.

    `worker` does not match `workerx.y`.
    """
    if prefix.endswith("."):
        return kind.startswith(prefix)
    return kind == prefix or kind.startswith(prefix + ".")


Retention = Literal["lifecycle", "volume"]
"""The retention classes: output in volume cannot evict lifecycle events."""

OWN_ROOTS = frozenset({"daemon", "log", "plugin", "runtime", "tool", "worker"})
"""The first words of the daemon's own kinds; reserved as plugin names."""

VOLUME_KINDS = ("worker.item", "worker.delta")


@lru_cache(maxsize=4096)
def is_volume(kind: str) -> bool:
    """True for output in volume: that of workers, and everything that plugins emit."""
    return kind.partition(".")[0] not in OWN_ROOTS or any(
        matches_kind(kind, volume) for volume in VOLUME_KINDS
    )


def retentions_of(prefix: str) -> tuple[Retention, ...]:
    """Returns the retention classes of kinds under `prefix`; the empty prefix is every kind."""
    if prefix and is_volume(prefix.rstrip(".")):
        return ("volume",)
    if not prefix or prefix.rstrip(".") in {kind.partition(".")[0] for kind in VOLUME_KINDS}:
        return ("lifecycle", "volume")
    return ("lifecycle",)


def ends_worker(draft: Draft) -> bool:
    """True for a worker's last event: it moved to a terminal state."""
    return isinstance(draft.data, WorkerStateChanged) and draft.data.state in WORKER_TERMINAL
