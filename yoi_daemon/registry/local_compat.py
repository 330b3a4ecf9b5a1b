"""`local_compat`: workers that something else on this machine recorded, read-only.

One regular file for each worker, `<directory>/<worker_id>.json`, of the shape of `Record`. Nothing is
kept between two calls but how the last look at the directory went.
"""

import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import msgspec
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Reason, format_time
from yoi_daemon.model.states import WorkerState
from yoi_daemon.model.workers import (
    Capabilities,
    Diagnostic,
    Receipt,
    Role,
    RuntimeStatus,
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
from yoi_daemon.runtime.transcript import Transcript

MAX_RECORDS = 1000
MAX_RECORD_BYTES = 1_048_576
MAX_RECORD_ITEMS = 10_000
"""What is read of a directory: the first 1,000 names, each file up to 1 MiB and 10,000 items."""
MAX_DIAGNOSTICS = 20
LOOK_DEADLINE_S = 5.0
"""For one look at the directory, which may be a network's; `runtime_timeout` after it."""

T = TypeVar("T")

_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SUFFIX = ".json"


class RecordedItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a recorded transcript, oldest first; `time` is RFC 3339."""

    item_id: str
    role: Role
    text: str
    time: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's file. Its id is the file's name; keys that are not here are passed over."""

    state: WorkerState
    created_at: str
    label: str = ""
    profile: str = ""
    generation: int = 0
    reason: Reason | None = None
    items: list[RecordedItem] = []


class _Malformed(Exception):
    """A record that cannot be shown; the text holds nothing of it."""


class _Look(msgspec.Struct, frozen=True):
    """One look at the directory. `is_there` is False where it cannot be read."""

    is_there: bool
    workers: tuple[WorkerSummary, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()


class LocalCompatRuntime:
    """See `Runtime`. Commands are `unsupported_operation`; there are no events of it."""

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
        self._directory = directory
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
        try:
            self._take(await self._in_thread(self._look))
        except Refused as refused:
            self._note("unavailable", [(refused.code, "error", refused.detail)])

    async def workers(self, *, after: str | None = None, limit: int = 100) -> WorkerPage:
        look = await self._in_thread(self._look)
        self._take(look)
        self._require(look.is_there)
        following = [one for one in look.workers if after is None or one.worker_id > after]
        chosen = following[: max(1, limit)]
        return WorkerPage(
            items=tuple(chosen),
            next=chosen[-1].worker_id if len(following) > len(chosen) else None,
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
        if not 1 <= limit <= MAX_PAGE_ITEMS or not 1 <= max_bytes <= MAX_PAGE_BYTES:
            raise Refused(
                "invalid_request",
                f"limit is 1 to {MAX_PAGE_ITEMS}, max_bytes 1 to {MAX_PAGE_BYTES}",
            )
        record = await self._record(worker_id)
        items = Transcript(max_items=MAX_RECORD_ITEMS, max_bytes=MAX_RECORD_BYTES)
        for item in record.items:
            items.append(item_id=item.item_id, role=item.role, text=item.text, time=item.time)
        page = items.page(after=after, before=before, limit=limit, max_bytes=max_bytes)
        log = self._event_log
        seq = log.appended
        await log.committed(seq)
        return TranscriptPage(
            items=page.items,
            as_of=log.cursors.encode(seq),
            before=page.before,
            after=page.after,
            let_go=page.let_go,
        )

    async def create(
        self,
        *,
        profile: str,
        label: str,
        input: str | None = None,
        correlation_id: str | None = None,
    ) -> Receipt:
        self._refuse_command()

    async def send(
        self,
        worker_id: str,
        text: str,
        *,
        when_busy: WhenBusy = "reject",
        correlation_id: str | None = None,
    ) -> Receipt:
        self._refuse_command()

    async def cancel(self, worker_id: str) -> Receipt:
        self._refuse_command()

    async def stop(self, worker_id: str, *, grace_s: float | None = None) -> Receipt:
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

    async def _record(self, worker_id: str) -> Record:
        if _WORKER_ID.fullmatch(worker_id) is None:
            raise self._not_found()
        try:
            record = await self._in_thread(lambda: self._read_or_none(worker_id))
        except (OSError, _Malformed) as error:
            raise Refused(
                "runtime_error", f"the worker's record in runtime {self._runtime_id} is malformed"
            ) from error
        if record is None:
            raise self._not_found()
        return record

    def _read_or_none(self, worker_id: str) -> Record | None:
        try:
            return self._read(worker_id)
        except FileNotFoundError:
            self._require(os.path.isdir(self._directory))
            return None

    async def _in_thread(self, function: Callable[[], T]) -> T:
        with trio.move_on_after(self._deadline_s):
            return await trio.to_thread.run_sync(
                function, abandon_on_cancel=True, limiter=self._threads
            )
        raise Refused(
            "runtime_timeout",
            f"the directory of runtime {self._runtime_id} did not answer within {self._deadline_s:g} s",
            retry_after_s=self._deadline_s,
        )

    def _look(self) -> _Look:
        """In a thread: every record, and what is wrong with those that cannot be shown."""
        try:
            with os.scandir(self._directory) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(_SUFFIX))
        except OSError:
            return _Look(is_there=False)
        workers: list[WorkerSummary] = []
        faults: list[tuple[str, str]] = []
        if len(names) > MAX_RECORDS:
            text = f"{len(names)} records; the first {MAX_RECORDS} are shown"
            faults.append(("too_many_records", text))
        for name in names[:MAX_RECORDS]:
            worker_id = name.removesuffix(_SUFFIX)
            try:
                if _WORKER_ID.fullmatch(worker_id) is None:
                    raise _Malformed("its name is no worker id")
                workers.append(self._summary_of(worker_id, self._read(worker_id)))
            except FileNotFoundError:
                continue  # gone since it was listed
            except (OSError, _Malformed) as error:
                why = "it cannot be read" if isinstance(error, OSError) else f"{error}"
                faults.append(("malformed_record", f"{ascii(name)[1:-1][:150]}: {why}"))
        workers.sort(key=lambda one: one.worker_id)
        return _Look(is_there=True, workers=tuple(workers), faults=tuple(faults))

    def _read(self, worker_id: str) -> Record:
        path = os.path.join(self._directory, worker_id + _SUFFIX)
        # No link out of the directory, and no pipe that would hold the thread.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Malformed("it is no regular file")
            data = file.read(MAX_RECORD_BYTES + 1)
        if len(data) > MAX_RECORD_BYTES:
            raise _Malformed(f"it is larger than {MAX_RECORD_BYTES} bytes")
        try:
            record = msgspec.json.decode(data, type=Record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _Malformed(_shape_fault(error)) from error
        if len(record.items) > MAX_RECORD_ITEMS:
            raise _Malformed(f"it has more than {MAX_RECORD_ITEMS} items")
        if len({item.item_id for item in record.items}) < len(record.items):
            raise _Malformed("two of its items have the same item_id")
        return record

    def _summary_of(self, worker_id: str, record: Record) -> WorkerSummary:
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

    def _take(self, look: _Look) -> None:
        if not look.is_there:
            text = "the configured directory cannot be read; see [runtimes] in the configuration"
            self._note("unavailable", [("directory_unreadable", "error", text)])
            return
        faults = [(code, "warning", text) for code, text in look.faults[:MAX_DIAGNOSTICS]]
        if (more := len(look.faults) - MAX_DIAGNOSTICS) > 0:
            faults.append(("more_diagnostics", "warning", f"and {more} more"))
        self._note("available", faults)

    def _note(self, status: RuntimeStatus, found: Sequence[tuple[str, str, str]]) -> None:
        self._status = status
        since = {(one.code, one.message): one.since for one in self._diagnostics}
        now = format_time(self._wall_clock())
        self._diagnostics = tuple(
            Diagnostic(
                code=code,
                severity="error" if severity == "error" else "warning",
                message=message,
                since=since.get((code, message), now),
            )
            for code, severity, message in found
        )

    def _require(self, is_there: bool) -> None:
        if not is_there:
            raise Refused(
                "runtime_unavailable",
                f"the directory of runtime {self._runtime_id} cannot be read now",
                retry_after_s=5.0,
            )

    def _not_found(self) -> Refused:
        return Refused(
            "worker_not_found", f"runtime {self._runtime_id} has no worker of this id; list them"
        )


def _shape_fault(error: Exception) -> str:
    # msgspec names types and places; but it quotes a value that is none of a Literal's.
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        if text.startswith("Invalid enum value"):
            return (
                f"a word it does not know{text[text.rfind(' - at') :]}"
                if " - at" in text
                else "bad"
            )
        return text
    return "it is not JSON"
