"""What the stream tells of workers beside their events: snapshots, and final states."""

import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.states import WORKER_TERMINAL
from yoi_daemon.model.workers import WorkerSummary
from yoi_daemon.observe.protocol import Snapshot, StreamRefused, Target, WorkerSnapshot
from yoi_daemon.observe.session import Taken
from yoi_daemon.registry.registry import Registry

SNAPSHOT_WORKERS = 100
SNAPSHOT_BYTES = 65_536
"""Of a worker's transcript, in its own scope."""


class WorkerScope:
    """One worker, of one runtime."""

    def __init__(self, registry: Registry, runtime_id: str, worker_id: str) -> None:
        self._runtime = registry.runtime(runtime_id)
        self._worker_id = worker_id

    async def final(self) -> WorkerSummary | None:
        """The worker when nothing more can come of it; None for one that lives or is not made yet."""
        try:
            worker = await self._runtime.worker(self._worker_id)
        except Refused as refused:
            if refused.code != "worker_not_found":
                raise
            return None
        return worker if worker.state in WORKER_TERMINAL else None

    async def snapshot(self) -> Taken:
        """The worker with its latest items, at the position both are true at."""
        # Nothing yields between the two: the page's cursor is the summary's too.
        worker = await self._runtime.worker(self._worker_id)
        page = await self._runtime.transcript(self._worker_id, max_bytes=SNAPSHOT_BYTES)
        return Taken(
            Snapshot(cursor=page.as_of, workers=(WorkerSnapshot(worker=worker, transcript=page),)),
            decode_cursor(page.as_of).seq,
        )


async def snapshot_workers(registry: Registry, log: EventLog) -> Taken:
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
    return Taken(
        Snapshot(
            cursor=log.cursors.encode(position),
            workers=tuple(WorkerSnapshot(worker=one) for one in workers[:SNAPSHOT_WORKERS]),
            more=more or len(workers) > SNAPSHOT_WORKERS,
        ),
        position,
    )


async def check_target(registry: Registry, target: Target, *, may_be_missing: bool) -> WorkerScope:
    """The worker that a target names. Raises `StreamRefused`, but not for one that is awaited."""
    assert target.runtime_id is not None
    assert target.worker_id is not None
    try:
        scope = WorkerScope(registry, target.runtime_id, target.worker_id)
        await registry.runtime(target.runtime_id).worker(target.worker_id)
    except Refused as refused:
        if refused.code == "worker_not_found" and may_be_missing:
            return WorkerScope(registry, target.runtime_id, target.worker_id)
        raise StreamRefused(refused.code, refused.code, refused.detail) from refused
    return scope
