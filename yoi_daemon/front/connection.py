"""What a session of the stream sees of its connection. Free of any WebSocket library."""

import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from yoi_daemon.model.errors import YoiError


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


class Connection(Protocol):
    """One open WebSocket connection, to write to. What the peer sends is read and dropped.

    A `send` that is cancelled has sent its frame whole or not at all.
    """

    @property
    def peer(self) -> str:
        """`ADDRESS:PORT`, or `unix`."""
        ...

    @property
    def unsent(self) -> int:
        """Bytes accepted for this connection which the kernel has not yet taken."""
        ...

    @property
    def stalled(self) -> bool:
        """Whether the connection was given up because a write made no progress."""
        ...

    def when_stalled(self, message: Callable[[], bytes], code: int, reason: str) -> None:
        """What to tell a peer that took nothing for the stall limit, as far as it still gets through.

        The connection is then closed with `code`, where the peer takes that, and else aborted.
        """
        ...

    async def send(self, data: bytes | str) -> None:
        """Send one text frame; `data` is UTF-8. Waits while 64 KiB or more are unsent.

        Raises `ConnectionGone`.
        """
        ...

    async def send_frames(self, frames: bytes) -> None:
        """Send whole frames made by `model.frames.text_frame`, any number joined. Else as `send`."""
        ...

    def offer(self, frames: bytes) -> bool:
        """Take `frames` (as for `send_frames`) without waiting: written at once if nothing is unsent.

        True if the kernel took all; False if some of it is still unsent, in which case the
        caller is to await `drained` before it offers more. Raises `ConnectionGone`.
        """
        ...

    def lend(self, take_back: Callable[[], None]) -> Callable[[bytes], int] | None:
        """The socket's own `send`, for whole frames: what else `offer` does is saved.

        Good until `take_back` is called or it is lent again: synchronously, as soon as anything is
        unsent or nothing more may be written. None where there is none to lend.
        """
        ...

    def keep(self, frames: bytes, taken: int) -> None:
        """Take `frames` but for the first `taken` bytes, which what was lent has written."""
        ...

    async def drained(self) -> None:
        """Wait until nothing is unsent. Raises `ConnectionGone`."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Send a Close frame behind what is unsent and await the peer's, with a deadline.

        Never raises for a peer that is gone. Afterwards the connection is closed.
        """
        ...

    def abort(self) -> None:
        """End the connection at once; what the kernel has not taken is lost. The handler is cancelled."""
        ...

    async def wait_gone(self) -> None:
        """Wait until the connection has closed, whoever began it."""
        ...


SessionHandler = Callable[[Connection], Awaitable[None]]
Gate = Callable[[UpgradeRequest], Awaitable[SessionHandler]]


def close_frame(code: int, reason: str) -> bytes:
    """A Close frame; `reason` is at most 123 bytes of UTF-8."""
    payload = struct.pack("!H", code) + reason.encode()
    return bytes((0x88, len(payload))) + payload
