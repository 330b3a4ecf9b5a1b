"""The embedded runtime: workers in this process, a task each, in one nursery."""

import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import structlog
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import format_time
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID, IdSource
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.model.states import WorkerState
from yoi_daemon.model.workers import (
    DEFAULT_PAGE_ITEMS,
    MAX_GRACE_S,
    MAX_PAGE_BYTES,
    MAX_WORKER_LABEL_CHARS,
    SNAPSHOT_PAGE_BYTES,
    Capabilities,
    Diagnostic,
    Receipt,
    RuntimeStatus,
    RuntimeSummary,
    TranscriptPage,
    WhenBusy,
    WorkerPage,
    WorkerSummary,
)
from yoi_daemon.runtime.engines.lost import LostEngine
from yoi_daemon.runtime.ledger import KeptWorker, WorkerLedger, restore
from yoi_daemon.runtime.profiles import Profiles
from yoi_daemon.runtime.services import RuntimeServices
from yoi_daemon.runtime.transcript import page_now, read_page
from yoi_daemon.runtime.turn import RUNTIME_STOPPED
from yoi_daemon.runtime.worker import Worker
from yoi_daemon.store.interface import Store

STOP_BUDGET_S = 2.0
"""Time for workers to end when the context ends without a `shutdown` before: one engine's clean-up."""


class RuntimeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime's workers by state, retained ended ones too. `wedged` counts those with given-up turns."""

    runtime_id: str
    workers: dict[WorkerState, int]
    wedged: int


