"""What a connection has yet to write: one task writes it, everybody else only adds to it.

So a cancelled sender never leaves half a frame behind, nothing needs a shield, and one deadline
covers every write.
"""

import os
from collections.abc import Callable

import trio

from yoi_daemon.model.frames import Write, frame_size

CHUNK_BYTES = 64 * 1024
"""Written at a time, and the unit of progress: the slowest tolerated reader takes one per stall."""


class Outbox:
    """The writing half of a connection.

    `stall_s`: a write that makes no progress for so many seconds loses the connection. `on_lost` is
    called once, synchronously, when the peer can no longer be written to. With a `descriptor`
    (a non-blocking socket's), `put` hands to the kernel at once what it takes, without a task. `send`,
    that socket's own, is what `lend` gives.

    `farewell`, where it is set, gives whole frames to tell a stalled peer behind the one it has part
    of; what else is unsent is dropped, and `parted` says that all of it was written after all.

    `unsent` is in bytes; `lost` says that the peer is, `cut` that bytes were lost with it, perhaps
    the second half of a frame, and `stalled` that this was why. `ended` says that nothing more is written.
    """

    __slots__ = (
        "_descriptor",
        "_finished",
        "_moved",
        "_nursery",
        "_on_lost",
        "_pieces",
        "_send",
        "_stall_s",
        "_stream",
        "_take_back",
        "cut",
        "ended",
        "farewell",
        "lost",
        "parted",
        "stalled",
        "unsent",
    )

    def __init__(
        self,
        stream: trio.abc.SendStream,
        *,
        stall_s: float,
        on_lost: Callable[[], None],
        descriptor: int | None = None,
        send: Write | None = None,
    ) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._on_lost = on_lost
        self._descriptor = descriptor
        self._send = send
        self._take_back: Callable[[], None] | None = None
        """Ends the loan that is out."""
        self._pieces: list[memoryview] = []
        self._nursery: trio.Nursery | None = None
        self._finished = False
        self._moved = trio.lowlevel.ParkingLot()
        """The writer waits here for something to write, others for it to be written."""
        self.farewell: Callable[[], bytes] | None = None
        self.unsent = 0
        self.lost = False
        self.cut = False
        self.stalled = False
        self.parted = False
        self.ended = False

    def put(self, data: bytes) -> bool:
        """Take `data` to be written; True if nothing is unsent. Dropped without a word once the peer is lost."""
        if self.lost or self._finished:
            return not self.unsent
        taken = 0
        if not self.unsent and self._descriptor is not None:
            try:
                taken = os.write(self._descriptor, data)
            except BlockingIOError:
                pass
            except OSError:
                self.lose()
                return True
            if taken == len(data):
                return True
        self.keep(data, taken)
        return False

    def keep(self, data: bytes, taken: int) -> None:
        """Take `data` but for the first `taken` bytes, which the kernel has. Dropped once the peer is lost."""
        if self.lost or self._finished:
            return
        # A piece is what is left of whole frames, which it knows (`obj`).
        self._pieces.append(memoryview(data)[taken:])
        self.unsent += len(data) - taken
        self._moved.unpark_all()
        if self._nursery is not None:
            self._nursery.start_soon(self.run)
            self._nursery = None
        self.take_back()

    def lend(self, take_back: Callable[[], None]) -> Write | None:
        """`send`, until `take_back` is called: as soon as anything is unsent, or nothing may be written.

        None where there is none, or where it would have to be taken back at once.
        """
        self._take_back = None
        if self._send is None or self.unsent or self.lost or self._finished:
            return None
        self._take_back = take_back
        return self._send

    def take_back(self) -> None:
        """End the loan, if one is out."""
        if self._take_back is not None:
            take_back, self._take_back = self._take_back, None
            take_back()

    async def room(self, below: int = CHUNK_BYTES) -> None:
        """Wait until fewer than `below` bytes are unsent, or the peer is lost. Bounded by `stall_s`."""
        while self.unsent >= below and not self.lost:
            await self._moved.park()

    def finish(self) -> None:
        """Take nothing more; `run` returns when all is written."""
        self._finished = True
        self.take_back()
        self._moved.unpark_all()
        if self._nursery is not None:
            self.end()

    def run_when_needed(self, nursery: trio.Nursery) -> None:
        """Have `run` started in `nursery` when there is something for it to write: mostly there never is.

        Before the descriptor is closed `end` is to be called.
        """
        self._nursery = nursery

    async def wait_ended(self) -> None:
        """Wait until `ended`, which `finish` brings about within `stall_s`."""
        while not self.ended:
            await self._moved.park()

    def end(self) -> None:
        """Write nothing more; what is unsent is lost."""
        self._nursery = None
        self._descriptor = None
        self._send = None
        self.take_back()
        if self.unsent or not self._finished:
            self.lose()
        self.ended = True
        self._moved.unpark_all()

    async def run(self) -> None:
        """Write until finished or lost; cancelled, the rest is lost."""
        try:
            while not self.lost:
                if self.unsent:
                    await self._write(self._next_chunk(), self._descriptor)
                elif self._finished:
                    return
                else:
                    await self._moved.park()
        finally:
            self.end()

    async def _write(self, chunk: bytes, descriptor: int | None) -> None:
        try:
            with trio.move_on_after(self._stall_s) as deadline:
                if descriptor is None:
                    await self._stream.send_all(chunk)
                    self._took(len(chunk))
                else:
                    await _write_to(descriptor, chunk, self._took)
            if deadline.cancelled_caught:
                self.stalled = True
                words = self._last_words(descriptor)
                self.lose()
                if descriptor is not None:
                    # As long as whoever closes the connection awaits `wait_ended`.
                    await _write_to(descriptor, words, _ignore)
                    self.parted = bool(words)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.lose()
            return
        self._moved.unpark_all()

    def _next_chunk(self) -> bytes:
        chunk: list[memoryview] = []
        size = 0
        for piece in self._pieces:
            chunk.append(piece[: CHUNK_BYTES - size])
            size += len(chunk[-1])
            if size == CHUNK_BYTES:
                break
        return b"".join(chunk)

    def _took(self, sent: int) -> None:
        self.unsent -= sent
        while sent:
            piece = self._pieces[0]
            if len(piece) > sent:
                self._pieces[0] = piece[sent:]
                return
            del self._pieces[0]
            sent -= len(piece)

    def _last_words(self, descriptor: int | None) -> bytes:
        """The rest of the frame that is partly written, and the farewell."""
        if self.farewell is None or descriptor is None:
            return b""
        piece = self._pieces[0]
        whole = memoryview(piece.obj)
        written = len(whole) - len(piece)
        end = 0
        while end < written:
            end += frame_size(whole, end)
        return bytes(whole[written:end]) + self.farewell()

    def lose(self) -> None:
        """Take nothing more and drop what is unsent: the peer is lost, or given up."""
        if self.lost:
            return
        self.lost = True
        self.cut = self.unsent > 0
        self._descriptor = None
        self._send = None
        self._pieces.clear()
        self.unsent = 0
        self.take_back()
        self._moved.unpark_all()
        self._on_lost()


async def _write_to(descriptor: int, data: bytes, took: Callable[[int], None]) -> None:
    """Writes all of `data`, and tells `took` of every part that the kernel took."""
    left = memoryview(data)
    await trio.lowlevel.checkpoint()
    while left:
        try:
            sent = os.write(descriptor, left)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(descriptor)
        else:
            left = left[sent:]
            took(sent)


def _ignore(_sent: int) -> None:
    return None
