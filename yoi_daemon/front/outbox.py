"""The bytes that a connection has yet to write: one task writes them, all others only add to them.

So a cancelled sender never leaves half a frame behind, nothing needs a shield, and one deadline
covers every write.
"""

import os
from collections.abc import Callable, Mapping
from typing import Literal

import trio

from yoi_daemon.model.frames import Write, frame_size
from yoi_daemon.model.states import transition

CHUNK_BYTES = 64 * 1024
"""Written at a time, and the unit of progress: the slowest tolerated reader takes one per stall."""


OutboxPhase = Literal[
    "open", "finishing", "parting", "failing", "finished", "parted", "stalled", "failed"
]

OUTBOX_TRANSITIONS: Mapping[OutboxPhase, frozenset[OutboxPhase]] = {
    "open": frozenset({"finishing", "parting", "failing"}),
    # Takes nothing more, and writes what is unsent.
    "finishing": frozenset({"finished", "parting", "failing"}),
    # The peer stalled: what is unsent is dropped, and the farewell is written.
    "parting": frozenset({"parted", "stalled"}),
    # The peer is gone: what is unsent is dropped, and the writer has yet to notice.
    "failing": frozenset({"failed"}),
    # Ended: the writer writes nothing more.
    "finished": frozenset(),
    "parted": frozenset(),
    "stalled": frozenset(),
    "failed": frozenset(),
}

_WRITING = frozenset({"open", "finishing"})


class Outbox:
    """The writing half of a connection.

    A write that makes no progress for `stall_s` seconds loses the peer. `on_lost` is called once,
    synchronously, when the peer can no longer be written to. With a `descriptor` (a non-blocking
    socket's), `put` hands to the kernel at once what it takes, without a task. `lend` lends `send`,
    that socket's own.

    `farewell`, if set, returns whole frames for a stalled peer. They are written behind the frame that
    the peer has part of. `unsent` and `dropped` are in bytes.
    """

    __slots__ = (
        "_descriptor",
        "_moved",
        "_nursery",
        "_on_lost",
        "_pieces",
        "_send",
        "_stall_s",
        "_stream",
        "_take_back",
        "dropped",
        "farewell",
        "phase",
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
        """Ends the current loan."""
        self._pieces: list[memoryview] = []
        self._nursery: trio.Nursery | None = None
        self._moved = trio.lowlevel.ParkingLot()
        """The writer waits here for something to write, others for it to be written."""
        self.farewell: Callable[[], bytes] | None = None
        self.phase: OutboxPhase = "open"
        self.unsent = 0
        self.dropped = 0

    @property
    def lost(self) -> bool:
        """True if the peer is gone, or was given up."""
        return self.phase not in ("open", "finishing", "finished")

    @property
    def stalled(self) -> bool:
        """True if the peer was given up because a write made no progress."""
        return self.phase in ("parting", "parted", "stalled")

    @property
    def ended(self) -> bool:
        """True if nothing more will be written."""
        return not OUTBOX_TRANSITIONS[self.phase]

    def put(self, data: bytes) -> bool:
        """Takes `data` to be written. Returns True if nothing is unsent. Drops it silently unless open."""
        if self.phase != "open":
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
        """Takes `data` without the first `taken` bytes, which the kernel has. Drops it unless open."""
        if self.phase != "open":
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
        """Lends `send` until `take_back` is called: when anything is unsent, or no longer open.

        Returns None if there is none, or if it would have to be taken back at once.
        """
        self._take_back = None
        if self._send is None or self.unsent or self.phase != "open":
            return None
        self._take_back = take_back
        return self._send

    def take_back(self) -> None:
        """Ends the current loan, if any."""
        if self._take_back is not None:
            take_back, self._take_back = self._take_back, None
            take_back()

    async def room(self, below: int = CHUNK_BYTES) -> None:
        """Waits until fewer than `below` bytes are unsent, or the peer is lost. Bounded by `stall_s`."""
        while self.unsent >= below and self.phase in _WRITING:
            await self._moved.park()

    def finish(self) -> None:
        """Takes nothing more; `run` returns when all is written."""
        if self.phase == "open":
            self._move("finishing")
        self.take_back()
        self._moved.unpark_all()
        if self._nursery is not None:
            self.end()

    def run_when_needed(self, nursery: trio.Nursery) -> None:
        """Has `run` started in `nursery` once there is something for it to write: mostly there never is.

        Call `end` before the descriptor is closed.
        """
        self._nursery = nursery

    async def wait_ended(self) -> None:
        """Waits until `ended`, which follows `finish` within `stall_s`."""
        while not self.ended:
            await self._moved.park()

    def end(self) -> None:
        """Writes nothing more; drops what is unsent."""
        self._nursery = None
        self._descriptor = None
        self._send = None
        self.take_back()
        if self.unsent or self.phase == "open":
            self.lose()
        if not self.ended:
            self._move(_ENDS[self.phase])
        self._moved.unpark_all()

    async def run(self) -> None:
        """Writes until all is written after `finish`, or the peer is lost. Cancelled, drops the rest."""
        try:
            while self.phase in _WRITING:
                if self.unsent:
                    await self._write(self._next_chunk(), self._descriptor)
                elif self.phase == "finishing":
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
                await self._part(descriptor)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.lose()
            return
        self._moved.unpark_all()

    async def _part(self, descriptor: int | None) -> None:
        words = self._last_words(descriptor)
        self._give_up("parting")
        if words and descriptor is not None:
            # Bounded by the closing of the connection, which awaits `wait_ended`.
            await _write_to(descriptor, words, _ignore)
            self._move("parted")

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
        """Returns the rest of the frame that is partly written, and the farewell."""
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
        """Takes nothing more and drops what is unsent: the peer is gone, or given up."""
        if self.phase in _WRITING:
            self._give_up("failing")

    def _give_up(self, phase: OutboxPhase) -> None:
        self._move(phase)
        self.dropped = self.unsent
        self._descriptor = None
        self._send = None
        self._pieces.clear()
        self.unsent = 0
        self.take_back()
        self._moved.unpark_all()
        self._on_lost()

    def _move(self, to: OutboxPhase) -> None:
        self.phase = transition(OUTBOX_TRANSITIONS, self.phase, to)


_ENDS: Mapping[OutboxPhase, OutboxPhase] = {
    "finishing": "finished",
    "parting": "stalled",
    "failing": "failed",
}


async def _write_to(descriptor: int, data: bytes, took: Callable[[int], None]) -> None:
    """Writes all of `data`, and calls `took` with the size of each part that the kernel took."""
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
