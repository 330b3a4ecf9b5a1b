"""What the stream shows of workers besides their events: snapshots, and final states."""

import msgspec
import trio

from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.eventlog.interface import EventLog
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
SCAN_BYTES = 65_536


class WorkerScope:
    """One worker of one runtime."""

    def __init__(self, registry: Registry, log: EventLog, runtime_id: str, worker_id: str) -> None:
        self._runtime = registry.runtime(runtime_id)
        self._log = log
        self._runtime_id = runtime_id
        self._worker_id = worker_id

    async def ask(self, *, may_be_missing: bool) -> None:
        """Asks the runtime for the worker. Raises as `Runtime.worker` does.

        Does not raise for a worker that the runtime has evicted while the log has it.
        """
        try:
            await self._runtime.worker(self._worker_id)
        except Refused as refused:
            is_missing = refused.code == "worker_not_found"
            if not is_missing or not (may_be_missing or self._logged() is not None):
                raise

    def final(self) -> WorkerSummary | None:
        """Returns the worker once it can emit nothing more; None while it lives or is not created yet."""
        worker = self._runtime.worker_now(self._worker_id) or self._logged()
        return worker if worker is not None and worker.state in WORKER_TERMINAL else None

    def _logged(self) -> WorkerSummary | None:
        """Returns an ended worker as its first and its last event show it."""
        wanted = Filter(
            worker=(self._runtime_id, self._worker_id), kinds=("worker.created", "worker.state")
        )
        position = self._log.floor_of(wanted)
        created: WorkerSummary | None = None
        while position < self._log.head:
            entries, position = self._log.scan(wanted, position, SCAN_BYTES)
            for entry in entries:
                event = msgspec.json.decode(entry.message, type=ObservationEvent)
                if event.kind == "worker.created":
                    created = self._created(event)
                elif entry.is_last and created is not None:
                    last = msgspec.convert(event.data, WorkerStateChanged)
                    return msgspec.structs.replace(
                        created, state=last.state, generation=last.generation, reason=last.reason
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
        """Returns the worker with its latest items once that is committed; no worker if it is not known."""
        snapshot = self._snapshot_now()
        await self._log.committed(snapshot.position)
        return snapshot

    def _snapshot_now(self) -> DatedSnapshot:
        worker = self._runtime.worker_now(self._worker_id)
        if worker is None:
            return _dated(self._log, ())
        page = self._runtime.transcript_now(self._worker_id)
        return _dated(self._log, (WorkerSnapshot(worker=worker, transcript=page),))


async def snapshot_workers(registry: Registry, log: EventLog) -> DatedSnapshot:
    """Returns up to `SNAPSHOT_WORKERS` workers of all runtimes, without transcripts, once that is committed."""
    snapshot = _workers_now(registry, log)
    await log.committed(snapshot.position)
    await trio.lowlevel.checkpoint()
    return snapshot


def _workers_now(registry: Registry, log: EventLog) -> DatedSnapshot:
    workers: list[WorkerSummary] = []
    more = False
    for runtime in registry.runtimes.values():
        page = runtime.workers_now(limit=SNAPSHOT_WORKERS)
        workers += page.items
        more = more or page.next is not None
    shown = tuple(WorkerSnapshot(worker=worker) for worker in workers[:SNAPSHOT_WORKERS])
    return _dated(log, shown, more=more or len(workers) > SNAPSHOT_WORKERS)


def _dated(
    log: EventLog, workers: tuple[WorkerSnapshot, ...], *, more: bool = False
) -> DatedSnapshot:
    """Dates what is known now. Synchronous, as all that led here: an event between the two would be lost."""
    position = log.appended
    cursor = log.cursors.encode(position)
    return DatedSnapshot(Snapshot(cursor=cursor, workers=workers, more=more), position)


async def check_target(
    registry: Registry, log: EventLog, target: Target, *, may_be_missing: bool
) -> WorkerScope:
    """Returns the scope of the worker that a target names. Raises `StreamRefused` if there is no such worker.

    A worker that `may_be_missing` may be created later.
    """
    assert target.runtime_id is not None
    assert target.worker_id is not None
    try:
        scope = WorkerScope(registry, log, target.runtime_id, target.worker_id)
        await scope.ask(may_be_missing=may_be_missing)
    except Refused as refused:
        if refused.code not in CLOSE_CODES:
            raise  # the runtime cannot answer now: an HTTP refusal before the upgrade, to be retried
        raise StreamRefused(refused.code, refused.code, refused.detail) from refused
    return scope
