"""What the event log promises, whichever store is behind it.

An event is encoded once, in the same synchronous step that numbers it. It is shown after its
commit, in order of number: nothing a subscriber, a cursor or a receipt tells was not committed.
"""

from collections.abc import Callable, Collection
from typing import Protocol

import msgspec

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.model.cursor import CursorCodec
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Draft, Retention
from yoi_daemon.store.tables import Changes


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What resumes for every filter: `floor` to `head`; `events` and `bytes` are all that is kept.

    A filter that misses nothing resumes from below `floor` too; see `EventLog.floor_of`.
    """

    floor: int
    head: int
    events: int
    bytes: int


class RetentionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One retention class; `scopes` is how many workers and plugins are indexed in it."""

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


class EventLog(Protocol):
    """The log of one daemon."""

    @property
    def cursors(self) -> CursorCodec:
        """Writes this log's cursors; its `epoch` names the log."""
        ...

    @property
    def earlier_epochs(self) -> Collection[str]:
        """The epochs of the logs that this daemon kept before."""
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

    def record(self, changes: Changes) -> int:
        """Has changes of the store committed; gives what `recorded` waits for.

        Synchronous. They are in one commit with what is appended before and after them in the same
        stretch without a checkpoint. Raises `StorageFailed`.
        """
        ...

    async def recorded(self, ticket: int) -> None:
        """Waits until what `record` gave `ticket` for is committed. Cancelling the wait changes nothing.

        Raises `StorageFailed` when it never will be.
        """
        ...

    def refusal(self) -> Refused | None:
        """Why nothing new may be accepted now, if so: `storage_low`, `queue_full`."""
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
        """Committed events after `position`, whatever they are; at least one where there is one, at most `max_bytes`.

        Raises `PositionExpiredError` below the window's floor.
        """
        ...

    def look(
        self, wanted: Filter, position: int, max_bytes: int, up_to: int | None = None
    ) -> tuple[list[Entry], int]:
        """Committed events after `position` that `wanted` takes, and the position this brings to.

        At most `max_bytes` of frames, but one event where one was found; nothing after `up_to`. The
        cost follows the matches of a worker's or plugin's filter. Raises `PositionExpiredError`
        where an event that could have matched is gone.
        """
        ...

    def floor_of(self, wanted: Filter) -> int:
        """The lowest position that resumes for this filter, by watermarks that outlive the content."""
        ...

    def soon(self, wanted: Filter) -> int:
        """What `floor_of` may rise to before long: a subscriber told of less is to be told of more."""
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
