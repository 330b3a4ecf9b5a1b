"""What a store promises, whatever is behind it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from yoi_daemon.model.events import Retention
from yoi_daemon.model.histogram import HistogramSnapshot
from yoi_daemon.store.tables import Changes, LogEvent, Table

R = TypeVar("R", bound=tuple[Any, ...])


COMMIT_BOUNDS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
"""Of `commit_times`: from a fast disk's fsync to a disk that is ill."""


class Batch(NamedTuple):
    """What one commit takes. `floors` are the numbers of the last event each retention class let go of."""

    events: Mapping[Retention, Sequence[LogEvent]]
    changes: Changes
    floors: Mapping[Retention, int]


class RecoveredLog(NamedTuple):
    """The event log as it was committed: `events` of both retention classes in order of number.

    `shared_marks` stand for the scopes whose own watermark was let go of.
    """

    head: int
    events: list[LogEvent]
    floors: Mapping[Retention, int]
    shared_marks: Mapping[Retention, int]
    watermarks: Mapping[Retention, Mapping[str, int]]


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start. `commit_ms` are the latest commits, `commit_times` all of them;
    `bytes` are the store's files.

    `free_bytes` is what the file system has left; `low` whether that is too little to accept more.
    """

    commits: int
    commit_p50_ms: float
    commit_p99_ms: float
    commit_max_ms: float
    commit_times: HistogramSnapshot
    bytes: int
    free_bytes: int
    low: bool


class Recorder(Protocol):
    """Has rows committed: the event log, or a commit of it that is open."""

    def record(self, changes: Changes) -> int:
        """Has `changes` committed and returns the ticket of that commit. Raises `StorageFailed`."""
        ...


class Store(Protocol):
    """Keeps what the daemon may not forget. One commit at a time; its caller is the event log's writer."""

    kind: str
    durable: bool
    """Whether a commit survives a power cut."""
    epoch: str
    """The name of the log it keeps."""
    earlier_epochs: tuple[str, ...]
    """The names of logs that this store kept before, oldest first."""

    @property
    def is_low(self) -> bool:
        """Whether there is too little space to accept more; what is accepted is still seen to its end."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether events that were let go of are still to be deleted: a commit deletes some."""
        ...

    def age_s(self) -> float:
        """Seconds that daemons ran on this store, this one included: what ages are measured by.

        No change of the machine's clock moves it.
        """
        ...

    async def commit(self, batch: Batch) -> None:
        """Makes a batch last, whole or not at all. Raises `StorageFailed`; it is never tried again.

        Not to be cancelled: shield it.
        """
        ...

    async def recover_log(self) -> RecoveredLog:
        """The log's part, read once at the start."""
        ...

    async def rows(self, table: Table[R], **equal: str) -> list[R]:
        """Committed rows, those whose columns are `equal`, in order of their keys. Raises `StorageFailed`."""
        ...

    def statistics(self) -> StoreStatistics:
        """The counters now."""
        ...


Clock = Callable[[], float]
