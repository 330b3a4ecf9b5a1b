"""Public shapes of the daemon as a whole."""

import msgspec

from yoi_daemon.model.blocking import Blocks
from yoi_daemon.model.plugins import PluginRecord
from yoi_daemon.model.workers import Diagnostic, RuntimeSummary


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The store. `note` says in words what it does not promise."""

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
    """The daemon's health."""

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
    """The plugins and runtimes that a reload changed, and the sections that need a restart."""

    plugins: tuple[str, ...]
    runtimes: tuple[str, ...]
    needs_restart: tuple[str, ...]
    cursor: str
