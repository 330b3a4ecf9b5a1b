"""`local_compat`: workers that something else on this machine recorded, read-only."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, TypeVar

import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import format_time
from yoi_daemon.model.workers import (
    DEFAULT_PAGE_ITEMS,
    MAX_PAGE_BYTES,
    Capabilities,
    Diagnostic,
    RuntimeStatus,
    RuntimeSummary,
    Severity,
    TranscriptPage,
    WorkerSummary,
)
from yoi_daemon.registry.recordings import (
    MAX_RECORD_BYTES,
    MAX_RECORD_ITEMS,
    MalformedRecordingError,
    Recording,
    RecordingFault,
    Recordings,
)
from yoi_daemon.runtime.interface import WorkerPage
from yoi_daemon.runtime.transcript import Transcript, read_page

MAX_DIAGNOSTICS = 20
LOOK_DEADLINE_S = 5.0
"""For one look at the directory, which may be a network's; `runtime_timeout` after it."""

T = TypeVar("T")


class LocalCompatRuntime:
    """See `Runtime`. Commands are `unsupported_operation`; there are no events of it.

    Nothing is kept between two calls but how the last look at the directory went.
    """

    def __init__(
        self,
        runtime_id: str,
        directory: str,
        event_log: EventLog,
        *,
        display_name: str = "",
        wall_clock: Callable[[], float] = time.time,
        deadline_s: float = LOOK_DEADLINE_S,
    ) -> None:
        self._runtime_id = runtime_id
        self._records = Recordings(directory)
        self._event_log = event_log
        self._display_name = display_name or runtime_id
        self._wall_clock = wall_clock
        self._deadline_s = deadline_s
        # Of its own: a directory that does not answer must not take a thread from the rest of the daemon.
        self._threads = trio.CapacityLimiter(1)
        self._status: RuntimeStatus = "unavailable"
        self._diagnostics: tuple[Diagnostic, ...] = ()

    def status(self) -> RuntimeStatus:
        return self._status

    def capabilities(self) -> Capabilities:
        return Capabilities(
            create=False, input=False, cancel=False, stop=False, transcript=True, events=False
        )

    def summary(self) -> RuntimeSummary:
        return RuntimeSummary(
            runtime_id=self._runtime_id,
            display_name=self._display_name,
            implementation_kind="local_compat",
            status=self._status,
            capabilities=self.capabilities(),
            diagnostics=self._diagnostics,
        )

    async def look(self) -> None:
        """Looks at the directory, so that status and diagnostics are of now. Refuses nothing."""
        with suppress(Refused):  # noted
            await self._look()

    async def workers(self, *, after: str | None = None, limit: int = 100) -> WorkerPage:
        records = await self._look()
        ids = [worker_id for worker_id in records if after is None or worker_id > after]
        chosen = ids[: max(1, limit)]
        return WorkerPage(
            items=tuple(self._summary_of(worker_id, records[worker_id]) for worker_id in chosen),
            next=chosen[-1] if len(ids) > len(chosen) else None,
        )

    async def worker(self, worker_id: str) -> WorkerSummary:
        return self._summary_of(worker_id, await self._record(worker_id))

    async def transcript(
        self,
        worker_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = DEFAULT_PAGE_ITEMS,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> TranscriptPage:
        record = await self._record(worker_id)
        items = Transcript(max_items=MAX_RECORD_ITEMS, max_bytes=MAX_RECORD_BYTES)
        for item in record.items:
            items.append(item_id=item.item_id, role=item.role, text=item.text, time=item.time)
        return await read_page(
            items, self._event_log, after=after, before=before, limit=limit, max_bytes=max_bytes
        )

    async def create(self, **_: object) -> NoReturn:
        self._refuse_command()

    async def send(self, worker_id: str, text: str, **_: object) -> NoReturn:
        self._refuse_command()

    async def cancel(self, worker_id: str) -> NoReturn:
        self._refuse_command()

    async def stop(self, worker_id: str, **_: object) -> NoReturn:
        self._refuse_command()

    def events(self, cursor: str) -> NoReturn:
        raise Refused(
            "unsupported_operation",
            f"runtime {self._runtime_id} tells no events; read its workers again",
        )

    def _refuse_command(self) -> NoReturn:
        raise Refused(
            "unsupported_operation",
            f"runtime {self._runtime_id} is read-only: its workers belong to something else",
        )

    async def _look(self) -> dict[str, Recording]:
        """Every record there is, and how that went into status and diagnostics."""
        try:
            records, faults = await self._in_thread(self._records.read_all)
        except Refused as refused:
            self._note("unavailable", "error", [RecordingFault(refused.code, refused.detail)])
            raise
        if (more := len(faults) - MAX_DIAGNOSTICS) > 0:
            faults[MAX_DIAGNOSTICS:] = [RecordingFault("more_diagnostics", f"and {more} more")]
        self._note("available", "warning", faults)
        return records

    async def _record(self, worker_id: str) -> Recording:
        try:
            record = await self._in_thread(lambda: self._records.read(worker_id))
        except MalformedRecordingError as error:
            raise Refused(
                "runtime_error", f"the worker's record in runtime {self._runtime_id} is malformed"
            ) from error
        if record is None:
            raise Refused(
                "worker_not_found",
                f"runtime {self._runtime_id} has no worker of this id; list them",
            )
        return record

    async def _in_thread(self, function: Callable[[], T]) -> T:
        with trio.move_on_after(self._deadline_s):
            try:
                return await trio.to_thread.run_sync(
                    function, abandon_on_cancel=True, limiter=self._threads
                )
            except OSError as error:
                raise Refused(
                    "runtime_unavailable",
                    f"the directory of runtime {self._runtime_id} cannot be read; see the configuration",
                    retry_after_s=5.0,
                ) from error
        raise Refused(
            "runtime_timeout",
            f"the directory of runtime {self._runtime_id} did not answer within {self._deadline_s:g} s",
            retry_after_s=self._deadline_s,
        )

    def _note(
        self, status: RuntimeStatus, severity: Severity, faults: Sequence[RecordingFault]
    ) -> None:
        since = {(one.code, one.message): one.since for one in self._diagnostics}
        now = format_time(self._wall_clock())
        self._status = status
        self._diagnostics = tuple(
            Diagnostic(
                code=fault.code,
                severity=severity,
                message=fault.text,
                since=since.get((fault.code, fault.text), now),
            )
            for fault in faults
        )

    def _summary_of(self, worker_id: str, record: Recording) -> WorkerSummary:
        return WorkerSummary(
            runtime_id=self._runtime_id,
            worker_id=worker_id,
            implementation_kind="local_compat",
            label=record.label,
            profile=record.profile,
            state=record.state,
            generation=record.generation,
            created_at=record.created_at,
            reason=record.reason,
        )
