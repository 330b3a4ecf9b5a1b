"""The event log: numbered at once, committed in groups by one writer, announced in order."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NoReturn, Protocol

import trio

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.filter import Filter, retention_of
from yoi_daemon.eventlog.framing import Framer
from yoi_daemon.eventlog.interface import (
    Commit,
    CommitClosedError,
    CommitCutError,
    LogStatistics,
    Window,
)
from yoi_daemon.eventlog.ring import Ring
from yoi_daemon.model.cursor import CursorCodec
from yoi_daemon.model.errors import Refused, StorageFailed
from yoi_daemon.model.events import Draft, Retention, ends_worker
from yoi_daemon.store.interface import Batch, Store
from yoi_daemon.store.tables import WORKER_NUMBER, Change, Changes, WorkerNumber

MAX_PENDING_BYTES = 16_777_216
"""Limit of numbered, uncommitted bytes: 16 MiB, a quarter of the default window. Beyond it `room` waits."""


class GroupCommitLog:
    """See `EventLog`. `run` is its writer: nothing is committed unless it runs."""

    def __init__(
        self,
        store: Store,
        ring: Ring,
        *,
        wall_clock: Callable[[], float],
        earlier_epochs: Collection[str] = (),
        worker_seqs: Mapping[tuple[str, str], int] = MappingProxyType({}),
    ) -> None:
        self.cursors = CursorCodec(store.epoch)
        self.durable = store.durable
        self._store = store
        self.earlier_epochs = frozenset(earlier_epochs) - {store.epoch}
        self._ring = ring
        self._framer = Framer(self.cursors, wall_clock)
        self._clock = store.age_s
        self.appended = ring.head
        self._commits = 0
        self._changes: list[Change] = []
        # Calls of `record`, and how many of them are committed.
        self._recorded = self._kept = 0
        self._open_commit = OpenCommit(self)
        self._pending: list[Entry] = []
        self._on_commit: list[Callable[[], None]] = []
        self._pending_bytes = 0
        self._worker_seqs = dict(worker_seqs)
        self._numbered: dict[tuple[str, str], int] = {}
        self._writer = trio.lowlevel.ParkingLot()
        self._waiting = trio.lowlevel.ParkingLot()
        """Tasks that wait for the next commit."""
        self._closing = False
        self._ended = False
        self._failure: BaseException | None = None

    @property
    def head(self) -> int:
        return self._ring.head

    def append(self, draft: Draft, on_commit: Callable[[], None] | None = None) -> int:
        if self._closing or self._ended:
            self._raise_failed()
        worker = None
        worker_seq = None
        if draft.runtime_id is not None and draft.worker_id is not None:
            worker = (draft.runtime_id, draft.worker_id)
            worker_seq = self._worker_seqs.get(worker, 0) + 1
        seq = self.appended + 1
        # Whatever may refuse the event is decided before it has a number.
        frame = self._framer.frame(seq, worker_seq, draft)
        self.appended = seq
        if worker is not None and worker_seq is not None:
            self._worker_seqs[worker] = self._numbered[worker] = worker_seq
        entry = Entry(
            seq,
            draft.kind,
            worker,
            draft.plugin_id,
            self._clock(),
            frame,
            is_last=worker is not None and ends_worker(draft),
        )
        if not self._pending:
            self._writer.unpark()
        self._pending.append(entry)
        if on_commit is not None:
            self._on_commit.append(on_commit)
        self._pending_bytes += len(frame)
        return seq

    def record(self, changes: Changes) -> int:
        if self._closing or self._ended:
            self._raise_failed()
        self._changes.extend(changes)
        self._recorded += 1
        if self._writer:
            self._writer.unpark()
        return self._recorded

    def together(self) -> "OpenCommit":
        return self._open_commit  # blocks are synchronous, so one is enough

    async def recorded(self, ticket: int) -> None:
        while self._kept < ticket:
            await self._next_commit()

    def refusal(self) -> Refused | None:
        if self._store.is_low:
            return Refused(
                "storage_low",
                "the daemon's disk is nearly full, so nothing more is accepted; free some space",
                retry_after_s=5.0,
            )
        if self._pending_bytes > MAX_PENDING_BYTES:
            return Refused(
                "queue_full",
                "more is being written than the disk can take; send again later",
                retry_after_s=1.0,
            )
        return None

    async def committed(self, seq: int) -> None:
        while self._ring.head < seq:
            await self._next_commit()

    async def wait_beyond(self, position: int) -> None:
        while self._ring.head <= position:
            await self._next_commit()

    async def room(self) -> None:
        while self._pending_bytes > MAX_PENDING_BYTES:
            await self._next_commit()

    def window(self) -> Window:
        self._ring.evict()
        return self._ring.window()

    def read(self, position: int, max_bytes: int) -> list[Entry]:
        return self._ring.read(position, max_bytes)

    def scan(
        self, wanted: Filter, position: int, max_bytes: int, up_to: int | None = None
    ) -> tuple[list[Entry], int]:
        return self._ring.scan(wanted, position, max_bytes, up_to)

    def floor_of(self, wanted: Filter) -> int:
        self._ring.evict()
        return self._ring.floor_of(wanted)

    def next_floor(self, wanted: Filter) -> int:
        return self._ring.next_floor(wanted)

    def forget_worker(self, runtime_id: str, worker_id: str) -> None:
        worker = (runtime_id, worker_id)
        self._worker_seqs.pop(worker, None)
        self._numbered.pop(worker, None)
        if self.durable and not self._closing:
            self.record((WORKER_NUMBER.drop(*worker),))

    def statistics(self) -> LogStatistics:
        return LogStatistics(
            appended=self.appended,
            committed=self._ring.head,
            pending=len(self._pending),
            pending_bytes=self._pending_bytes,
            evicted=self._ring.evicted,
            commits=self._commits,
            window=self._ring.window(),
            retentions=self._ring.retentions(),
        )

    def close(self) -> None:
        """Ends appending; the writer returns once nothing is pending."""
        self._closing = True
        self._writer.unpark()

    async def run(self) -> None:
        """Commits until `close`, and until nothing is pending; never ends by cancellation."""
        # Shielded: it outlives its users, whose clean-up still appends while they are cancelled.
        with trio.CancelScope(shield=True):
            try:
                while not self._closing or self._has_uncommitted():
                    if self._has_uncommitted() or self._store.is_behind:
                        await self._commit()
                    else:
                        await self._writer.park()
            except BaseException as error:
                self._failure = error
                raise
            finally:
                self._ended = True
                self._waiting.unpark_all()

    def _has_uncommitted(self) -> bool:
        return bool(self._pending) or self._recorded > self._kept

    async def _commit(self) -> None:
        """Commits all there is, then announces it in order of number, in one stretch without a checkpoint."""
        if self._open_commit.depth:
            raise CommitCutError(
                "a task yielded inside `together`, and half of it would be committed"
            )
        batch, self._pending = self._pending, []
        announced, self._on_commit = self._on_commit, []
        numbered, self._numbered = self._numbered, {}
        changes, self._changes = self._changes, []
        recorded, size = self._recorded, self._pending_bytes
        await self._store.commit(self._batch(batch, numbered, changes))
        self._commits += bool(batch)
        self._kept = recorded
        self._pending_bytes -= size
        self._ring.extend(batch)
        for on_commit in announced:
            on_commit()
        self._waiting.unpark_all()

    def _batch(
        self, batch: list[Entry], numbered: Mapping[tuple[str, str], int], changes: list[Change]
    ) -> Batch:
        if not self.durable:
            return NOTHING
        events: dict[Retention, list[Entry]] = {"lifecycle": [], "volume": []}
        for entry in batch:
            events[retention_of(entry)].append(entry)
        changes += [
            WORKER_NUMBER.put(WorkerNumber(*worker, seq)) for worker, seq in numbered.items()
        ]
        return Batch(events, changes, self._ring.floors())

    async def _next_commit(self) -> None:
        if self._ended:
            self._raise_failed()
        await self._waiting.park()

    def _raise_failed(self) -> NoReturn:
        raise StorageFailed("the event log is closed") from self._failure


class _Append(Protocol):
    def __call__(self, draft: Draft, on_commit: Callable[[], None] | None = None) -> int: ...


class _Record(Protocol):
    def __call__(self, changes: Changes) -> int: ...


class OpenCommit:
    """The `Commit` of whichever block is open, and the block itself.

    There is a block for every event. So its methods are the log's own while one is open, without a call
    in between, and refuse while none is.
    """

    __slots__ = ("_append", "_record", "append", "depth", "record")
    append: _Append
    record: _Record

    def __init__(self, log: "GroupCommitLog") -> None:
        self._append = log.append
        self._record = log.record
        self.append = _refuse_append
        self.record = _refuse_record
        self.depth = 0
        """How many blocks are open, one inside the other."""

    def __enter__(self) -> Commit:
        self.depth += 1
        self.append = self._append
        self.record = self._record
        return self

    def __exit__(self, _type: object, _error: object, _traceback: object) -> None:
        self.depth -= 1
        if not self.depth:
            self.append = _refuse_append
            self.record = _refuse_record


def _refuse_append(draft: Draft, on_commit: Callable[[], None] | None = None) -> int:
    raise CommitClosedError(f"{draft.kind} is appended outside the block of its commit")


def _refuse_record(changes: Changes) -> int:
    raise CommitClosedError("rows are recorded outside the block of their commit")


NOTHING = Batch({}, (), {})
