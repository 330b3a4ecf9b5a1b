"""A session's other end, in memory."""

import json
from collections.abc import Callable
from typing import Any

import trio

from yoi_daemon.front.connection import ORDERLY_CLOSE_CODES
from yoi_daemon.model.frames import FrameSink, text_frame
from yoi_daemon.stream.protocol import CLOSE_CODES


def messages_in(frames: bytes) -> list[bytes]:
    """The payloads of joined text frames."""
    found = []
    while frames:
        assert frames[0] == 0x81
        extra = {126: 2, 127: 8}.get(frames[1], 0)
        size = int.from_bytes(frames[2 : 2 + extra], "big") if extra else frames[1]
        found.append(frames[2 + extra : 2 + extra + size])
        frames = frames[2 + extra + size :]
    return found


async def send(sink: FrameSink, payload: bytes) -> None:
    """Writes one message, and waits until it is written."""
    await trio.lowlevel.checkpoint()
    sink.offer(text_frame(payload))
    await sink.drained()


class MemoryTransport:
    """Takes what a session sends; a test may make it slow, or cut it off."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.may_take = trio.Event()
        self.may_take.set()
        self.cut_after: int | None = None
        self.stalled = False
        self.aborted = False
        self.farewell: tuple[Callable[[], bytes], str] | None = None
        self._unsent = b""
        self._is_cut = False

    def when_stalled(self, message: Callable[[], bytes], reason: str) -> None:
        self.farewell = (message, reason)

    def offer(self, frames: bytes) -> bool:
        assert self.closed is None, "nothing is sent after the close"
        assert frames, "an empty write is a write for nothing"
        self._unsent += frames
        if self.may_take.is_set():
            self._take()
        return not self._unsent

    def lend(self, take_back: Callable[[], None]) -> None:
        """Nothing."""

    def keep(self, frames: bytes, taken: int) -> None:
        raise AssertionError("nothing was lent")

    async def drained(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._unsent:
            await self.may_take.wait()
            self._take()
        if self._is_cut:
            raise trio.BrokenResourceError

    def _take(self) -> None:
        unsent, self._unsent = self._unsent, b""
        for message in messages_in(unsent):
            if self._is_cut or len(self.messages) == self.cut_after:
                self._is_cut = True
                raise trio.BrokenResourceError
            self.messages.append(json.loads(message))

    async def close(self, reason: str) -> None:
        assert self.closed is None
        assert not self._unsent
        self.closed = ({**ORDERLY_CLOSE_CODES, **CLOSE_CODES}[reason], reason)

    def abort(self) -> None:
        self.aborted = True
        self._unsent = b""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    @property
    def types(self) -> list[str]:
        """Each message's type, a bookmark's with its reason."""
        return [
            f"bookmark {message['reason']}" if message["type"] == "bookmark" else message["type"]
            for message in self.messages
        ]

    @property
    def numbers(self) -> list[int]:
        return [message["seq"] for message in self.of("event")]
