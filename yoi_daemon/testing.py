"""What an author's own tests use: one plugin on the host's own machinery, without a daemon.

    async def story() -> None:
        async with open_plugin("plugins/hello.py", config={"greeting": "Hi"}) as harness:
            result = await harness.ingress("hello", {"name": "World"})
            assert result.outcome == "handled"

    run(story)

The daemon's own code loads, feeds, judges and stops the plugin. Workers are recorded, and timers fire by `tick`.
"""

import os
import random
import stat
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import msgspec
import trio
from trio.testing import MockClock

from yoi_daemon.daemon.host import GrantedWorkers
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.config_faults import Faults
from yoi_daemon.model.configuration import convert_table
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import AttemptOutcome, ObservationEvent
from yoi_daemon.model.ids import EMBEDDED_RUNTIME_ID, IdSource
from yoi_daemon.model.plugins import PluginRecord
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.model.settings import ObserveSettings, PluginSettings
from yoi_daemon.model.workers import (
    Receipt,
    TranscriptItem,
    TranscriptPage,
    WhenBusy,
    WorkerSummary,
)
from yoi_daemon.plugins.admission import Admission
from yoi_daemon.plugins.boots import NotJournaled
from yoi_daemon.plugins.execution.watchdog import run_watchdog
from yoi_daemon.plugins.loading.discovery import INIT, Found
from yoi_daemon.plugins.loading.loader import LoadedPlugin, Loader
from yoi_daemon.plugins.summary import ask_status, record_of
from yoi_daemon.plugins.supervision.parts import HostServices
from yoi_daemon.plugins.supervision.service import Service
from yoi_daemon.plugins.tools import call_tool
from yoi_daemon.registry.interface import Runtime
from yoi_daemon.registry.registry import Registry
from yoi_daemon.store.memory import MemoryStore
from yoi_daemon.trusted_files import Trust

T = TypeVar("T")
STOP_BUDGET_S = 5.0
"""For the handler in hand, the stop hook and the closing of resources, when a test leaves its plugin."""
CREATED_AT = "2026-01-01T00:00:00.000000Z"
"""When every recorded worker was made, and was sent everything."""
STOP_FAILURES = frozenset({"stop_failed", "stop_timeout", "close_timeout"})
_OUTCOMES = frozenset(get_args(AttemptOutcome))
_event = msgspec.json.Decoder(ObservationEvent)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt ended.

    `where` is the innermost line of the plugin itself, as `plugins/NAME.py:LINE`. `retry_in_s` is set where the
    event is tried again.
    """

    outcome: AttemptOutcome
    attempt: int
    code: str | None = None
    message: str | None = None
    where: str | None = None
    retry_in_s: float | None = None


class NotRunning(Exception):
    """The plugin's service did not start, or did not stop, as it should; the message says why."""


class RecordedWorkers:
    """Workers that only record what they were sent: `inputs` holds `(worker_id, text)` in order."""

    def __init__(self) -> None:
        self.inputs: list[tuple[str, str]] = []
        self._workers: dict[str, WorkerSummary] = {}

    async def create(
        self, *, profile: str, label: str, input: str | None = None, correlation_id: str | None
    ) -> Receipt:
        """See `Runtime.create`."""
        await trio.lowlevel.checkpoint()
        worker_id = f"wrk_{len(self._workers) + 1}"
        self._workers[worker_id] = WorkerSummary(
            runtime_id=EMBEDDED_RUNTIME_ID,
            worker_id=worker_id,
            implementation_kind="embedded",
            label=label,
            profile=profile,
            state="idle",
            generation=0,
            created_at=CREATED_AT,
        )
        return self._receipt(worker_id, input)

    async def send(
        self, worker_id: str, text: str, *, when_busy: WhenBusy, correlation_id: str | None
    ) -> Receipt:
        """See `Runtime.send`. Raises `Refused` (`worker_not_found`)."""
        await trio.lowlevel.checkpoint()
        return self._receipt(worker_id, text)

    async def transcript(self, worker_id: str, *, limit: int) -> TranscriptPage:
        """See `Runtime.transcript`. Raises `Refused` (`worker_not_found`)."""
        await trio.lowlevel.checkpoint()
        self._find(worker_id)
        items = [
            TranscriptItem(
                item_id=f"itm_{number}",
                role="user",
                text=text,
                time=CREATED_AT,
                truncated=False,
                full_bytes=len(text.encode()),
            )
            for number, (of, text) in enumerate(self.inputs, 1)
            if of == worker_id
        ]
        return TranscriptPage(items=tuple(items[-limit:]), as_of="cursor")

    def _receipt(self, worker_id: str, text: str | None) -> Receipt:
        worker = self._find(worker_id)
        if text is not None:
            self.inputs.append((worker_id, text))
        return Receipt(worker=worker, cursor="cursor")

    def _find(self, worker_id: str) -> WorkerSummary:
        worker = self._workers.get(worker_id)
        if worker is None:
            raise Refused("worker_not_found", "there is no worker of this id")
        return worker


