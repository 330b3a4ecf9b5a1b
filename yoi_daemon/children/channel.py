"""Messages to and from a child over a pair of byte streams, each message bounded."""

from typing import Literal

import trio

from yoi_daemon.children.failures import ChannelClosed, MessageTooLarge

LENGTH_BYTES = 4
"""Of the big-endian length before a message."""
READ_BYTES = 65_536

Framing = Literal["line", "length"]


class Channel:
    """Exchanges messages, one a line or each after its length, of at most `max_bytes`.

    One task may receive while others send. Cancelling `receive` loses nothing; cancelling `send` in
    the middle of a message closes the channel for sending.
    """

    def __init__(
        self,
        receiving: trio.abc.ReceiveStream,
        sending: trio.abc.SendStream,
        *,
        framing: Framing,
        max_bytes: int,
    ) -> None:
        self._receiving = receiving
        self._sending = sending
        self._is_lines = framing == "line"
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._send_lock = trio.Lock()
        self._is_cut = False

    async def send(self, message: bytes) -> None:
        """Sends one message; waits while the other end does not read.

        Raises `MessageTooLarge`, `ChannelClosed`, and `ValueError` for a line with a line break in it.
        """
        if len(message) > self._max_bytes:
            raise MessageTooLarge(
                f"a message of {len(message)} bytes; {self._max_bytes} are allowed"
            )
        if self._is_lines and b"\n" in message:
            raise ValueError("a line cannot hold a line break")
        frame = (
            message + b"\n"
            if self._is_lines
            else len(message).to_bytes(LENGTH_BYTES, "big") + message
        )
        async with self._send_lock:
            if self._is_cut:
                raise ChannelClosed("an earlier message was cut off in the middle")
            self._is_cut = True
            try:
                await self._sending.send_all(frame)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ChannelClosed("the other end reads no more") from error
            self._is_cut = False

    async def receive(self) -> bytes | None:
        """Returns the next message, None at the end. Raises `MessageTooLarge` and `ChannelClosed`."""
        while True:
            message = self._take_line() if self._is_lines else self._take_counted()
            if message is not None:
                return message
            try:
                chunk = await self._receiving.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ChannelClosed("the other end is gone") from error
            if not chunk:
                if self._buffer:
                    raise ChannelClosed("the other end closed in the middle of a message")
                return None
            self._buffer += chunk

    def _take_line(self) -> bytes | None:
        # Each byte is searched once, however many pieces a line comes in.
        end = self._buffer.find(b"\n", self._searched)
        self._searched = len(self._buffer) if end < 0 else 0
        if (len(self._buffer) if end < 0 else end) > self._max_bytes:
            raise MessageTooLarge(f"a line of more than {self._max_bytes} bytes")
        return None if end < 0 else self._take(0, end, end + 1)

    def _take_counted(self) -> bytes | None:
        if len(self._buffer) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if length > self._max_bytes:
            raise MessageTooLarge(f"a message of {length} bytes; {self._max_bytes} are allowed")
        end = LENGTH_BYTES + length
        return None if len(self._buffer) < end else self._take(LENGTH_BYTES, end, end)

    def _take(self, start: int, end: int, following: int) -> bytes:
        message = bytes(self._buffer[start:end])
        del self._buffer[:following]
        return message
