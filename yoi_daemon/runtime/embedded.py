"""The embedded runtime: workers in this process, one nursery for all, one task for each."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.model.workers import (
    EMBEDDED_RUNTIME_ID,
    Capabilities,
    Receipt,
    RuntimeSummary,
    TranscriptPage,
    WhenBusy,
    WorkerSummary,
)
from yoi_daemon.runtime.interface import (
    DEFAULT_PAGE_ITEMS,
    MAX_PAGE_BYTES,
    MAX_PAGE_ITEMS,
    WorkerPage,
)
from yoi_daemon.runtime.profiles import Profiles
from yoi_daemon.runtime.worker import Surroundings, Worker

MAX_LABEL_CHARS = 200


class EmbeddedRuntime:
    """See `Runtime`. It has no endpoint, no token and no path: it is called, not connected to."""

    def __init__(
        self, surroundings: Surroundings, profiles: Profiles, nursery: trio.Nursery
    ) -> None:
        self._around = surroundings
        self._profiles = profiles
        self._nursery = nursery
        self._workers: dict[str, Worker] = {}
        self._is_draining = False

    def summary(self) -> RuntimeSummary:
        return RuntimeSummary(
            runtime_id=self._around.runtime_id,
            display_name="Embedded",
            implementation_kind="embedded",
            status="draining" if self._is_draining else "available",
            capabilities=Capabilities(
                create=True, input=True, cancel=False, stop=False, transcript=True, events=True
            ),
        )

    async def workers(self, *, after: str | None = None, limit: int = 100) -> WorkerPage:
        # Ids sort by time, so a worker that is gone by now still marks a place.
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
        if len(label) > MAX_LABEL_CHARS:
            raise Refused("invalid_request", f"a label has at most {MAX_LABEL_CHARS} characters")
        if input is not None:
            self._check_input(input)
        limit = self._around.settings.max_workers
        if sum(not worker.is_over for worker in self._workers.values()) >= limit:
            raise Refused(
                "limit_reached", f"{limit} workers run already; stop some, or raise the limit"
            )
        worker = Worker(
            self._around.ids.new("wrk"),
            engine,
            self._around,
            profile=profile,
            label=label,
            correlation_id=correlation_id,
        )
        self._workers[worker.worker_id] = worker
        self._nursery.start_soon(worker.run, name=f"worker {worker.worker_id}")
        seq = worker.created_seq
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
        return await self._receipt(worker, worker.send(text, when_busy, correlation_id))

    async def transcript(
        self,
        worker_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = DEFAULT_PAGE_ITEMS,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> TranscriptPage:
        worker = self._find(worker_id)
        if not 1 <= limit <= MAX_PAGE_ITEMS or not 1 <= max_bytes <= MAX_PAGE_BYTES:
            raise Refused(
                "invalid_request",
                f"limit is 1 to {MAX_PAGE_ITEMS}, max_bytes 1 to {MAX_PAGE_BYTES}",
            )
        # Position and projection in one stretch; the cursor is told after its commit.
        page = worker.transcript.page(after=after, before=before, limit=limit, max_bytes=max_bytes)
        log = self._around.event_log
        seq = log.appended
        await log.committed(seq)
        return TranscriptPage(
            items=page.items, as_of=log.cursors.encode(seq), before=page.before, after=page.after
        )

    def drain(self) -> None:
        """Refuses new workers from now on."""
        self._is_draining = True

    def _find(self, worker_id: str) -> Worker:
        worker = self._workers.get(worker_id)
        if worker is None:
            raise Refused(
                "worker_not_found",
                f"runtime {self._around.runtime_id} has no worker of this id; list them",
            )
        return worker

    def _refuse_draining(self) -> None:
        if self._is_draining:
            raise Refused("draining", "the runtime is stopping", retry_after_s=5.0)

    def _check_input(self, text: str) -> None:
        limit = self._around.settings.max_input_bytes
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
        log = self._around.event_log
        summary = worker.summary()
        await log.committed(seq)
        return Receipt(worker=summary, cursor=log.cursors.encode(seq))


@asynccontextmanager
async def open_embedded_runtime(
    event_log: EventLog,
    ids: IdSource,
    profiles: Profiles,
    settings: RuntimeSettings,
    *,
    runtime_id: str = EMBEDDED_RUNTIME_ID,
    wall_clock: Callable[[], float] = time.time,
) -> AsyncGenerator[EmbeddedRuntime]:
    """The runtime with no workers yet. Leaving it stops every worker; each ends in a terminal state."""
    surroundings = Surroundings(
        runtime_id=runtime_id,
        event_log=event_log,
        ids=ids,
        settings=settings,
        wall_clock=wall_clock,
    )
    async with trio.open_nursery() as nursery:
        runtime = EmbeddedRuntime(surroundings, profiles, nursery)
        try:
            yield runtime
        finally:
            runtime.drain()
            nursery.cancel_scope.cancel()
