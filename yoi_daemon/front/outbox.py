"""What a connection has yet to write: one task writes it, everybody else only adds to it.

So a cancelled sender never leaves half a frame behind, nothing needs a shield, and one deadline
covers every write.
"""

import os
from collections import deque
from collections.abc import Callable

import trio

CHUNK_BYTES = 64 * 1024
"""Written at a time, and the unit of progress: the slowest tolerated reader takes one per stall."""


class Outbox:
    """The writing half of a connection.

    `stall_s`: a write that makes no progress for so many seconds loses the connection. `on_lost` is
    called once, synchronously, when the peer can no longer be written to. With a `descriptor`
    (a non-blocking socket's), `put` hands to the kernel at once what it takes, without a task.

    `unsent` is in bytes; `lost` says that the peer is, `cut` that bytes were lost with it, perhaps
    the second half of a frame, and `stalled` that this was why. `ended` is set when `run` is over.
    """

    def __init__(
        self,
        stream: trio.abc.SendStream,
        *,
        stall_s: float,
        on_lost: Callable[[], None],
        descriptor: int | None = None,
    ) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._on_lost = on_lost
        self._descriptor = descriptor
        self._pieces: deque[memoryview] = deque()
        self._finished = False
        self._wake = trio.lowlevel.ParkingLot()
        self._written = trio.lowlevel.ParkingLot()
        self.unsent = 0
        self.lost = False
        self.cut = False
        self.stalled = False
        self.ended = trio.Event()

    def put(self, data: bytes) -> None:
        """Take `data` to be written. Dropped without a word once the peer is lost."""
        if self.lost or self._finished:
            return
        if not self.unsent and self._descriptor is not None:
            try:
                taken = os.write(self._descriptor, data)
            except BlockingIOError:
                taken = 0
            except OSError:
                self.lose()
                return
            if taken == len(data):
                return
            data = data[taken:]
        self._pieces.append(memoryview(data))
        self.unsent += len(data)
        self._wake.unpark_all()

    async def room(self, below: int = CHUNK_BYTES) -> None:
        """Wait until fewer than `below` bytes are unsent, or the peer is lost. Bounded by `stall_s`."""
        while self.unsent >= below and not self.lost:
            await self._written.park()

    def finish(self) -> None:
        """Take nothing more; `run` returns when all is written."""
        self._finished = True
        self._wake.unpark_all()

    async def run(self) -> None:
        """Write until finished or lost; cancelled, the rest is lost."""
        try:
            while not self.lost:
                if self.unsent:
                    await self._write(self._next_chunk())
                elif self._finished:
                    return
                else:
                    await self._wake.park()
        finally:
            self._descriptor = None
            if self.unsent or not self._finished:
                self.lose()
            self.ended.set()

    async def _write(self, chunk: bytes) -> None:
        try:
            with trio.move_on_after(self._stall_s) as deadline:
                await self._stream.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.lose()
            return
        if deadline.cancelled_caught:
            self.stalled = True
            self.lose()
            return
        self.unsent -= len(chunk)
        self._written.unpark_all()

    def _next_chunk(self) -> bytes:
        chunk: list[memoryview] = []
        size = 0
        while self._pieces and size < CHUNK_BYTES:
            piece = self._pieces.popleft()
            if len(piece) > CHUNK_BYTES - size:
                cut = CHUNK_BYTES - size
                self._pieces.appendleft(piece[cut:])
                piece = piece[:cut]
            chunk.append(piece)
            size += len(piece)
        return b"".join(chunk)

    def lose(self) -> None:
        """Take nothing more and drop what is unsent: the peer is lost, or given up."""
        if self.lost:
            return
        self.lost = True
        self.cut = self.unsent > 0
        self._descriptor = None
        self._pieces.clear()
        self.unsent = 0
        self._wake.unpark_all()
        self._written.unpark_all()
        self._on_lost()
