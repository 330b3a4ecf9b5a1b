"""The daemon's handle: everything the listeners answer from."""

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog
import trio
from prometheus_client import CollectorRegistry

from yoi_daemon.daemon.boot_journal import BootJournal
from yoi_daemon.daemon.certificates import Certificates
from yoi_daemon.daemon.daemon_file import DaemonFile
from yoi_daemon.daemon.status import (
    DaemonStatus,
    LogStatus,
    ObserveStatus,
    StoreStatus,
)
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.blocking import Blocked, LoopFigures
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.events import (
    DaemonDraining,
    DaemonReady,
    DaemonSafeMode,
    Data,
    Draft,
    LoopBlocked,
)
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import Settings
from yoi_daemon.model.workers import Diagnostic
from yoi_daemon.plugins.host import PluginHost
from yoi_daemon.registry.opening import ConfiguredRegistry
from yoi_daemon.runtime.embedded import EmbeddedRuntime
from yoi_daemon.store.interface import Store
from yoi_daemon.store.tables import IdempotencyKeyRow
from yoi_daemon.trusted_files import GROUP_WRITABLE, Trust

NOT_DURABLE = "kept in memory: accepted events, the log and workers are lost when the process ends"
LOW = "the disk is nearly full: nothing more is accepted until there is space; what was accepted goes on"

OUT_OF_SAFE = (
    "no plugin was loaded, and what they had accepted waits; 'yoi-daemon plugin start NAME' tries one, "
    "'yoi-daemon reload' all of them"
)


class Observed:
    """Figures of the stream's listener, which sets them."""

    def __init__(self) -> None:
        self.enabled = False
        self.port: int | None = None
        self.subscribers = 0
        self.slow_consumers = 0
        self.lag_events: Callable[[], int] = int
        """Returns the lag of the slowest subscriber, in events; 0 without the listener."""


class RefusedReload(msgspec.Struct, frozen=True):
    """The last reload, where it was refused; `only` is the plugin it was of, None for everything."""

    only: str | None
    diagnostic: Diagnostic


@dataclass(kw_only=True, eq=False)
class Daemon:
    """One daemon. `draining` is set when it begins to stop; every long-lived answer watches it."""

    directories: Directories
    settings: Settings
    """The settings in use; a reload replaces them."""
    environ: Mapping[str, str]
    trust: Trust
    tokens: Tokens
    certificates: Certificates
    ids: IdSource
    store: Store
    kept_keys: Sequence[IdempotencyKeyRow]
    """The API's keys of earlier runs, oldest first."""
    event_log: EventLog
    registry: ConfiguredRegistry
    plugins: PluginHost
    embedded: EmbeddedRuntime
    boots: BootJournal | None
    wall_clock: Callable[[], float]
    daemon_file: DaemonFile
    serving: trio.Event = field(default_factory=trio.Event)
    """Set once the listeners answer."""
    draining: trio.Event = field(default_factory=trio.Event)
    reloading: trio.Lock = field(default_factory=trio.Lock)
    """Held by the one reload that may be under way."""
    refused_reload: RefusedReload | None = None
    """Why the last reload was refused; None once what it covered was taken."""
    observed: Observed = field(default_factory=Observed)
    loop: LoopFigures = field(default_factory=LoopFigures)
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    started_s: float = field(default_factory=trio.current_time)

    @property
    def version(self) -> str:
        return version()

    @property
    def uptime_s(self) -> float:
        """Seconds since it was opened."""
        return trio.current_time() - self.started_s

    async def note_ready(self) -> None:
        """Records that the listeners answer. Returns when that is committed: a daemon that cannot commit is not ready."""
        self.serving.set()
        seq = self.append("daemon.ready", DaemonReady(version=self.version))
        await self.event_log.committed(seq)

    def note_safe_mode(self) -> None:
        """Records and logs safe mode, where it is on."""
        if (reason := self.plugins.safe_mode) is not None:
            structlog.get_logger("daemon").error("safe mode", reason=reason, what_to_do=OUT_OF_SAFE)
            self.append("daemon.safe_mode", DaemonSafeMode(active=True, reason=reason))

    def begin_draining(self) -> None:
        """Ends readiness, and asks everything long-lived to end."""
        queued = sum(record.queue_depth for record in self.plugins.records())
        self.append("daemon.draining", DaemonDraining(queued=queued))
        self.draining.set()

    def not_ready(self) -> tuple[str, ...]:
        """Returns the codes of what keeps the daemon from being ready; none when it is."""
        codes: list[str] = []
        if not self.serving.is_set():
            codes.append("starting")
        if self.draining.is_set():
            codes.append("draining")
        if self.plugins.safe_mode is not None:
            codes.append("safe_mode")
        codes.extend(f"plugin_failed:{name}" for name in self.plugins.unhealthy())
        return tuple(codes)

    def status(self) -> DaemonStatus:
        """Returns the state of every part."""
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
        boots: list[Diagnostic] = []
        if (reason := self.plugins.safe_mode) is not None:
            message = f"safe mode: {reason}; {OUT_OF_SAFE}"
            boots.append(Diagnostic(code="safe_mode", severity="error", message=message))
        if self.boots is not None and self.boots.trouble is not None:
            message = f"{self.boots.trouble}; see to the state directory, then restart"
            boots.append(Diagnostic(code="boot_journal", severity="warning", message=message))
        bad_files = [
            Diagnostic(
                code="bad_plugin_file",
                severity="warning",
                message=f"plugins/{fault.file.rpartition('/')[2]}: {fault.expected}",
            )
            for fault in self.plugins.faults
        ]
        # For information: many a umask makes files so, and nothing is wrong with the daemon.
        writable = [
            Diagnostic(
                code="group_writable",
                severity="info",
                message=f"{self._name_of(path)}: {GROUP_WRITABLE}",
            )
            for path in sorted(self.trust.group_writable)
        ]
        refused = [] if self.refused_reload is None else [self.refused_reload.diagnostic]
        return (*boots, *bad_files, *refused, *writable)

    def _name_of(self, path: Path) -> str:
        # Answers hold no path of this machine, and of files elsewhere not even the name.
        if path.is_relative_to(self.directories.config):
            return f"configuration/{path.relative_to(self.directories.config)}".removesuffix("/.")
        return "a directory or file on the way"

    def note_blocked(self, blocked: Blocked) -> None:
        """Records that the event loop was blocked, and runs again."""
        self.loop.note(blocked, trio.current_time())
        self.append(
            "daemon.loop_blocked",
            LoopBlocked(where=blocked.where, blocked_s=blocked.blocked_s),
            blocked.plugin_id,
        )

    def append(self, kind: str, data: Data, plugin_id: str | None = None) -> int:
        """Appends an event of the daemon's own. Returns its number; `plugin_id` is the plugin that caused it."""
        return self.event_log.append(Draft(kind=kind, data=data, plugin_id=plugin_id))


def version() -> str:
    """Returns the installed version of this package."""
    return importlib.metadata.version("yoi-daemon")
