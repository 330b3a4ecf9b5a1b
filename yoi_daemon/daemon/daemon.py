"""The daemon's handle: everything the listeners answer from."""

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio
from prometheus_client import CollectorRegistry

from yoi_daemon.daemon.certificates import Certificates, load_certificates
from yoi_daemon.daemon.logs import set_log_level
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.daemon.statedir import write_daemon_file
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.blocking import Blocked, Blocks, LoopFigures
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigFault, ConfigurationError, Refused
from yoi_daemon.model.events import (
    DaemonDraining,
    DaemonReady,
    DaemonReloaded,
    DaemonReloadRefused,
    Data,
    Draft,
    LoopBlocked,
    format_time,
)
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.plugins import PluginRecord
from yoi_daemon.model.public_text import public_text
from yoi_daemon.model.settings import Settings
from yoi_daemon.model.workers import Diagnostic, RuntimeSummary
from yoi_daemon.plugins.host import PluginHost
from yoi_daemon.registry.registry import Registry
from yoi_daemon.runtime.embedded import EmbeddedRuntime
from yoi_daemon.store.interface import Store
from yoi_daemon.store.tables import IdempotencyKey
from yoi_daemon.trusted_files import GROUP_WRITABLE, Trust

NOT_DURABLE = "kept in memory: accepted events, the log and workers are lost when the process ends"


LOW = "the disk is nearly full: nothing more is accepted until there is space; what was accepted goes on"


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are kept, and in words what that does not promise."""

    kind: str
    durable: bool
    note: str
    low: bool
    bytes: int
    free_bytes: int
    commits: int
    commit_p50_ms: float
    commit_p99_ms: float


class LogStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The event log's window, as cursors and sizes."""

    epoch: str
    floor: str
    head: str
    head_seq: int
    events: int
    bytes: int
    pending: int


class ObserveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The stream's listener, its TCP port if it has one; `slow_consumers` were cut since the start."""

    enabled: bool
    port: int | None
    subscribers: int
    slow_consumers: int


class DaemonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Is it well, and if not, who?"""

    version: str
    pid: int
    ready: bool
    not_ready: tuple[str, ...]
    uptime_s: float
    store: StoreStatus
    log: LogStatus
    observe: ObserveStatus
    loop: Blocks
    plugins: tuple[PluginRecord, ...]
    runtimes: tuple[RuntimeSummary, ...]
    diagnostics: tuple[Diagnostic, ...]


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload took, and the sections whose change waits for a restart of the daemon."""

    plugins: tuple[str, ...]
    needs_restart: tuple[str, ...]
    cursor: str


class Observed:
    """What the stream's listener tells about itself."""

    def __init__(self) -> None:
        self.enabled = False
        self.port: int | None = None
        self.subscribers = 0
        self.slow_consumers = 0
        self.lag_events: Callable[[], int] = int
        """How far behind the last of them is; 0 without the listener."""


