"""An item that is written part by part, and told as it grows, before the transcript has it."""

from collections.abc import Callable, Iterator
from math import inf
from typing import Protocol

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import WorkerDelta
from yoi_daemon.model.workers import Role

DELTA_BYTES = 4096
"""A delta carries at most so much text: half of what an item's event does."""

DELTA_INTERVAL_S = 0.05
"""Smaller parts are told together so often at most: 20 events a second are fluent to a reader."""


class Streams(Protocol):
    """What a turn's items under way need of their turn."""

    def tell(self, delta: WorkerDelta) -> None:
        """Emits a delta."""
        ...

    async def room(self) -> None:
        """Waits while too much is uncommitted. Raises `TurnClosedError`."""
        ...

    def tell_at(self, when: float) -> None:
        """Has `tell_waiting` called at this time of the turn's clock."""
        ...


class ItemStream:
    """Implements `ItemWriter`. The deltas of one item, joined, are its text."""

    def __init__(
        self,
        streams: Streams,
        clock: Callable[[], float],
        *,
        item_id: str,
        role: Role,
        generation: int,
        max_bytes: int,
    ) -> None:
        self._streams = streams
        self._clock = clock
        self._item_id = item_id
        self._role: Role = role
        self._generation = generation
        self._max_bytes = max_bytes
        self._text = bytearray()
        self._told_bytes = 0
        self._told_s = -inf
        self._is_over = False

    async def write(self, text: str) -> None:
        encoded = text.encode("utf-8")
        if len(self._text) + len(encoded) > self._max_bytes:
            raise Refused(
                "payload_too_large",
                f"an item has at most {self._max_bytes} bytes; end it and begin another",
                max_bytes=self._max_bytes,
            )
        for part in _parts(encoded):
            await self._streams.room()
            if self._is_over:
                raise RuntimeError("the item is finished; begin another")
            if len(self._text) + len(part) - self._told_bytes > DELTA_BYTES:
                self.tell_waiting()
            self._text += part
            due = self._told_s + DELTA_INTERVAL_S
            if due <= self._clock():
                self.tell_waiting()
            else:
                self._streams.tell_at(due)

    def tell_waiting(self) -> None:
        """Tells what was written and not told, in one delta."""
        if len(self._text) == self._told_bytes:
            return
        self._streams.tell(
            WorkerDelta(
                item_id=self._item_id,
                generation=self._generation,
                role=self._role,
                offset_bytes=self._told_bytes,
                text=self._text[self._told_bytes :].decode("utf-8"),
            )
        )
        self._told_bytes = len(self._text)
        self._told_s = self._clock()

    def finish(self) -> str:
        """All that was written, and told by now; nothing more is taken."""
        self.tell_waiting()
        self._is_over = True
        return self._text.decode("utf-8")


def _parts(encoded: bytes) -> Iterator[bytes]:
    """`encoded` in parts of at most `DELTA_BYTES`, cut between characters."""
    begin = 0
    while begin < len(encoded):
        end = begin + DELTA_BYTES
        while end < len(encoded) and encoded[end] & 0xC0 == 0x80:
            end -= 1
        yield encoded[begin:end]
        begin = end
