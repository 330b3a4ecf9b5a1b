"""The daemon's handle: everything the listeners answer from."""

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio
from prometheus_client import CollectorRegistry

from yoi_daemon.daemon.boot_journal import BootJournal
from yoi_daemon.daemon.certificates import Certificates, load_certificates
from yoi_daemon.daemon.logs import set_log_level
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.daemon.statedir import write_daemon_file
from yoi_daemon.daemon.status import (
    DaemonStatus,
    LogStatus,
    ObserveStatus,
    Reloaded,
    StoreStatus,
)
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.blocking import Blocked, LoopFigures
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import (
    ConfigFault,
    ConfigurationError,
    NotAllowed,
    Refused,
    StorageFailed,
    YoiError,
)
from yoi_daemon.model.events import (
    DaemonDraining,
    DaemonReady,
    DaemonReloaded,
    DaemonReloadRefused,
    DaemonSafeMode,
    Data,
    Draft,
    LoopBlocked,
    format_time,
)
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.public_text import public_text
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
        kept_keys: Sequence[IdempotencyKeyRow],
        event_log: EventLog,
        registry: ConfiguredRegistry,
        plugins: PluginHost,
        embedded: EmbeddedRuntime,
        environ: Mapping[str, str],
        trust: Trust,
        boots: BootJournal | None,
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
        self._boots = boots
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

    def note_safe_mode(self) -> None:
        """Says, where it is so, that no plugin was loaded."""
        if (reason := self.plugins.safe_mode) is not None:
            structlog.get_logger("daemon").error("safe mode", reason=reason, what_to_do=OUT_OF_SAFE)
            self.append("daemon.safe_mode", DaemonSafeMode(active=True, reason=reason))

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
        if self.plugins.safe_mode is not None:
            codes.append("safe_mode")
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
        boots: list[Diagnostic] = []
        if (reason := self.plugins.safe_mode) is not None:
            message = f"safe mode: {reason}; {OUT_OF_SAFE}"
            boots.append(Diagnostic(code="safe_mode", severity="error", message=message))
        if self._boots is not None and self._boots.trouble is not None:
            message = f"{self._boots.trouble}; see to the state directory, then restart"
            boots.append(Diagnostic(code="boot_journal", severity="warning", message=message))
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
        return (*boots, *bad_files, *refused, *writable)

    def _name_of(self, path: Path) -> str:
        # Answers tell no place of this machine: of what lies elsewhere not even the name.
        if path.is_relative_to(self.directories.config):
            return f"configuration/{path.relative_to(self.directories.config)}".removesuffix("/.")
        return "a directory or file on the way"

    async def reload(self, only: str | None = None) -> Reloaded:
        """Reads plugins again, all or `only` one, and takes what changed; with all of them the runtimes, the
        tokens and the certificates too.

        Raises `Refused` (`invalid_state`) with every fault: then everything goes on as before, and an
        event says so. Sections that are read at start alone are named in `needs_restart`.
        """
        async with self._reloading:
            return await self._reload(only)

    async def _reload(self, only: str | None) -> Reloaded:
        was_safe = self.plugins.safe_mode is not None
        if only is None:
            self.trust.group_writable.clear()  # all of it is looked at again
        try:
            async with AsyncExitStack() as stack:
                settings = await trio.to_thread.run_sync(
                    read_settings, self.directories, self.environ, self.trust
                )
                take_the_rest = (
                    (lambda: ()) if only is not None else await self._read_the_rest(settings, stack)
                )
                changed = await self.plugins.reload(settings, only)
                # No checkpoint from here to the end: all of it or nothing.
                runtimes = take_the_rest()
        except (ConfigurationError, StorageFailed, NotAllowed) as error:
            faults = self._faults_of(error)
            self._refuse_reload(faults, only)
            raise Refused(
                "invalid_state", "the configuration cannot be taken as it is", faults=faults
            ) from error
        except Refused as refused:
            self._refuse_reload(refused.fields.get("faults", [refused.detail]), only)
            raise
        if only is None and self.certificates:
            self._write_daemon_file()
        if self._refused is not None and only in (None, self._refused[0]):
            self._refused = None
        daemon = msgspec.structs.replace(self.settings.daemon, log_level=settings.daemon.log_level)
        taken = msgspec.structs.replace(
            self.settings,
            plugins=settings.plugins,
            plugin_host=settings.plugin_host,
            runtimes=settings.runtimes,  # the registry knows itself which of them it has
            daemon=daemon,
        )
        needs_restart = tuple(
            name
            for name in settings.__struct_fields__
            if getattr(settings, name) != getattr(taken, name)
        )
        set_log_level(taken.daemon.log_level)
        self.settings = taken
        if was_safe and self.plugins.safe_mode is None:
            self.append("daemon.safe_mode", DaemonSafeMode(active=False))
        seq = self.append("daemon.reloaded", DaemonReloaded(plugins=changed, runtimes=runtimes))
        await self.event_log.committed(seq)
        return Reloaded(
            plugins=changed,
            runtimes=runtimes,
            needs_restart=needs_restart,
            cursor=self.event_log.cursors.encode(seq),
        )

    async def _read_the_rest(
        self, settings: Settings, stack: AsyncExitStack
    ) -> Callable[[], tuple[str, ...]]:
        """Reads all that is no plugin and changes nothing; what it gives takes it, and names the runtimes.

        Until the stack ends nobody else changes the tokens. Raises `ConfigurationError`, `StorageFailed`
        and `NotAllowed`.
        """
        certificates = await trio.to_thread.run_sync(
            load_certificates, self.certificates, self.directories
        )
        take_tokens = await stack.enter_async_context(self.tokens.reading_again())
        runtimes = await self.registry.prepare(settings.runtimes)

        def take() -> tuple[str, ...]:
            for name, loaded in certificates.items():
                self.certificates[name].use(loaded)
            take_tokens()
            return self.registry.take(runtimes)

        return take

    def _faults_of(self, error: YoiError) -> list[str]:
        """What is wrong, without the place of anything on this machine."""
        if isinstance(error, ConfigurationError):
            return [_public(fault) for fault in error.faults]
        return [public_text(str(error).replace(f"{self.directories.state}/", ""))]

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
