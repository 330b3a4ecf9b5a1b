"""A WebSocket connection as its handler sees it. Free of any WebSocket library."""

import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from yoi_daemon.model.errors import YoiError
from yoi_daemon.model.frames import Transport


class ConnectionGone(YoiError):
    """The peer is gone, or the connection is closing: nothing more can be sent on it."""


@dataclass(frozen=True)
class UpgradeRequest:
    """A request to open a stream, well-formed but not yet answered.

    `path` is the target up to `?`, as it was sent (nothing is unquoted), and `query` what follows.
    `headers` are in the order sent, names in lower case, values decoded as Latin-1. `peer` is
    `ADDRESS:PORT`, `unix`, or `unknown` if it has gone already.
    """

    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    peer: str


class Connection(Transport, Protocol):
    """One open WebSocket connection, to write to. What the peer sends is read and dropped.

    Its methods raise `ConnectionGone` for a peer that is gone. `close` sends a Close frame behind what
    is unsent and awaits the peer's; afterwards, and after `abort`, the handler is cancelled.
    """

    @property
    def unsent(self) -> int:
        """Bytes accepted for this connection which the kernel has not yet taken."""
        ...

    async def wait_gone(self) -> None:
        """Waits until the connection has closed, whichever side began it."""
        ...


ORDERLY_CLOSE_CODES: Mapping[str, int] = {"end": 1000, "shutting_down": 1012}
"""The Close codes of reasons that every listener has; RFC 6455 section 7.4.1, and IANA's registry."""

SessionHandler = Callable[[Connection], Awaitable[None]]
Gate = Callable[[UpgradeRequest], Awaitable[SessionHandler]]


def close_frame(code: int, reason: str) -> bytes:
    """Returns a Close frame; `reason` is at most 123 bytes of UTF-8."""
    payload = struct.pack("!H", code) + reason.encode()
    return bytes((0x88, len(payload))) + payload
