"""The stream's protocol, without any I/O: what a client may ask, and every message it is told."""

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl

import msgspec

from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.cursor import MalformedCursorError, decode_cursor
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.workers import EMBEDDED_RUNTIME_ID

PROTOCOL_VERSION = 1
MAX_KINDS = 32

Resume = Literal["live", "exact", "earliest"]
BookmarkReason = Literal["live", "idle", "draining"]

CLOSE_CODES: Mapping[str, int] = {
    "shutting_down": 1012,
    "too_many_subscribers": 1013,
    "slow_consumer": 4008,
    "bad_request": 4400,
    "runtime_not_found": 4404,
    "worker_not_found": 4404,
    "worker_gone": 4404,
    "plugin_not_found": 4404,
    "cursor_expired": 4410,
    "cursor_unknown": 4422,
}
"""4000-4099, 1012 and 1013: reconnect and resume. 4400-4499: do not try again unchanged."""

_ROUTES: tuple[re.Pattern[str], ...] = (
    re.compile(r"/v1/events"),
    re.compile(r"/v1/workers/(?P<worker_id>[^/]+)/events"),
    re.compile(r"/v1/runtimes/(?P<runtime_id>[^/]+)/workers/(?P<worker_id>[^/]+)/events"),
    re.compile(r"/v1/plugins/(?P<plugin_id>[^/]+)/events"),
)
_KIND = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*\.?")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Which stream a path names."""

    runtime_id: str | None = None
    worker_id: str | None = None
    plugin_id: str | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a client's query asks for."""

    cursor: str = "latest"
    kinds: tuple[str, ...] = ()


class StreamRefused(Exception):
    """The stream ends with an `error` message. `code` has a close code; `reason` tells its cases apart."""

    def __init__(
        self, code: str, reason: str, detail: str, *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(code, reason, detail)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s


class WindowMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The window a cursor may come from; `floor` and `head` are cursors."""

    floor: str
    head: str
    events: int
    bytes: int


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """First of all, unless the cursor is refused. `cursor` is where this connection begins."""

    protocol: int
    epoch: str
    heartbeat_s: float
    window: WindowMessage
    resume: Resume
    cursor: str


class Bookmark(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="bookmark"):
    """Everything wanted up to `cursor` was delivered; `delivered` counts this connection's events."""

    cursor: str
    reason: BookmarkReason
    delivered: int


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Come back after so many seconds."""

    after_s: float


class ErrorMessage(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="error"
):
    """Before every error close. `cursor` resumes where this connection ended, if it had begun."""

    code: str
    reason: str
    detail: str
    floor: str
    head: str
    cursor: str | None = None
    retry: Retry | None = None


def find_target(path: str) -> Target:
    """The stream that `path` names. Raises `Refused` (`route_not_found`)."""
    for route in _ROUTES:
        if match := route.fullmatch(path):
            named = match.groupdict()
            if "worker_id" in named:
                named.setdefault("runtime_id", EMBEDDED_RUNTIME_ID)
            return Target(**named)
    raise Refused("route_not_found", "there is no stream here; see /v1/events")


def read_query(query: str) -> Asked:
    """Reads the query. Raises `StreamRefused` (`bad_request`), naming the parameter."""
    asked: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("cursor", "kinds"):
            raise _bad_request("unknown_parameter", f"{name} is none of cursor, kinds")
        if name in asked:
            raise _bad_request("repeated_parameter", f"{name} is given twice")
        asked[name] = value
    kinds = tuple(asked["kinds"].split(",")) if asked.get("kinds") else ()
    if len(kinds) > MAX_KINDS or not all(_KIND.fullmatch(kind) for kind in kinds):
        raise _bad_request(
            "bad_kinds",
            f"expected up to {MAX_KINDS} kinds or prefixes such as worker.,plugin.state",
        )
    return Asked(cursor=asked.get("cursor", "latest"), kinds=kinds)


def filter_of(target: Target, asked: Asked) -> Filter:
    """The filter that a target and a query make together."""
    worker = None
    if target.runtime_id is not None and target.worker_id is not None:
        worker = (target.runtime_id, target.worker_id)
    return Filter(worker=worker, plugin_id=target.plugin_id, kinds=asked.kinds)


def find_position(cursor: str, log: EventLog) -> tuple[int, Resume]:
    """The position a cursor names in this log. Synchronous, so that `latest` is one moment.

    Raises `StreamRefused`: `cursor_expired` (`evicted`), `cursor_unknown` (`malformed`,
    `foreign_epoch`, `future`). Nothing is ever replayed or left out for a cursor that is wrong.
    """
    window = log.window()
    if cursor == "latest":
        return window.head, "live"
    if cursor == "earliest":
        return window.floor, "earliest"
    try:
        named = decode_cursor(cursor)
    except MalformedCursorError as error:
        raise StreamRefused("cursor_unknown", "malformed", "this never was a cursor") from error
    # The epoch before the number: a number of another log means nothing here.
    if named.epoch != log.cursors.epoch:
        raise StreamRefused(
            "cursor_unknown", "foreign_epoch", "this cursor is of another log; begin at earliest"
        )
    if named.seq > window.head:
        raise StreamRefused("cursor_unknown", "future", "this cursor is ahead of the log")
    if named.seq < window.floor:
        raise StreamRefused(
            "cursor_expired", "evicted", "events after this cursor are gone; begin at earliest"
        )
    return named.seq, "exact"


def hello(log: EventLog, heartbeat_s: float, resume: Resume, position: int) -> bytes:
    """The `hello` message."""
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
    """A `bookmark` message."""
    return msgspec.json.encode(
        Bookmark(cursor=log.cursors.encode(position), reason=reason, delivered=delivered)
    )


def error(log: EventLog, refused: StreamRefused, position: int | None) -> bytes:
    """An `error` message."""
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
            retry=None if after_s is None else Retry(after_s=after_s),
        )
    )


def _bad_request(reason: str, detail: str) -> StreamRefused:
    return StreamRefused("bad_request", reason, detail)