class Harness:
    """A plugin that was started. Refusals are the host's own: `yoi_daemon.sdk.Refused`, with a `code`."""

    def __init__(
        self,
        service: Service,
        admission: Admission,
        event_log: EventLog,
        workers: RecordedWorkers,
    ) -> None:
        self.workers = workers
        self._service = service
        self._admission = admission
        self._event_log = event_log
        self._last: tuple[str, Result] | None = None

    @property
    def emitted(self) -> list[tuple[str, Any]]:
        """Returns what the plugin emitted, as `(kind, data)` in order; a kind begins with the plugin's id."""
        prefix = f"{self._service.plugin_id}."
        return [
            (event.kind, event.data) for event in self._events(0) if event.kind.startswith(prefix)
        ]

    @property
    def state(self) -> dict[str, Any]:
        """Returns a copy of the plugin's state."""
        state = self._service.state
        return {key: state.get(key) for key in state.keys()}  # noqa: SIM118 (it is no dict)

    @property
    def record(self) -> PluginRecord:
        """Returns the plugin as `yoi-daemon plugin show` has it: its state, reason, counters and last error."""
        return record_of(self._service)

    def check_started(self) -> None:
        """Raises `NotRunning` where the service has failed."""
        self._check(self._service.lifecycle.state == "failed")

    def check_stopped(self) -> None:
        """Raises `NotRunning` where the service did not end as it should."""
        self._check(self._service.lifecycle.reason.code in STOP_FAILURES)

    def _check(self, has_failed: bool) -> None:
        if has_failed:
            reason, last = self._service.lifecycle.reason, self._service.settlement.last_error
            where = "" if last is None or last.where is None else f" at {last.where}"
            raise NotRunning(f"{reason.code}: {reason.message}{where}")

    async def ingress(self, name: str, payload: Any = None, *, key: str | None = None) -> Result:
        """Feeds the ingress one event, and returns how its first attempt ended.

        Raises `Refused`: `ingress_not_found`, `invalid_event` and whatever else admission refuses.
        """
        service, encoded = self._service, msgspec.json.encode(payload)
        begun = self._event_log.appended
        receipt = await self._admission.accept(service, name, encoded, key=key)
        return await self._result(receipt.event_id, begun)

    async def hook(self, name: str, body: bytes, headers: Mapping[str, str]) -> Result:
        """Feeds the ingress a webhook, with its signature in `headers`; returns how its first attempt ended.

        Raises `Refused`: `unauthenticated`, and as `ingress` does.
        """
        begun = self._event_log.appended
        lower = {key.lower(): value for key, value in headers.items()}
        receipt = await self._admission.accept_hook(self._service, name, body, lower)
        return await self._result(receipt.event_id, begun)

    async def tick(self, name: str) -> Result:
        """Fires the timer `name`, and returns how its first attempt ended.

        Raises `KeyError`, and `RuntimeError` while its last event still waits.
        """
        manifest = self._service.installed.manifest
        assert manifest is not None
        begun, counters = self._event_log.appended, self._service.settlement.counters
        skipped = counters["skipped"]
        self._admission.tick(self._service, manifest.ingresses[name])
        if counters["skipped"] > skipped:
            raise RuntimeError("the timer's last event still waits, so this one is skipped")
        return await self._result(None, begun)

    async def retry(self) -> Result:
        """Lets the next attempt at the last event begin, and returns how it ended.

        Under `run` time jumps to it; on a clock that cannot jump this waits. Raises `RuntimeError` where no
        event waits for a retry.
        """
        if self._last is None or (delay_s := self._last[1].retry_in_s) is None:
            raise RuntimeError("no event waits for a retry")
        begun = self._event_log.appended
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, MockClock):
            clock.jump(delay_s)
        return await self._result(self._last[0], begun)

    async def tool(self, name: str, arguments: Any = None) -> Any:
        """Calls a tool, and returns its result. Raises `Refused`: `tool_not_found`, `invalid_request`, `tool_failed`, `tool_timeout` and others."""
        result = await call_tool(self._service, name, msgspec.json.encode(arguments))
        await self._event_log.committed(self._event_log.appended)
        return msgspec.json.decode(result)

    async def status(self) -> Any:
        """Returns what `@plugin.status` answers, as `detail` has it; None without one."""
        return msgspec.json.decode(msgspec.json.encode(await ask_status(self._service)))

    def _events(self, position: int) -> list[ObservationEvent]:
        entries = self._event_log.read(position, 1 << 40)
        return [_event.decode(entry.message) for entry in entries]

    async def _result(self, event_id: str | None, position: int) -> Result:
        """Waits for the end of the next attempt after `position`, at one event where that is given."""
        while True:
            for event in self._events(position):
                outcome = event.kind.removeprefix("plugin.ingress.")
                data = cast("dict[str, Any]", event.data)
                if outcome in _OUTCOMES and event_id in (None, data["event_id"]):
                    result = msgspec.convert({**data, "outcome": outcome}, Result)
                    self._last = data["event_id"], result
                    return result
            await self._event_log.wait_beyond(self._event_log.head)


