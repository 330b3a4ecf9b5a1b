"""What the observation stream says, as types. Nothing here reads from a socket."""

from collections.abc import Callable
from typing import Any

import msgspec

from yoi_daemon.model.events import ObservationEvent

Cursor = str
"""Opaque: kept, given back, never looked into."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The root of the messages that are not events. Unknown fields are passed over."""


class Window(Message, frozen=True):
    """What of the log can be resumed from. Positions are whatever the daemon tells."""

    floor: Any = None
    head: Any = None
    events: int | None = None
    bytes: int | None = None


class Hello(Message, frozen=True):
    """The first of every connection; `resume` is `live`, `exact`, `earliest` or `snapshot`."""

    protocol: int
    epoch: str
    heartbeat_s: float
    resume: str
    window: Window = msgspec.field(default_factory=Window)
    cursor: Cursor | None = None


class Bookmark(Message, frozen=True):
    """A position without an event: all this scope wants up to `cursor` was delivered."""

    cursor: Cursor
    reason: str
    delivered: int | None = None


class Snapshot(Message, frozen=True):
    """Bounded projections of workers, true at `cursor`; `body` is the whole message."""

    body: dict[str, Any]
    cursor: Cursor | None = None


class Gap(Message, frozen=True):
    """What was lost, where the subscriber chose to go on; `body` is the whole message."""

    body: dict[str, Any]
    cursor: Cursor | None = None


class End(Message, frozen=True):
    """The scope is finished and everything was delivered; `body` is the whole message."""

    body: dict[str, Any]
    cursor: Cursor | None = None


class RetryAdvice(Message, frozen=True):
    """When the daemon would like to see this subscriber again, in seconds."""

    after_s: float | None = None


class StreamFailure(Message, frozen=True):
    """`error`: why the connection will be closed. It decides nothing alone, the close code does."""

    code: str
    reason: str = ""
    detail: str = ""
    retry: RetryAdvice | None = None
    cursor: Cursor | None = None
    floor: Any = None
    head: Any = None


class Unknown(Message, frozen=True):
    """A message of a later version; `body` is the whole of it."""

    type: str
    body: dict[str, Any]


class Cut(Message, frozen=True):
    """Made here, not received: the connection ended without `end`, and will be tried again.

    `wait_s` is how long from now; `code` is the WebSocket's close code, when there was one.
    """

    reason: str
    wait_s: float
    code: int | None = None


Received = Hello | ObservationEvent | Bookmark | Snapshot | Gap | End | StreamFailure | Unknown


class ProtocolError(ValueError):
    """A frame that is no message of this protocol."""


class _Tag(msgspec.Struct):
    type: str


def _bodied(kind: type[Snapshot] | type[Gap] | type[End]) -> Callable[[bytes], Received]:
    def decode(frame: bytes) -> Received:
        body = msgspec.json.decode(frame, type=dict[str, Any])
        cursor = body.get("cursor")
        return kind(body=body, cursor=cursor if isinstance(cursor, str) else None)

    return decode


_DECODE: dict[str, Callable[[bytes], Received]] = {
    "event": msgspec.json.Decoder(ObservationEvent).decode,
    "hello": msgspec.json.Decoder(Hello).decode,
    "bookmark": msgspec.json.Decoder(Bookmark).decode,
    "error": msgspec.json.Decoder(StreamFailure).decode,
    "snapshot": _bodied(Snapshot),
    "gap": _bodied(Gap),
    "end": _bodied(End),
}
_decode_tag = msgspec.json.Decoder(_Tag).decode


def decode_message(frame: str | bytes) -> Received:
    """Returns the message in one text frame. Raises `ProtocolError`."""
    data = frame.encode() if isinstance(frame, str) else frame
    try:
        tag = _decode_tag(data).type
        decode = _DECODE.get(tag)
        if decode is None:
            return Unknown(type=tag, body=msgspec.json.decode(data, type=dict[str, Any]))
        return decode(data)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ProtocolError(f"a frame is no message of protocol 1: {error}") from error


def cursor_of(message: Received | Cut) -> Cursor | None:
    """Returns the position that `message` moves a subscriber to, if it moves it.

    An `error` names positions without moving to them.
    """
    if isinstance(message, ObservationEvent | Hello | Bookmark | Snapshot | Gap | End):
        return message.cursor
    return None
