"""The frame of a message, one for every subscriber, and what takes the frames of one subscriber.

A frame is a WebSocket server's: unmasked and uncompressed, so it depends on nothing of a connection.
"""

import struct
from collections.abc import Callable
from typing import Protocol

_medium, _large = struct.Struct("!BBH").pack, struct.Struct("!BBQ").pack


def text_frame(payload: bytes) -> bytes:
    """Returns `payload` (UTF-8) as one unmasked, uncompressed text frame, RFC 6455 section 5.2."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 1 << 16:
        return _medium(0x81, 126, size) + payload
    return _large(0x81, 127, size) + payload


def frame_size(frames: memoryview, start: int) -> int:
    """Returns the size in bytes of the frame that begins at `start` of whole unmasked frames."""
    size = frames[start + 1]
    if size < 126:
        return 2 + size
    extra = 2 if size == 126 else 8
    return 2 + extra + int.from_bytes(frames[start + 2 : start + 2 + extra], "big")


def payload_of(frame: bytes) -> bytes:
    """Returns the payload of one frame that `text_frame` made."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


Write = Callable[[bytes], int]
"""Hands bytes to the kernel and returns how many it took. Raises `OSError`: `BlockingIOError` for none."""


class FrameSink(Protocol):
    """Takes one subscriber's frames, in order. Every method raises when the peer is gone."""

    def offer(self, frames: bytes) -> bool:
        """Takes whole frames, any number joined, without waiting; written at once if nothing is unsent.

        Returns False if some of it is unsent: await `drained` before the next `offer`.
        """
        ...

    async def drained(self) -> None:
        """Waits until nothing is unsent. Bounded by the transport's stall limit."""
        ...

    def lend(self, take_back: Callable[[], None]) -> Write | None:
        """Lends the peer's socket, so that a write costs no more than the system call.

        Returns None if there is none to lend, or something is unsent. The loan ends when `take_back`
        is called, or with the next `lend`. `take_back` is called synchronously, before anything else
        is unsent and before writing ends. Frames that the socket did not take whole go to `keep`.
        """
        ...

    def keep(self, frames: bytes, taken: int) -> None:
        """Takes `frames` without the first `taken` bytes, which the lent socket took."""
        ...


class Transport(FrameSink, Protocol):
    """A subscriber's connection, whatever protocol carries it."""

    @property
    def stalled(self) -> bool:
        """True if the connection was given up because a write made no progress."""
        ...

    def when_stalled(self, message: Callable[[], bytes], reason: str) -> None:
        """Sets the last message for a peer that stalls: sent if the peer still takes it.

        The connection is then closed with `reason` if the peer takes that, and otherwise aborted.
        """
        ...

    async def close(self, reason: str) -> None:
        """Ends the connection after what is unsent, with a deadline.

        `reason` is `end`, or the code of an `error` message. Never raises for a peer that is gone.
        """
        ...

    def abort(self) -> None:
        """Ends the connection at once; what the kernel has not taken is lost."""
        ...
