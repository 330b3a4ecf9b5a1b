"""`local_compat`: workers that other software on this machine recorded, read-only."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, TypeVar

import msgspec
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import format_time
from yoi_daemon.model.workers import (
    DEFAULT_PAGE_ITEMS,
    MAX_PAGE_BYTES,
    SNAPSHOT_PAGE_BYTES,
    Capabilities,
    Diagnostic,
    RuntimeStatus,
    RuntimeSummary,
    Severity,
    TranscriptPage,
    WorkerPage,
    WorkerSummary,
)
from yoi_daemon.registry.recordings import (
    MAX_RECORD_BYTES,
    MAX_RECORD_ITEMS,
    MalformedRecordingError,
    RecordedItem,
    Recording,
    RecordingFault,
    Recordings,
)
from yoi_daemon.runtime.transcript import Page, Transcript, read_page

MAX_DIAGNOSTICS = 20
SCAN_DEADLINE_S = 5.0
"""Deadline of a read of the directory, which may be on a network; `runtime_timeout` after it."""
SCAN_INTERVAL_S = 10.0
"""Maximum age of what is known; a scan of 1,000 records takes under 0.1 s."""

T = TypeVar("T")


class KnownWorker(msgspec.Struct, frozen=True):
    """A worker as last read: its summary, and the latest page of its transcript."""

    summary: WorkerSummary
    page: Page


class LocalCompatRuntime:
    """Implements `ConfiguredRuntime`. Commands are `unsupported_operation`, and there are no events.

    What is known is what the last successful scan found, and what `worker` read since: at most 1,000
    workers, each with up to `SNAPSHOT_PAGE_BYTES` of its transcript.
    """

    def __init__(
        self,
        runtime_id: str,
        directory: str,
        event_log: EventLog,
        *,
        display_name: str = "",
        wall_clock: Callable[[], float] = time.time,
        deadline_s: float = SCAN_DEADLINE_S,
    ) -> None:
        self._runtime_id = runtime_id
        self._recordings = Recordings(directory)
        self._event_log = event_log
        self._display_name = display_name or runtime_id
        self._wall_clock = wall_clock
        self._deadline_s = deadline_s
        # A limiter of its own: a directory that hangs must not take threads from the rest of the daemon.
        self._threads = trio.CapacityLimiter(1)
        self._status: RuntimeStatus = "unavailable"
        self._diagnostics: tuple[Diagnostic, ...] = ()
        self._known: dict[str, KnownWorker] = {}

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

    async def refresh(self) -> None:
        """Scans the directory once."""
        with suppress(Refused):  # it is in the diagnostics
            await self._scan()

    async def run(self) -> None:
        """Scans the directory every `SCAN_INTERVAL_S`."""
        while True:
            await trio.sleep(SCAN_INTERVAL_S)
            await self.refresh()

    def workers_now(self, *, limit: int = 100) -> WorkerPage:
        return self._list(None, limit)

    def worker_now(self, worker_id: str) -> WorkerSummary | None:
        known = self._known.get(worker_id)
        return None if known is None else known.summary

    def transcript_now(self, worker_id: str) -> TranscriptPage | None:
        known = self._known.get(worker_id)
        if known is None:
            return None
        return known.page.dated(self._event_log.cursors.encode(self._event_log.appended))

    async def workers(self, *, after: str | None = None, limit: int = 100) -> WorkerPage:
        await self._scan()
        return self._list(after, limit)

    async def worker(self, worker_id: str) -> WorkerSummary:
        recording = await self._read(worker_id)
        known = self._known[worker_id] = self._known_worker(worker_id, recording)
        return known.summary

    async def transcript(
        self,
        worker_id: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = DEFAULT_PAGE_ITEMS,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> TranscriptPage:
        recording = await self._read(worker_id)
        return await read_page(
            _transcript(recording.items),
            self._event_log,
            after=after,
            before=before,
            limit=limit,
            max_bytes=max_bytes,
        )

    async def create(self, **_: object) -> NoReturn:
        self._refuse_command()

    async def send(self, worker_id: str, text: str, **_: object) -> NoReturn:
        self._refuse_command()

    async def cancel(self, worker_id: str) -> NoReturn:
        self._refuse_command()

    async def stop(self, worker_id: str, **_: object) -> NoReturn:
        self._refuse_command()

    def _refuse_command(self) -> NoReturn:
        raise Refused(
            "unsupported_operation",
            f"runtime {self._runtime_id} is read-only: its workers belong to other software",
        )

    def _list(self, after: str | None, limit: int) -> WorkerPage:
        ids = [worker_id for worker_id in sorted(self._known) if after is None or worker_id > after]
        chosen = ids[: max(1, limit)]
        return WorkerPage(
            items=tuple(self._known[worker_id].summary for worker_id in chosen),
            next=chosen[-1] if len(ids) > len(chosen) else None,
        )

    async def _scan(self) -> None:
        """Reads every recording, and sets what is known, the status and the diagnostics."""
        try:
            known, faults = await self._in_thread(self._read_all)
        except Refused as refused:
            self._note("unavailable", "error", [RecordingFault(refused.code, refused.detail)])
            raise
        if (more := len(faults) - MAX_DIAGNOSTICS) > 0:
            faults[MAX_DIAGNOSTICS:] = [RecordingFault("more_diagnostics", f"and {more} more")]
        self._known = known
        self._note("available", "warning", faults)

    def _read_all(self) -> tuple[dict[str, KnownWorker], list[RecordingFault]]:
        """Blocks; runs in a thread."""
        recordings, faults = self._recordings.read_all()
        known = {
            worker_id: self._known_worker(worker_id, recording)
            for worker_id, recording in recordings.items()
        }
        return known, faults

    async def _read(self, worker_id: str) -> Recording:
        try:
            recording = await self._in_thread(lambda: self._recordings.read(worker_id))
        except MalformedRecordingError as error:
            raise Refused(
                "runtime_error", f"the worker's record in runtime {self._runtime_id} is malformed"
            ) from error
        if recording is None:
            self._known.pop(worker_id, None)
            raise Refused(
                "worker_not_found",
                f"runtime {self._runtime_id} has no worker of this id; list them",
            )
        return recording

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
        since = {(known.code, known.message): known.since for known in self._diagnostics}
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

    def _known_worker(self, worker_id: str, recording: Recording) -> KnownWorker:
        summary = WorkerSummary(
            runtime_id=self._runtime_id,
            worker_id=worker_id,
            implementation_kind="local_compat",
            label=recording.label,
            profile=recording.profile,
            state=recording.state,
            generation=recording.generation,
            created_at=recording.created_at,
            reason=recording.reason,
        )
        # One item more than the page has, so that the page knows whether there is an earlier one.
        latest = _transcript(recording.items[-DEFAULT_PAGE_ITEMS - 1 :])
        page = latest.page(
            after=None, before=None, limit=DEFAULT_PAGE_ITEMS, max_bytes=SNAPSHOT_PAGE_BYTES
        )
        return KnownWorker(summary, page)


def _transcript(items: Sequence[RecordedItem]) -> Transcript:
    transcript = Transcript(max_items=MAX_RECORD_ITEMS, max_bytes=MAX_RECORD_BYTES)
    for item in items:
        transcript.append(item_id=item.item_id, role=item.role, text=item.text, time=item.time)
    return transcript
