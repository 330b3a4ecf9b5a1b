"""Reads a request's head with h11, and refuses what h11 lets through.

Both listeners use it, so that every request that reaches a route has one narrow form.
"""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

import h11
import msgspec

from yoi_daemon.model.errors import Code, Refused
from yoi_daemon.model.problem import CONTENT_TYPE, problem

HEAD_BYTES = 16 * 1024
"""Limit of the request line and all headers together."""

LOGGED = frozenset({"content-length", "content-type", "user-agent"})
"""Headers that describe the content and the client, and by their meaning hold no credentials."""
LOGGED_CHARACTERS = 200

_END = b"\r\n\r\n"
# A CR or LF on its own ends a line for some parsers and not for others; no control character has
# any business in a head.
_FORBIDDEN = re.compile(rb"\r[^\n]|(?<!\r)\n|[^\t\r\n\x20-\x7e\x80-\xff]")
# Labels of 1 to 63 bytes, or werkzeug fails before any route or error handler of ours.
_HOST = re.compile(
    rb"(?:(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{1,5})?"
)
# Both servers and our own checks act on these, so their bytes must mean the same to each.
_ASCII_ONLY = frozenset(
    b"host connection upgrade transfer-encoding content-length expect origin authorization".split()
)
# Of two values, two parsers may each see another one.
_ONCE = frozenset(b"host origin authorization content-type expect".split())


class HeadRefused(h11.RemoteProtocolError):
    """A refused head; `refused` is the answer to the client."""

    def __init__(self, code: Code, detail: str) -> None:
        self.refused = Refused(code, detail)
        super().__init__(detail, error_status_hint=self.refused.status)


class HeadReader(h11.Connection):
    """A server's `h11.Connection` that accepts plain HTTP/1.0 and 1.1 requests alone.

    `next_event` raises `HeadRefused` for what h11 would let through, and h11's own
    `RemoteProtocolError` for what it would not; in both cases `refused` is the answer to the client.
    Unless `websocket`, a WebSocket upgrade is refused and every other upgrade is ignored.
    """

    def __init__(self, head_bytes: int = HEAD_BYTES, *, websocket: bool = False) -> None:
        # h11 applies its limit only while a head is incomplete; it also bounds chunk headers.
        super().__init__(h11.SERVER, max_incomplete_event_size=head_bytes)
        self._head_bytes = head_bytes
        self._websocket = websocket
        self._seen = 0
        self.refused: Refused | None = None

    @property
    def head_begun(self) -> bool:
        """True if a head was received in part."""
        return self.their_state is h11.IDLE and self._seen > 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            if self.their_state is not h11.IDLE:
                return super().next_event()
            return self._next_head()
        except h11.RemoteProtocolError as error:
            self.refused = _refusal(error)
            raise

    def _next_head(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        self._check_bytes(self.trailing_data[0])
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        self._seen = 0
        _check_request(event)
        if self._websocket:
            return event
        return _without_upgrade(event)

    def _check_bytes(self, received: bytes) -> None:
        end = received.find(_END, max(0, self._seen - len(_END) + 1))
        size = len(received) if end < 0 else end + len(_END)
        if size > self._head_bytes:
            raise HeadRefused(
                "headers_too_large",
                f"the request line and headers are larger than {self._head_bytes} bytes in all",
            )
        # One byte back, to see a line end that arrived in two pieces.
        if _FORBIDDEN.search(received, max(0, self._seen - 1), size):
            raise HeadRefused("invalid_request", "the head holds a control character or a bare LF")
        self._seen = size


def _check_request(request: h11.Request) -> None:
    if request.http_version not in (b"1.0", b"1.1"):
        raise HeadRefused("invalid_request", "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if request.method == b"CONNECT":
        raise HeadRefused("method_not_allowed", "CONNECT is not served: this is no proxy")
    if not request.target.startswith(b"/"):
        # An absolute-form target names a host beside Host, and the two may differ.
        raise HeadRefused("invalid_request", "the request target must begin with /")
    names: set[bytes] = set()
    for name, value in request.headers:
        if name in names and (name in _ONCE or name.startswith(b"sec-websocket-")):
            raise HeadRefused("invalid_request", f"the header {name.decode()} is given twice")
        names.add(name)
        if (name in _ASCII_ONLY or name.startswith(b"sec-")) and not value.isascii():
            raise HeadRefused("invalid_request", f"the header {name.decode()} must be ASCII")
        if name == b"host" and not _HOST.fullmatch(value):
            raise HeadRefused("invalid_request", "the header host is no host name and port")
    if b"transfer-encoding" in names and (
        b"content-length" in names or request.http_version == b"1.0"
    ):
        # Where the body ends depends on who reads it: request smuggling.
        raise HeadRefused("invalid_request", "the length of the body is given in two ways")


def _without_upgrade(request: h11.Request) -> h11.Request:
    offered = [value.lower() for name, value in request.headers if name == b"upgrade"]
    if not offered:
        return request
    if any(b"websocket" in value for value in offered):
        raise HeadRefused("invalid_request", "no WebSocket is served on this listener")
    # A server may ignore Upgrade (RFC 9110 section 7.8), and some clients offer h2c by default.
    ignored = (b"upgrade", b"http2-settings")
    return h11.Request(
        method=request.method,
        target=request.target,
        http_version=request.http_version,
        headers=[(name, value) for name, value in request.headers if name not in ignored],
    )


def _refusal(error: h11.RemoteProtocolError) -> Refused:
    if isinstance(error, HeadRefused):
        return error.refused
    if error.error_status_hint == 431:
        return Refused("headers_too_large", "the head, or the header of a chunk, is too large")
    if error.error_status_hint == 501:
        return Refused("unsupported_operation", "the only transfer coding read here is chunked")
    # h11's own words may quote what the client sent, so they are not passed on.
    return Refused("invalid_request", "this is no well-formed HTTP/1.1 request")


def loggable(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns the headers of `LOGGED`, each cut: nothing else of a head is ever logged."""
    return {
        name.lower(): value[:LOGGED_CHARACTERS] for name, value in headers if name.lower() in LOGGED
    }


def closing_response(status: int, body: object, extra: Sequence[tuple[str, str]] = ()) -> bytes:
    """Returns a whole response with `body` as problem+json, after which the connection must close.

    Not made by h11, because an unreadable request leaves its state undefined.
    """
    encoded = msgspec.json.encode(body)
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"content-type: {CONTENT_TYPE}",
        f"content-length: {len(encoded)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in extra),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + encoded


def problem_response(
    refused: Refused, request_id: str, extra: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Returns `closing_response` for a refusal."""
    return closing_response(refused.status, problem(refused, request_id), extra)
