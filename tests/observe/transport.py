"""A session's other end, in memory."""

import json
from typing import Any

import trio

from yoi_daemon.model.frames import payload_of


class MemoryTransport:
    """Takes what a session sends; a test may make it slow, or cut it off."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.may_take = trio.Event()
        self.may_take.set()
        self.cut_after: int | None = None

    async def send_frames(self, frames: list[bytes]) -> None:
        assert self.closed is None, "nothing is sent after the close"
        assert frames, "an empty write is a write for nothing"
        await self.may_take.wait()
        for frame in frames:
            if self.cut_after is not None and len(self.messages) >= self.cut_after:
                raise trio.BrokenResourceError
            self.messages.append(json.loads(payload_of(frame)))

    async def close(self, code: int, reason: str) -> None:
        assert self.closed is None
        self.closed = (code, reason)

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
