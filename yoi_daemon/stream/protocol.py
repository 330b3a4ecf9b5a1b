"""The stream's protocol, without I/O: what a client may ask for, and every message it gets."""

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl

import msgspec

from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.cursor import CursorRefused, resolve_cursor
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID
from yoi_daemon.model.tokens import PERMISSIONS, Permission
from yoi_daemon.model.workers import TranscriptPage, WorkerSummary

PROTOCOL_VERSION = 1
MAX_KINDS = 32

Resume = Literal["live", "exact", "earliest", "snapshot"]
BookmarkReason = Literal["live", "idle", "progress", "evicting", "draining"]
OnGap = Literal["error", "snapshot", "earliest"]
LossReason = Literal["evicted", "epoch_changed"]

CLOSE_CODES: Mapping[str, int] = {
    "shutting_down": 1012,
    "too_many_subscribers": 1013,
    "slow_consumer": 4008,
    "bad_request": 4400,
    "unauthenticated": 4401,
    "runtime_not_found": 4404,
    "worker_not_found": 4404,
    "worker_gone": 4404,
    "plugin_not_found": 4404,
    "cursor_expired": 4410,
    "cursor_unknown": 4422,
}
"""WebSocket close code of each error code. 4000-4099, 1012, 1013: reconnect. 4400-4499: do not retry unchanged."""

CLOSE_MEANINGS: Mapping[str, str] = {
    "end": "The scope is finished and was delivered whole. There is nothing to resume.",
    "shutting_down": "The daemon stops. Reconnect after `retry.after_s` and resume.",
    "too_many_subscribers": "A limit on subscribers is reached. Try again after `retry.after_s`.",
    "slow_consumer": "The window passed this subscriber (`overrun`), or it accepted nothing for 10 s (`stalled`). "
    "Reconnect and resume.",
    "bad_request": "The path or a parameter is wrong. `reason` says which.",
    "unauthenticated": "The token was revoked or has expired.",
    "runtime_not_found": "There is no runtime of this id.",
    "worker_not_found": "There is no worker of this id. `await=1` waits for one.",
    "worker_gone": "The worker ended before this cursor. `worker` is its final state.",
    "plugin_not_found": "There is no plugin of this id.",
    "cursor_expired": "Events after the cursor are gone (`evicted`), or the log began anew (`epoch_changed`). "
    "Begin at `earliest`.",
    "cursor_unknown": "The cursor is not of this log: `malformed`, `foreign_epoch` or `future`.",
}
"""What each close code, and `end`, means to a subscriber, in a sentence or two."""


class StreamRoute(msgspec.Struct, frozen=True):
    """A path that is a stream, and the permission to follow it. `rule` is as in a REST route."""

    rule: str
    access: Permission

    def __post_init__(self) -> None:
        if self.access not in PERMISSIONS:
            raise ValueError(f"{self.rule}: a stream needs a permission")


STREAMS: tuple[StreamRoute, ...] = (
    StreamRoute("/v1/events", "events:read"),
    StreamRoute("/v1/workers/<worker_id>/events", "events:read"),
    StreamRoute("/v1/runtimes/<runtime_id>/workers/<worker_id>/events", "events:read"),
    StreamRoute("/v1/plugins/<plugin_id>/events", "events:read"),
)
_PARAMETER = re.compile(r"<([a-z_]+)>")
_PATTERNS = [(route, re.compile(_PARAMETER.sub(r"(?P<\1>[^/]+)", route.rule))) for route in STREAMS]
_PARAMETERS = ("cursor", "kinds", "on_gap", "snapshot", "await")
_KIND = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*\.?")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The stream that a path names."""

    runtime_id: str | None = None
    worker_id: str | None = None
    plugin_id: str | None = None


class StreamQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a client's query."""

    cursor: str = "latest"
    kinds: tuple[str, ...] = ()
    on_gap: OnGap = "error"
    snapshot: bool = False
    await_worker: bool = False


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Events after `from_cursor`, up to the position where the subscriber resumes, may be lost."""

    from_cursor: str
    reason: LossReason


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stream begins; with `loss`, after a gap that its subscriber accepts."""

    position: int
    resume: Resume
    loss: Loss | None = None


class StreamRefused(Exception):
    """Ends a stream with an `error` message. `code` is in `CLOSE_CODES`; `reason` tells its cases apart."""

    def __init__(
        self,
        code: str,
        reason: str,
        detail: str,
        *,
        retry_after_s: float | None = None,
        worker: WorkerSummary | None = None,
    ) -> None:
        super().__init__(code, reason, detail)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.worker = worker


class WindowMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The window that cursors resume from; `floor` and `head` are cursors."""

    floor: str
    head: str
    events: int
    bytes: int


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """The first message, unless the cursor is refused. `cursor` is where this connection begins."""

    protocol: int
    epoch: str
    heartbeat_s: float
    window: WindowMessage
    resume: Resume
    cursor: str


class Bookmark(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="bookmark"):
    """Every match up to `cursor` was delivered; `delivered` counts this connection's events."""

    cursor: str
    reason: BookmarkReason
    delivered: int


class WorkerSnapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker at the snapshot's cursor; on its own stream with the latest page of its transcript."""

    worker: WorkerSummary
    transcript: TranscriptPage | None = None


class Snapshot(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="snapshot"
):
    """Workers as they were at `cursor`; `more` if there are others."""

    cursor: str
    workers: tuple[WorkerSnapshot, ...]
    more: bool = False


class Gap(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="gap",
    rename={"from_cursor": "from"},
):
    """Only events after `from`, up to `to`, were lost; `cursor` is `to`."""

    from_cursor: str
    to: str
    cursor: str
    reason: LossReason


class End(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="end"):
    """The scope is finished, and all its events were delivered."""

    cursor: str
    reason: str
    worker: WorkerSummary


class RetryAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """Reconnect after so many seconds."""

    after_s: float


class ErrorMessage(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="error"
):
    """Sent before every error close. `cursor` resumes where this connection ended, if it had begun."""

    code: str
    reason: str
    detail: str
    floor: str
    head: str
    cursor: str | None = None
    retry: RetryAdvice | None = None
    worker: WorkerSummary | None = None


def find_target(path: str) -> tuple[StreamRoute, Target]:
    """Returns the stream that `path` names. Raises `Refused` (`route_not_found`)."""
    for route, pattern in _PATTERNS:
        if match := pattern.fullmatch(path):
            named = match.groupdict()
            if "worker_id" in named:
                named.setdefault("runtime_id", EMBEDDED_RUNTIME_ID)
            return route, Target(**named)
    raise Refused("route_not_found", "there is no stream here; see /v1/events")


def read_query(query: str) -> StreamQuery:
    """Reads the query. Raises `StreamRefused` (`bad_request`), naming the parameter."""
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _PARAMETERS:
            raise _bad_request("unknown_parameter", f"{name!a} is none of {', '.join(_PARAMETERS)}")
        if name in given:
            raise _bad_request("repeated_parameter", f"{name} is repeated")
        given[name] = value
    kinds = tuple(given["kinds"].split(",")) if given.get("kinds") else ()
    if len(kinds) > MAX_KINDS or not all(_KIND.fullmatch(kind) for kind in kinds):
        raise _bad_request(
            "bad_kinds",
            f"expected up to {MAX_KINDS} kinds or prefixes such as worker.,plugin.state",
        )
    on_gap = given.get("on_gap", "error")
    if on_gap not in ("error", "snapshot", "earliest"):
        raise _bad_request("bad_on_gap", "on_gap is error, snapshot or earliest")
    return StreamQuery(
        cursor=given.get("cursor", "latest"),
        kinds=kinds,
        on_gap=on_gap,
        snapshot=_flag(given, "snapshot"),
        await_worker=_flag(given, "await"),
    )


