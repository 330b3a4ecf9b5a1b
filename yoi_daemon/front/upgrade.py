"""Reads and checks the request that opens a WebSocket."""

import re

import h11
import trio

from yoi_daemon.front.accepting import AcceptedStream
from yoi_daemon.front.connection import UpgradeRequest
from yoi_daemon.front.head import HeadReader
from yoi_daemon.model.errors import Refused

_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_RECEIVE_BYTES = 4096


class NoUpgrade(Exception):
    """The request does not open a stream; `refused` is the answer."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.refused = Refused("invalid_request", detail)


async def read_request(stream: AcceptedStream, reader: HeadReader) -> h11.Request | None:
    """Reads the head of the one request of this connection. Returns None if the peer goes before its end."""
    while True:
        event = reader.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        try:
            data = await stream.receive_some(_RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        if not data:
            return None
        reader.receive_data(data)


def upgrade_key(request: h11.Request) -> str:
    """Returns the handshake's key. Raises `NoUpgrade` unless the request is one of RFC 6455 section 4.2.1."""
    headers = {name: value.decode("latin-1") for name, value in request.headers}
    if request.method != b"GET" or request.http_version != b"1.1":
        raise NoUpgrade("a stream is opened with GET and HTTP/1.1")
    connection = {token.strip() for token in headers.get(b"connection", "").lower().split(",")}
    if headers.get(b"upgrade", "").strip().lower() != "websocket" or "upgrade" not in connection:
        raise NoUpgrade("this listener serves WebSocket streams: open one with a WebSocket client")
    if headers.get(b"sec-websocket-version") != "13":
        raise NoUpgrade("the WebSocket version spoken here is 13")
    if b"transfer-encoding" in headers or headers.get(b"content-length", "0") != "0":
        raise NoUpgrade("a request that opens a stream has no body")
    key = headers.get(b"sec-websocket-key", "")
    if not _KEY.fullmatch(key):
        raise NoUpgrade("sec-websocket-key must be 16 bytes in base64")
    return key


def upgrade_request(request: h11.Request, peer: str) -> UpgradeRequest:
    """Returns what the gate decides on."""
    path, _, query = request.target.decode("ascii").partition("?")
    headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers]
    return UpgradeRequest(path, query, headers, peer)
