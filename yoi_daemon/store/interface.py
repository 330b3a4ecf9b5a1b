"""The interface of a store, whichever database is behind it."""

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
"""Buckets of `commit_times`: from a fast disk's fsync to a failing disk."""


class Batch(NamedTuple):
    """The content of one commit. `floors` are the numbers of the last event that each retention class evicted."""

    events: Mapping[Retention, Sequence[LogEvent]]
    changes: Changes
    floors: Mapping[Retention, int]


class RecoveredLog(NamedTuple):
    """The event log as it was committed: `events` of both retention classes in order of number.

    `shared_marks` are the watermarks of all scopes that have none of their own.
    """

    head: int
    events: list[LogEvent]
    floors: Mapping[Retention, int]
    shared_marks: Mapping[Retention, int]
    watermarks: Mapping[Retention, Mapping[str, int]]


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start. `commit_…_ms` cover the latest commits, `commit_times` all of them.

    `bytes` is the size of the store's files; `free_bytes` is left on the file system, and `low` is true
    if that is too little to accept more.
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
    """Keeps the daemon's durable data. One commit at a time; the event log's writer is the only caller."""

    kind: str
    durable: bool
    """True if a commit survives a power cut."""
    epoch: str
    """The epoch of the log that it keeps."""
    earlier_epochs: tuple[str, ...]
    """The epochs of logs that it kept before, oldest first."""

    @property
    def is_low(self) -> bool:
        """True if there is too little space to accept more; accepted events are still handled."""
        ...

    @property
    def is_behind(self) -> bool:
        """True if evicted events are still to be deleted; each commit deletes some."""
        ...

    def age_s(self) -> float:
        """Returns the seconds that daemons ran on this store, this one included; ages are measured by it.

        Independent of the machine's clock.
        """
        ...

    async def commit(self, batch: Batch) -> None:
        """Commits a batch durably, whole or not at all. Raises `StorageFailed`, and is never retried.

        Must not be cancelled: shield it.
        """
        ...

    async def recover_log(self) -> RecoveredLog:
        """Reads the event log, once at the start."""
        ...

    async def rows(self, table: Table[R], **equal: str) -> list[R]:
        """Returns committed rows whose columns equal `equal`, in order of their keys. Raises `StorageFailed`."""
        ...

    def statistics(self) -> StoreStatistics:
        """Returns the counters as they are."""
        ...


Clock = Callable[[], float]
