"""The event log's interface, whichever store is behind it.

An event is encoded once, in the same synchronous step that numbers it. It is announced after its
commit, in order of number: subscribers, cursors and receipts never show an uncommitted event.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.model.cursor import CursorCodec
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Draft, Retention
from yoi_daemon.store.tables import Changes


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The positions that resume for every filter, `floor` to `head`; `events` and `bytes` are in total.

    A filter that misses nothing resumes from below `floor` too; see `EventLog.floor_of`.
    """

    floor: int
    head: int
    events: int
    bytes: int


class RetentionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One retention class; `scopes` counts the workers and plugins indexed in it."""

    floor: int
    events: int
    bytes: int
    evicted: int
    scopes: int


class LogStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start. `pending` events are numbered and not yet committed."""

    appended: int
    committed: int
    pending: int
    pending_bytes: int
    evicted: int
    commits: int
    window: Window
    retentions: dict[Retention, RetentionStatistics]


class PositionExpiredError(Exception):
    """Events after the position are gone from the window. `floor` is the lowest that resumes."""

    def __init__(self, floor: int) -> None:
        super().__init__(floor)
        self.floor = floor


class Commit(Protocol):
    """Appends and rows that are one commit: all of them last, or none. See `EventLog.together`."""

    def append(self, draft: Draft, on_commit: Callable[[], None] | None = None) -> int:
        """See `EventLog.append`. Raises `CommitClosedError` outside its block."""
        ...

    def record(self, changes: Changes) -> int:
        """See `EventLog.record`. Raises `CommitClosedError` outside its block."""
        ...


class CommitClosedError(RuntimeError):
    """A commit was used outside its block."""


class CommitCutError(RuntimeError):
    """A task yielded between the appends and rows of one commit."""


class EventLog(Protocol):
    """The log of one daemon."""

    @property
    def cursors(self) -> CursorCodec:
        """Writes this log's cursors; its `epoch` names the log."""
        ...

    @property
    def earlier_epochs(self) -> Collection[str]:
        """Returns the epochs of the logs that this daemon kept before."""
        ...

    @property
    def durable(self) -> bool:
        """True if a commit survives a power cut."""
        ...

    @property
    def head(self) -> int:
        """Returns the number of the last committed event, 0 before the first."""
        ...

    @property
    def appended(self) -> int:
        """Returns the number of the last event numbered, committed or not."""
        ...

    def append(self, draft: Draft, on_commit: Callable[[], None] | None = None) -> int:
        """Numbers and encodes an event and returns its number; it is committed whatever its caller does.

        Synchronous. The log itself calls `on_commit` when the event is announced, so a cancelled
        caller changes nothing; it must not raise. Raises `Refused` (`payload_too_large`,
        `invalid_event`) before a number is taken, and `StorageFailed` if the log has failed.
        """
        ...

    def record(self, changes: Changes) -> int:
        """Has changes of the store committed and returns the ticket that `recorded` waits for.

        Synchronous. Raises `StorageFailed`.
        """
        ...

    def together(self) -> AbstractContextManager[Commit]:
        """Opens a commit: what its block appends and records lasts as a whole or not at all.

        Entering and leaving are synchronous, and the block must be: if a task yields in it and the
        writer runs meanwhile, the log fails with `CommitCutError`. A block inside another joins it.
        What was appended before the block raised is committed.
        """
        ...

    async def recorded(self, ticket: int) -> None:
        """Waits until the changes of `ticket` are committed. Cancelling the wait changes nothing.

        Raises `StorageFailed` if they never will be.
        """
        ...

    def refusal(self) -> Refused | None:
        """Returns why nothing new may be accepted now (`storage_low`, `queue_full`), or None."""
        ...

    async def committed(self, seq: int) -> None:
        """Waits until event `seq` is committed and announced. Cancelling the wait changes nothing.

        Raises `StorageFailed` if it never will be.
        """
        ...

    async def room(self) -> None:
        """Waits while too much is numbered and not committed; for producers of many events."""
        ...

    def window(self) -> Window:
        """Returns the window of committed events."""
        ...

    def read(self, position: int, max_bytes: int) -> list[Entry]:
        """Returns committed events after `position`: at most `max_bytes`, but at least one if there is one.

        Raises `PositionExpiredError` below the window's floor.
        """
        ...

    def scan(
        self, wanted: Filter, position: int, max_bytes: int, up_to: int | None = None
    ) -> tuple[list[Entry], int]:
        """Returns matching committed events after `position`, and the position that was reached.

        At most `max_bytes` of frames, but at least one event if there is one; nothing after `up_to`.
        The cost follows the matches of a worker's or plugin's filter. Raises `PositionExpiredError`
        if an event that could have matched is gone.
        """
        ...

    def floor_of(self, wanted: Filter) -> int:
        """Returns the lowest position that resumes for this filter; watermarks outlive evicted events."""
        ...

    def next_floor(self, wanted: Filter) -> int:
        """Returns what `floor_of` may rise to soon: a subscriber behind it needs a bookmark."""
        ...

    async def wait_beyond(self, position: int) -> None:
        """Waits until an event after `position` is committed. Raises `StorageFailed`."""
        ...

    def forget_worker(self, runtime_id: str, worker_id: str) -> None:
        """Forgets a worker's own numbering, once it can emit nothing more."""
        ...

    def statistics(self) -> LogStatistics:
        """Returns the counters as they are."""
        ...