class Daemon:
    """One daemon. `draining` is set when it begins to stop; every long-lived answer watches it."""

    def __init__(
        self,
        *,
        directories: Directories,
        settings: Settings,
        tokens: Tokens,
        certificates: Certificates,
        ids: IdSource,
        store: Store,
        kept_keys: Sequence[IdempotencyKey],
        event_log: EventLog,
        registry: Registry,
        plugins: PluginHost,
        embedded: EmbeddedRuntime,
        environ: Mapping[str, str],
        trust: Trust,
        wall_clock: Callable[[], float],
    ) -> None:
        self.directories = directories
        self.settings = settings
        self.tokens = tokens
        self.certificates = certificates
        self.ids = ids
        self.store = store
        self.kept_keys = kept_keys
        """The API's keys of earlier runs, oldest first."""
        self.event_log = event_log
        self.registry = registry
        self.plugins = plugins
        self.embedded = embedded
        self.environ = environ
        self.trust = trust
        self.wall_clock = wall_clock
        self.draining = trio.Event()
        self.observed = Observed()
        self.loop = LoopFigures()
        self.metrics = CollectorRegistry()
        self._started_s = trio.current_time()
        self._serves = False
        self._daemon_file: dict[str, Any] = {}
        self._reloading = trio.Lock()
        self._refused: tuple[str | None, Diagnostic] | None = None

    @property
    def version(self) -> str:
        return version()

    @property
    def reload_refused(self) -> Diagnostic | None:
        """Why the last reload was refused; None once what it covered was taken."""
        return None if self._refused is None else self._refused[1]

    @property
    def uptime_s(self) -> float:
        """Since it was opened."""
        return trio.current_time() - self._started_s

    def tell_where(self, daemon_file: dict[str, Any]) -> None:
        """Writes `daemon.json`, by which clients on this machine find it. Raises `NotAllowed`."""
        self._daemon_file = daemon_file
        self._write_daemon_file()

    async def note_ready(self) -> None:
        """The listeners answer; returns when that is committed: a daemon that cannot commit is not ready."""
        self._serves = True
        seq = self.append("daemon.ready", DaemonReady(version=self.version))
        await self.event_log.committed(seq)

    def _write_daemon_file(self) -> None:
        # A client on this machine trusts these alone: their names are of no use to it.
        certificates = "".join({one.pem: None for one in self.certificates.values()})
        write_daemon_file(self.directories, {**self._daemon_file, "certificates": certificates})

    def begin_draining(self) -> None:
        """Readiness goes off; everything long-lived is asked to end."""
        queued = sum(record.queue_depth for record in self.plugins.records())
        self.append("daemon.draining", DaemonDraining(queued=queued))
        self.draining.set()

    def not_ready(self) -> tuple[str, ...]:
        """Codes of what keeps the daemon from being ready; empty when it is."""
        codes: list[str] = []
        if not self._serves:
            codes.append("starting")
        if self.draining.is_set():
            codes.append("draining")
        codes.extend(f"plugin_failed:{name}" for name in self.plugins.unhealthy())
        return tuple(codes)

    def status(self) -> DaemonStatus:
        """The whole, on one page."""
        log = self.event_log
        window = log.window()
        codes = self.not_ready()
        return DaemonStatus(
            version=self.version,
            pid=os.getpid(),
            ready=not codes,
            not_ready=codes,
            uptime_s=round(self.uptime_s, 1),
            store=self._store_status(),
            log=LogStatus(
                epoch=log.cursors.epoch,
                floor=log.cursors.encode(window.floor),
                head=log.cursors.encode(window.head),
                head_seq=window.head,
                events=window.events,
                bytes=window.bytes,
                pending=log.statistics().pending,
            ),
            observe=ObserveStatus(
                enabled=self.observed.enabled,
                port=self.observed.port,
                subscribers=self.observed.subscribers,
                slow_consumers=self.observed.slow_consumers,
            ),
            loop=self.loop.blocks(trio.current_time()),
            plugins=self.plugins.records(),
            runtimes=self.registry.summaries(),
            diagnostics=self._diagnostics(),
        )

    def _store_status(self) -> StoreStatus:
        store, statistics = self.store, self.store.statistics()
        note = LOW if statistics.low else "" if store.durable else NOT_DURABLE
        return StoreStatus(
            kind=store.kind,
            durable=store.durable,
            note=note,
            low=statistics.low,
            bytes=statistics.bytes,
            free_bytes=statistics.free_bytes,
            commits=statistics.commits,
            commit_p50_ms=statistics.commit_p50_ms,
            commit_p99_ms=statistics.commit_p99_ms,
        )

    def _diagnostics(self) -> tuple[Diagnostic, ...]:
        bad_files = [
            Diagnostic(
                code="bad_plugin_file",
                severity="warning",
                message=f"plugins/{fault.file.rpartition('/')[2]}: {fault.expected}",
            )
            for fault in self.plugins.faults
        ]
        # For information: it is as many a user's umask has it, and nothing is ill by it.
        writable = [
            Diagnostic(
                code="group_writable",
                severity="info",
                message=f"{self._name_of(path)}: {GROUP_WRITABLE}",
            )
            for path in sorted(self.trust.group_writable)
        ]
        refused = [] if self.reload_refused is None else [self.reload_refused]
        return (*bad_files, *refused, *writable)

    def _name_of(self, path: Path) -> str:
        # Answers tell no place of this machine: of what lies elsewhere not even the name.
        if path.is_relative_to(self.directories.config):
            return f"configuration/{path.relative_to(self.directories.config)}".removesuffix("/.")
        return "a directory or file on the way"

    async def reload(self, only: str | None = None) -> Reloaded:
        """Reads the configuration and the plugins again, all or `only` one, and takes what changed.

        Raises `Refused` (`invalid_state`) with every fault: then everything goes on as before, and an
        event says so. Sections that are read at start alone are named in `needs_restart`.
        """
        async with self._reloading:
            return await self._reload(only)

    async def _reload(self, only: str | None) -> Reloaded:
        if only is None:
            self.trust.group_writable.clear()  # all of it is looked at again
        try:
            settings = await trio.to_thread.run_sync(
                read_settings, self.directories, self.environ, self.trust
            )
            reloaded: Certificates = {} if only is not None else self.certificates
            certificates = await trio.to_thread.run_sync(
                load_certificates, reloaded, self.directories
            )
            changed = await self.plugins.reload(settings, only)
        except ConfigurationError as error:
            faults = [_public(fault) for fault in error.faults]
            self._refuse_reload(faults, only)
            raise Refused(
                "invalid_state", "the configuration cannot be taken as it is", faults=faults
            ) from error
        except Refused as refused:
            self._refuse_reload(refused.fields.get("faults", [refused.detail]), only)
            raise
        for name, loaded in certificates.items():
            self.certificates[name].use(loaded)
        if certificates:
            self._write_daemon_file()
        if self._refused is not None and only in (None, self._refused[0]):
            self._refused = None
        daemon = msgspec.structs.replace(self.settings.daemon, log_level=settings.daemon.log_level)
        taken = msgspec.structs.replace(
            self.settings,
            plugins=settings.plugins,
            plugin_host=settings.plugin_host,
            daemon=daemon,
        )
        needs_restart = tuple(
            name
            for name in settings.__struct_fields__
            if getattr(settings, name) != getattr(taken, name)
        )
        set_log_level(taken.daemon.log_level)
        self.settings = taken
        seq = self.append("daemon.reloaded", DaemonReloaded(plugins=changed))
        await self.event_log.committed(seq)
        return Reloaded(
            plugins=changed,
            needs_restart=needs_restart,
            cursor=self.event_log.cursors.encode(seq),
        )

    def _refuse_reload(self, faults: Sequence[str], only: str | None) -> None:
        diagnostic = Diagnostic(
            code="reload_refused",
            severity="warning",
            message="the last reload was refused, and all goes on as before: " + "; ".join(faults),
            since=format_time(self.wall_clock()),
        )
        self._refused = (only, diagnostic)
        self.append("daemon.reload_refused", DaemonReloadRefused(faults=tuple(faults)))

    def note_blocked(self, blocked: Blocked) -> None:
        """The event loop stood still, and turns again."""
        self.loop.note(blocked, trio.current_time())
        self.append(
            "daemon.loop_blocked",
            LoopBlocked(where=blocked.where, blocked_s=blocked.blocked_s),
            blocked.plugin_id,
        )

    def append(self, kind: str, data: Data, plugin_id: str | None = None) -> int:
        """Appends one of the daemon's own events; `plugin_id` is whose doing it was, if a plugin's."""
        return self.event_log.append(Draft(kind=kind, data=data, plugin_id=plugin_id))


def version() -> str:
    """The installed version of this package."""
    return importlib.metadata.version("yoi-daemon")


def _public(fault: ConfigFault) -> str:
    # Answers and events tell no place of this machine; the file's own name is known to everyone.
    named = msgspec.structs.replace(fault, file=Path(fault.file).name)
    return public_text(str(named))
