"""What the stream tells of workers beside their events: snapshots, and final states."""

import msgspec
import trio

from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import ObservationEvent, WorkerCreated, WorkerStateChanged
from yoi_daemon.model.states import WORKER_TERMINAL
from yoi_daemon.model.workers import WorkerSummary
from yoi_daemon.registry.registry import Registry
from yoi_daemon.stream.protocol import (
    CLOSE_CODES,
    Snapshot,
    StreamRefused,
    Target,
    WorkerSnapshot,
)
from yoi_daemon.stream.session import DatedSnapshot

SNAPSHOT_WORKERS = 100
LOOK_BYTES = 65_536
SNAPSHOT_BYTES = 65_536
"""Of a worker's transcript, in its own scope."""


class WorkerScope:
    """One worker, of one runtime."""

    def __init__(self, registry: Registry, log: EventLog, runtime_id: str, worker_id: str) -> None:
        self._runtime = registry.runtime(runtime_id)
        self._log = log
        self._runtime_id = runtime_id
        self._worker_id = worker_id

    async def now(self) -> WorkerSummary | None:
        """The worker, also one that its runtime has let go of while the log has it; None for one not made yet."""
        try:
            return await self._runtime.worker(self._worker_id)
        except Refused as refused:
            if refused.code != "worker_not_found":
                raise
            return self._logged()

    async def final(self) -> WorkerSummary | None:
        """The worker when nothing more can come of it; None for one that lives or is not made yet."""
        worker = await self.now()
        return worker if worker is not None and worker.state in WORKER_TERMINAL else None

    def _logged(self) -> WorkerSummary | None:
        """An ended worker as its first and its last event tell of it."""
        wanted = Filter(
            worker=(self._runtime_id, self._worker_id), kinds=("worker.created", "worker.state")
        )
        position = self._log.floor_of(wanted)
        made: WorkerSummary | None = None
        while position < self._log.head:
            entries, position = self._log.scan(wanted, position, LOOK_BYTES)
            for entry in entries:
                event = msgspec.json.decode(entry.message, type=ObservationEvent)
                if event.kind == "worker.created":
                    made = self._created(event)
                elif entry.is_last and made is not None:
                    last = msgspec.convert(event.data, WorkerStateChanged)
                    return msgspec.structs.replace(
                        made, state=last.state, generation=last.generation, reason=last.reason
                    )
        return None

    def _created(self, event: ObservationEvent) -> WorkerSummary:
        data = msgspec.convert(event.data, WorkerCreated)
        return WorkerSummary(
            runtime_id=self._runtime_id,
            worker_id=self._worker_id,
            implementation_kind=self._runtime.summary().implementation_kind,
            label=data.label,
            profile=data.profile,
            state=data.state,
            generation=0,
            created_at=event.time,
        )

    async def snapshot(self) -> DatedSnapshot:
        """The worker with its latest items, at the position both are true at; no worker where there is none."""
        try:
            # Nothing yields between the two: the page's cursor is the summary's too.
            worker = await self._runtime.worker(self._worker_id)
        except Refused as refused:
            if refused.code != "worker_not_found":
                raise
            position = self._log.appended
            await self._log.committed(position)
            cursor = self._log.cursors.encode(position)
            return DatedSnapshot(Snapshot(cursor=cursor, workers=()), position)
        page = await self._runtime.transcript(self._worker_id, max_bytes=SNAPSHOT_BYTES)
        return DatedSnapshot(
            Snapshot(cursor=page.as_of, workers=(WorkerSnapshot(worker=worker, transcript=page),)),
            decode_cursor(page.as_of).seq,
        )


async def snapshot_workers(registry: Registry, log: EventLog) -> DatedSnapshot:
    """Up to `SNAPSHOT_WORKERS` workers of all runtimes, without transcripts, at one position."""
    workers: list[WorkerSummary] = []
    more = False
    # Nothing yields while they are listed: the position is true for all of them.
    for runtime in registry.runtimes.values():
        page = await runtime.workers(limit=SNAPSHOT_WORKERS)
        workers += page.items
        more = more or page.next is not None
    position = log.appended
    await log.committed(position)
    await trio.lowlevel.checkpoint()
    return DatedSnapshot(
        Snapshot(
            cursor=log.cursors.encode(position),
            workers=tuple(WorkerSnapshot(worker=one) for one in workers[:SNAPSHOT_WORKERS]),
            more=more or len(workers) > SNAPSHOT_WORKERS,
        ),
        position,
    )


async def check_target(
    registry: Registry, log: EventLog, target: Target, *, may_be_missing: bool
) -> WorkerScope:
    """The worker that a target names. Raises `StreamRefused`, but not for one that is awaited."""
    assert target.runtime_id is not None
    assert target.worker_id is not None
    try:
        scope = WorkerScope(registry, log, target.runtime_id, target.worker_id)
        if not may_be_missing and await scope.now() is None:
            await registry.runtime(target.runtime_id).worker(target.worker_id)
    except Refused as refused:
        if refused.code not in CLOSE_CODES:
            raise  # a runtime that cannot answer now: told before the 101, and tried again
        raise StreamRefused(refused.code, refused.code, refused.detail) from refused
    return scope