def _flag(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "0")
    if value not in ("0", "1"):
        raise _bad_request(f"bad_{name}", f"{name} is 0 or 1")
    return value == "1"


def filter_of(target: Target, query: StreamQuery) -> Filter:
    """Returns the filter of a target and a query."""
    worker = None
    if target.runtime_id is not None and target.worker_id is not None:
        worker = (target.runtime_id, target.worker_id)
    return Filter(worker=worker, plugin_id=target.plugin_id, kinds=query.kinds)


def find_start(query: StreamQuery, wanted: Filter, log: EventLog) -> Start:
    """Returns where a subscriber begins in this log. Synchronous, so that `latest` is one moment.

    Raises `StreamRefused` for what `resolve_cursor` refuses, unless the cursor expired and `on_gap`
    accepts the loss.
    """
    floor, head = log.floor_of(wanted), log.head
    if query.cursor == "latest":
        return Start(position=head, resume="live")
    if query.cursor == "earliest":
        return Start(position=floor, resume="earliest")
    try:
        position = resolve_cursor(
            query.cursor,
            epoch=log.cursors.epoch,
            earlier_epochs=log.earlier_epochs,
            floor=floor,
            head=head,
        )
    except CursorRefused as refused:
        if refused.reason in ("evicted", "epoch_changed"):
            loss = Loss(from_cursor=query.cursor, reason=refused.reason)
            if query.on_gap == "earliest":
                return Start(position=floor, resume="earliest", loss=loss)
            if query.on_gap == "snapshot":
                return Start(position=head, resume="snapshot", loss=loss)
        raise StreamRefused(refused.code, refused.reason, refused.detail) from refused
    return Start(position=position, resume="exact")


def hello(log: EventLog, heartbeat_s: float, resume: Resume, position: int) -> bytes:
    """Returns the `hello` message."""
    window = log.window()
    return msgspec.json.encode(
        Hello(
            protocol=PROTOCOL_VERSION,
            epoch=log.cursors.epoch,
            heartbeat_s=heartbeat_s,
            window=WindowMessage(
                floor=log.cursors.encode(window.floor),
                head=log.cursors.encode(window.head),
                events=window.events,
                bytes=window.bytes,
            ),
            resume=resume,
            cursor=log.cursors.encode(position),
        )
    )


def bookmark(log: EventLog, position: int, reason: BookmarkReason, delivered: int) -> bytes:
    """Returns a `bookmark` message."""
    return msgspec.json.encode(
        Bookmark(cursor=log.cursors.encode(position), reason=reason, delivered=delivered)
    )


def error(log: EventLog, refused: StreamRefused, position: int | None) -> bytes:
    """Returns an `error` message."""
    window = log.window()
    after_s = refused.retry_after_s
    return msgspec.json.encode(
        ErrorMessage(
            code=refused.code,
            reason=refused.reason,
            detail=refused.detail,
            floor=log.cursors.encode(window.floor),
            head=log.cursors.encode(window.head),
            cursor=None if position is None else log.cursors.encode(position),
            retry=None if after_s is None else RetryAdvice(after_s=after_s),
            worker=refused.worker,
        )
    )


def gap(log: EventLog, loss: Loss, position: int) -> bytes:
    """Returns a `gap` message: the loss ends at `position`, where the subscriber resumes."""
    to = log.cursors.encode(position)
    return msgspec.json.encode(
        Gap(from_cursor=loss.from_cursor, to=to, cursor=to, reason=loss.reason)
    )


def end(log: EventLog, position: int, worker: WorkerSummary) -> bytes:
    """Returns the `end` message of a worker's stream, with its final state."""
    cursor = log.cursors.encode(position)
    return msgspec.json.encode(End(cursor=cursor, reason="worker_gone", worker=worker))


def _bad_request(reason: str, detail: str) -> StreamRefused:
    return StreamRefused("bad_request", reason, detail)
