"""What the event log promises, whichever store is behind it.

An event is encoded once, in the same synchronous step that numbers it. It is shown after its
commit, in order of number: nothing a subscriber, a cursor or a receipt tells was not committed.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from yoi_daemon.model.cursor import CursorCodec
from yoi_daemon.model.events import Draft


class Entry:
    """One committed event: its number, what filters look at, and the frame every subscriber gets."""

    __slots__ = ("frame", "kind", "monotonic_s", "plugin_id", "seq", "worker")

    def __init__(
        self,
        seq: int,
        kind: str,
        worker: tuple[str, str] | None,
        plugin_id: str | None,
        monotonic_s: float,
        frame: bytes,
    ) -> None:
        self.seq = seq
        self.kind = kind
        self.worker = worker
        self.plugin_id = plugin_id
        self.monotonic_s = monotonic_s
        self.frame = frame


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What resumes: positions `floor` to `head`; `events` and `bytes` are what is kept."""

    floor: int
    head: int
    events: int
    bytes: int


class LogStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start. `pending` events are numbered and not yet committed."""

    appended: int
    committed: int
    pending: int
    pending_bytes: int
    evicted: int
    commits: int
    window: Window


class PositionExpiredError(Exception):
    """Events after the position are gone from the window. `floor` is the lowest that resumes."""

    def __init__(self, floor: int) -> None:
        super().__init__(floor)
        self.floor = floor


class EventLog(Protocol):
    """The log of one daemon."""

    @property
    def cursors(self) -> CursorCodec:
        """Writes this log's cursors; its `epoch` names the log."""
        ...

    @property
    def durable(self) -> bool:
        """Whether a commit survives a power cut."""
        ...

    @property
    def head(self) -> int:
        """The number of the last committed event, 0 before the first."""
        ...

    @property
    def appended(self) -> int:
        """The number of the last event numbered, committed or not."""
        ...

    def append(self, draft: Draft, on_commit: Callable[[], None] | None = None) -> int:
        """Numbers and encodes an event and gives its number; it will be committed whatever its caller does.

        Synchronous. `on_commit` is called by the log itself when the event is announced, so that a
        caller who was cancelled changes nothing; it must not raise. Raises `Refused`
        (`payload_too_large`, `invalid_event`) before a number is given, and `StorageFailed` when
        the log has failed.
        """
        ...

    async def committed(self, seq: int) -> None:
        """Waits until event `seq` is committed and announced. Cancelling the wait changes nothing.

        Raises `StorageFailed` when it never will be.
        """
        ...

    async def room(self) -> None:
        """Waits until producers of volume may append again: too much is numbered and not committed."""
        ...

    def window(self) -> Window:
        """The window of committed events."""
        ...

    def read(self, position: int, max_bytes: int) -> list[Entry]:
        """Committed events after `position`, at least one where there is one, at most `max_bytes`.

        Raises `PositionExpiredError` below the window's floor.
        """
        ...

    async def wait_beyond(self, position: int) -> None:
        """Waits until an event after `position` is committed. Raises `StorageFailed`."""
        ...

    def forget_worker(self, runtime_id: str, worker_id: str) -> None:
        """Lets go of a worker's own numbering, when it can emit no more."""
        ...

    def statistics(self) -> LogStatistics:
        """The counters now."""
        ...