class _AnyOwner(Trust):
    """Trusts every file: a test runs what its author wrote, whoever checked it out."""

    def __init__(self) -> None:
        super().__init__(frozenset(), strict=False)

    def check(self, path: Path, found: os.stat_result) -> None:
        """Refuses nothing."""


@asynccontextmanager
async def open_plugin(
    path: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str] | None = None,
    state: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncGenerator[Harness]:
    """Starts the plugin in a file, or in a package's directory; leaving stops it, also when the body raises.
    Cancelled, its resources are closed without the stop hook.

    `config` is its table `[plugins.NAME.config]`; a Secret in it names a key of `secrets`. `state` is what an earlier
    run kept. `settings` are keys of `[plugins.NAME]`, such as `grants` or `dispatch_timeout_s`.

    Raises `LoadFailed` as the host would, with its `code`; `ConfigurationError` for `settings`; `NotRunning`
    where `start` failed, and on leaving where the stop did.
    """
    found = _found(Path(path))
    table = {**settings, "config": dict(config or {})}
    faults = Faults("open_plugin")
    wanted = convert_table(table, PluginSettings, ("plugins", found.plugin_id), faults)
    faults.raise_if_any()
    failure: BaseException | None = None
    with tempfile.TemporaryDirectory() as name:
        loader = Loader(_directories(Path(name), secrets or {}), _AnyOwner(), Redaction())
        with loader.installed():
            loaded = await trio.to_thread.run_sync(_load, loader, found, wanted)
            async with _supervised(loaded, wanted, state or {}) as harness:
                try:
                    harness.check_started()
                    yield harness
                except BaseException as error:  # noqa: ASYNC103, BLE001 (raised below, where no nursery wraps it)
                    failure = error
            loader.forget(loaded)
    if failure is not None:
        raise failure
    harness.check_stopped()


@asynccontextmanager
async def _supervised(
    loaded: LoadedPlugin, settings: PluginSettings, state: Mapping[str, Any]
) -> AsyncGenerator[Harness]:
    """The plugin as the daemon's host would have it; leaving ends it in order, also when cancelled."""
    store, workers, may_dispatch = MemoryStore(), RecordedWorkers(), trio.Event()
    may_dispatch.set()
    registry = Registry({EMBEDDED_RUNTIME_ID: cast("Runtime", workers)})
    async with open_event_log(ObserveSettings(), store) as event_log:
        host = HostServices(
            event_log=event_log,
            workers_for=partial(GrantedWorkers, registry),
            clock=trio.lowlevel.current_clock().current_time,
            age_s=store.age_s,
            wall_clock=time.time,
            uniform=random.uniform,
            load=_load_no_other,
            forget=lambda _: None,  # there is no other version
            run_timers=_run_no_timers,
            boots=NotJournaled(),
            may_dispatch=may_dispatch,
        )
        admission = Admission(
            event_log, IdSource(time.time), clock=trio.current_time, wall_clock=time.time
        )
        service = Service(loaded.manifest.name, settings, host)
        for key, value in state.items():
            service.state.set(key, value)
        service.installation.adopt(loaded)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_watchdog, lambda: (service,))
            nursery.start_soon(service.supervisor.run)
            await service.settled()
            await event_log.committed(event_log.appended)
            try:
                yield Harness(service, admission, event_log, workers)
            finally:
                deadline = trio.current_time() + 2 * STOP_BUDGET_S
                with trio.CancelScope(shield=True, deadline=deadline):
                    await service.end(STOP_BUDGET_S)
                nursery.cancel_scope.cancel()


def _load_no_other(plugin_id: str, settings: PluginSettings) -> LoadedPlugin:
    raise AssertionError(f"{plugin_id} was loaded already")


async def _run_no_timers(plugin_id: str, loaded: LoadedPlugin) -> None:
    """Timers fire by `Harness.tick`."""


def _found(path: Path) -> Found:
    path = path.resolve()
    return Found(path.name, path / INIT) if path.is_dir() else Found(path.stem, path)


def _load(loader: Loader, found: Found, settings: PluginSettings) -> LoadedPlugin:
    return loader.load(loader.read(found), settings.config)


def _directories(root: Path, secrets: Mapping[str, str]) -> Directories:
    """Directories that hold nothing but the secrets."""
    directories = Directories(root / "config", root / "state", root / "secrets")
    directories.secrets.mkdir(mode=stat.S_IRWXU)
    for name, value in secrets.items():
        file = directories.secrets / name
        file.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        file.write_text(value)
    return directories


def run(story: Callable[[], Awaitable[T]]) -> T:
    """Runs a test on a clock that `Harness.retry` can move on; between its jumps time is real."""
    return trio.run(story, clock=MockClock(rate=1.0))