class EmbeddedRuntime:
    """Implements `registry.interface.Runtime`. It has no endpoint, token or path: callers hold the object."""

    def __init__(
        self,
        event_log: EventLog,
        ids: IdSource,
        profiles: Profiles,
        settings: RuntimeSettings,
        runtime_id: str,
        wall_clock: Callable[[], float],
        nursery: trio.Nursery,
    ) -> None:
        self._services = RuntimeServices(
            runtime_id=runtime_id,
            event_log=event_log,
            ledger=WorkerLedger(runtime_id, event_log),
            ids=ids,
            settings=settings,
            wall_clock=wall_clock,
            on_ended=self._retain,
            on_given_up=self._note_wedged,
        )
        self._profiles = profiles
        self._nursery = nursery
        self._workers: dict[str, Worker] = {}
        self._ended: deque[Worker] = deque()
        self._wedged: list[Worker] = []
        self._wedged_since: str | None = None
        self._is_draining = False

    def status(self) -> RuntimeStatus:
        return "draining" if self._is_draining else "available"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            create=True, input=True, cancel=True, stop=True, transcript=True, events=True
        )

    def summary(self) -> RuntimeSummary:
        wedged = self.wedged()
        diagnostics = ()
        if wedged:
            message = (
                f"turns of {len(wedged)} workers outlived their cancellation and hold memory until "
                "the daemon restarts; the log names them"
            )
            diagnostics = (
                Diagnostic(
                    code="wedged_turns",
                    severity="warning",
                    message=message,
                    since=self._wedged_since,
                ),
            )
        return RuntimeSummary(
            runtime_id=self._services.runtime_id,
            display_name="Embedded",
            implementation_kind="embedded",
            status=self.status(),
            capabilities=self.capabilities(),
            diagnostics=diagnostics,
        )

    def workers_now(self, *, limit: int = 100) -> WorkerPage:
        return self._list(None, limit)

    def worker_now(self, worker_id: str) -> WorkerSummary | None:
        worker = self._workers.get(worker_id)
        return None if worker is None else worker.summary()

    def transcript_now(self, worker_id: str) -> TranscriptPage | None:
        worker = self._workers.get(worker_id)
        if worker is None:
            return None
        return page_now(worker.transcript, self._services.event_log, max_bytes=SNAPSHOT_PAGE_BYTES)

    async def workers(self, *, after: str | None = None, limit: int = 100) -> WorkerPage:
        return self._list(after, limit)

    def _list(self, after: str | None, limit: int) -> WorkerPage:
        # Ids sort by creation time, so the id of an evicted worker still marks a position.
        ids = [
            worker_id for worker_id in sorted(self._workers) if after is None or worker_id > after
        ]
        chosen = ids[: max(1, limit)]
        return WorkerPage(
            items=tuple(self._workers[worker_id].summary() for worker_id in chosen),
            next=chosen[-1] if len(ids) > len(chosen) else None,
        )

    async def worker(self, worker_id: str) -> WorkerSummary:
        return self._find(worker_id).summary()

    async def create(
        self,
        *,
        profile: str,
        label: str,
        input: str | None = None,
        correlation_id: str | None = None,
    ) -> Receipt:
        engine = self._profiles.engine(profile)
        self._refuse_draining()
        self._refuse_full()
        if len(label) > MAX_WORKER_LABEL_CHARS:
            raise Refused(
                "invalid_request", f"a label has at most {MAX_WORKER_LABEL_CHARS} characters"
            )
        if input is not None:
            self._check_input(input)
        limit = self._services.settings.max_workers
        if len(self._workers) - len(self._ended) >= limit:
            raise Refused(
                "limit_reached", f"{limit} workers run already; stop some, or raise the limit"
            )
        worker = Worker(
            self._services.ids.new("wrk"),
            engine,
            self._services,
            profile=profile,
            label=label,
            created_at=format_time(self._services.wall_clock()),
        )
        with self._services.event_log.together():
            seq = worker.announce(correlation_id)
            self._add(worker)
            if input is not None:
                seq = worker.send(input, "queue", correlation_id)
        return await self._receipt(worker, seq)

    async def send(
        self,
        worker_id: str,
        text: str,
        *,
        when_busy: WhenBusy = "reject",
        correlation_id: str | None = None,
    ) -> Receipt:
        worker = self._find(worker_id)
        self._check_input(text)
        self._refuse_full()
        return await self._receipt(worker, worker.send(text, when_busy, correlation_id))

    async def cancel(self, worker_id: str) -> Receipt:
        seq, summary = await self._find(worker_id).cancel()
        return await self._receipt_of(summary, seq)

    async def stop(self, worker_id: str, *, grace_s: float | None = None) -> Receipt:
        grace_s = self._services.settings.cancel_grace_s if grace_s is None else grace_s
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise Refused("invalid_request", f"grace_s is 0 to {MAX_GRACE_S:g}")
        seq, summary = await self._find(worker_id).stop(grace_s)
        return await self._receipt_of(summary, seq)

    async def transcript(
        self,
        worker_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = DEFAULT_PAGE_ITEMS,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> TranscriptPage:
        return await read_page(
            self._find(worker_id).transcript,
            self._services.event_log,
            after=after,
            before=before,
            limit=limit,
            max_bytes=max_bytes,
        )

    def drain(self) -> None:
        """Refuses new workers from now on."""
        self._is_draining = True

    async def shutdown(self, budget_s: float) -> None:
        """Drains, and ends the execution of every worker within `budget_s`, whatever its engine does.

        On a durable store workers are suspended, and the next run restores them; otherwise each ends in
        a terminal state. If cancelled, all have been asked to end by then.
        """
        self.drain()
        alive = [worker for worker in self._workers.values() if not worker.is_ended]
        for worker in alive:
            if self._services.ledger.durable:
                worker.suspend(budget_s)
            else:
                worker.begin_stop(RUNTIME_STOPPED, budget_s)
        for worker in alive:
            await worker.finished.wait()

    def restore(self, kept: Sequence[KeptWorker]) -> None:
        """Restores the workers of earlier runs, in this order. To be called first."""
        for earlier in kept:
            row = earlier.row
            try:
                engine = self._profiles.engine(row.profile)
            except Refused:
                engine = LostEngine()
            worker = Worker(
                row.worker_id,
                engine,
                self._services,
                profile=row.profile,
                label=row.label,
                created_at=row.created_at,
            )
            self._workers[row.worker_id] = worker
            worker.restore(earlier)
            if not worker.is_ended:
                self._add(worker)
            elif worker not in self._ended:
                self._retain(worker.worker_id)

    def _add(self, worker: Worker) -> None:
        self._workers[worker.worker_id] = worker
        self._nursery.start_soon(worker.run, self._nursery, name=f"worker {worker.worker_id}")

    def wedged(self) -> tuple[str, ...]:
        """Returns the workers with given-up turns that still run, ended workers too: nothing can wait for those."""
        self._wedged = [worker for worker in self._wedged if worker.wedged_turns]
        return tuple(worker.worker_id for worker in self._wedged)

    def statistics(self) -> RuntimeStatistics:
        """Returns the counts of workers as they are."""
        states: Counter[WorkerState] = Counter(worker.state for worker in self._workers.values())
        return RuntimeStatistics(
            runtime_id=self._services.runtime_id, workers=dict(states), wedged=len(self.wedged())
        )

    def _find(self, worker_id: str) -> Worker:
        worker = self._workers.get(worker_id)
        if worker is None:
            raise Refused(
                "worker_not_found",
                f"runtime {self._services.runtime_id} has no worker of this id; list them",
            )
        return worker

    def _retain(self, worker_id: str) -> None:
        """Keeps an ended worker readable, and evicts the one that ended first."""
        self._ended.append(self._workers[worker_id])
        with self._services.event_log.together() as commit:
            while len(self._ended) > self._services.settings.retained_workers:
                evicted = self._ended.popleft()
                del self._workers[evicted.worker_id]
                self._services.event_log.forget_worker(self._services.runtime_id, evicted.worker_id)
                self._services.ledger.forget(commit, evicted.worker_id, evicted.transcript.numbers)

    def _note_wedged(self, worker_id: str) -> None:
        worker = self._workers[worker_id]
        if not self.wedged():
            self._wedged_since = format_time(self._services.wall_clock())
        if worker not in self._wedged:
            self._wedged.append(worker)

    def _refuse_full(self) -> None:
        if (refused := self._services.event_log.refusal()) is not None:
            raise refused

    def _refuse_draining(self) -> None:
        if self._is_draining:
            raise Refused("draining", "the runtime is stopping", retry_after_s=5.0)

    def _check_input(self, text: str) -> None:
        limit = self._services.settings.max_input_bytes
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise Refused("invalid_request", "the input is not valid Unicode text") from error
        if size > limit:
            raise Refused(
                "payload_too_large",
                f"the input is {size} bytes; a worker takes up to {limit}",
                bytes=size,
                max_bytes=limit,
            )

    async def _receipt(self, worker: Worker, seq: int) -> Receipt:
        return await self._receipt_of(worker.summary(), seq)

    async def _receipt_of(self, summary: WorkerSummary, seq: int) -> Receipt:
        log = self._services.event_log
        await log.committed(seq)
        return Receipt(worker=summary, cursor=log.cursors.encode(seq))


@asynccontextmanager
async def open_embedded_runtime(
    event_log: EventLog,
    ids: IdSource,
    profiles: Profiles,
    settings: RuntimeSettings,
    *,
    store: Store | None = None,
    runtime_id: str = EMBEDDED_RUNTIME_ID,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncGenerator[EmbeddedRuntime]:
    """Opens the runtime with the workers that `store` has of earlier runs. Leaving it shuts it down.

    Its tasks are shielded: cancellation from outside shuts the runtime down within `STOP_BUDGET_S`,
    which gives up an engine that ignores its own cancellation. The context does not end before such an
    engine does; a process that must end asks `wedged` first.
    """
    kept = [] if store is None else await restore(store, runtime_id)
    async with trio.open_nursery() as outer:
        nursery, close = await outer.start(_run_workers)
        runtime = EmbeddedRuntime(
            event_log, ids, profiles, settings, runtime_id, wall_clock, nursery
        )
        runtime.restore(kept)
        try:
            yield runtime
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * STOP_BUDGET_S):
                await runtime.shutdown(STOP_BUDGET_S)
            if wedged := runtime.wedged():
                structlog.get_logger("runtime").warning("engines still run", workers=list(wedged))
            close.set()


async def _run_workers(task_status: trio.TaskStatus[tuple[trio.Nursery, trio.Event]]) -> None:
    """Opens the nursery of all workers and turns, until the event is set."""
    close = trio.Event()
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started((nursery, close))
            await close.wait()
