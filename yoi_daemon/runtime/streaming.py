"""Items that are written part by part, and emitted as they grow, before the transcript has them."""

from collections.abc import Callable, Iterator
from math import inf
from typing import Protocol

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import WorkerDelta
from yoi_daemon.model.workers import Role

DELTA_BYTES = 4096
"""Maximum text of a delta: half of what an item's event carries."""

DELTA_INTERVAL_S = 0.05
"""Minimum time between deltas of smaller parts: 20 a second look fluent to a reader."""


class StreamOwner(Protocol):
    """The turn as its item streams see it."""

    def emit(self, delta: WorkerDelta) -> None:
        """Emits a delta."""
        ...

    async def room(self) -> None:
        """Waits while too much is uncommitted. Raises `TurnClosedError`."""
        ...

    def flush_at(self, when: float) -> None:
        """Has `flush` called at this time of the turn's clock."""
        ...


class ItemStream:
    """Implements `ItemWriter`. The deltas of one item, joined, are its text."""

    def __init__(
        self,
        owner: StreamOwner,
        clock: Callable[[], float],
        *,
        item_id: str,
        role: Role,
        generation: int,
        max_bytes: int,
    ) -> None:
        self._owner = owner
        self._clock = clock
        self._item_id = item_id
        self._role: Role = role
        self._generation = generation
        self._max_bytes = max_bytes
        self._text = bytearray()
        self._emitted_bytes = 0
        self._emitted_s = -inf
        self._is_over = False

    async def write(self, text: str) -> None:
        encoded = text.encode("utf-8")
        if len(self._text) + len(encoded) > self._max_bytes:
            raise Refused(
                "payload_too_large",
                f"an item has at most {self._max_bytes} bytes; finish it and start another",
                max_bytes=self._max_bytes,
            )
        for part in _parts(encoded):
            await self._owner.room()
            if self._is_over:
                raise RuntimeError("the item is finished; start another")
            if len(self._text) + len(part) - self._emitted_bytes > DELTA_BYTES:
                self.flush()
            self._text += part
            due = self._emitted_s + DELTA_INTERVAL_S
            if due <= self._clock():
                self.flush()
            else:
                self._owner.flush_at(due)

    def flush(self) -> None:
        """Emits in one delta what was written since the last one."""
        if len(self._text) == self._emitted_bytes:
            return
        self._owner.emit(
            WorkerDelta(
                item_id=self._item_id,
                generation=self._generation,
                role=self._role,
                offset_bytes=self._emitted_bytes,
                text=self._text[self._emitted_bytes :].decode("utf-8"),
            )
        )
        self._emitted_bytes = len(self._text)
        self._emitted_s = self._clock()

    def finish(self) -> str:
        """Flushes and returns the whole text; later writes are refused."""
        self.flush()
        self._is_over = True
        return self._text.decode("utf-8")


def _parts(encoded: bytes) -> Iterator[bytes]:
    """Splits `encoded` into parts of at most `DELTA_BYTES`, between characters."""
    begin = 0
    while begin < len(encoded):
        end = begin + DELTA_BYTES
        while end < len(encoded) and encoded[end] & 0xC0 == 0x80:
            end -= 1
        yield encoded[begin:end]
        begin = end
