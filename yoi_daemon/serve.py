"""The daemon's life in one file: open, listen, run until asked to stop, and stop in order within one budget."""

import faulthandler
import gc
import importlib
import importlib.util
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
import trio

from yoi_daemon.api.app import Application
from yoi_daemon.daemon.boot_journal import BootJournal
from yoi_daemon.daemon.certificates import Certificates, open_certificates
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.journal import JournalHandler, is_journal
from yoi_daemon.daemon.logs import configure_logs
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.daemon.signals import Signals, exit_now
from yoi_daemon.daemon.statedir import (
    admin_token,
    hold_state_directory,
)
from yoi_daemon.daemon.token_file import TokenFile
from yoi_daemon.front.access import names_of
from yoi_daemon.front.binding import Bound, listen_on, refuse_unused
from yoi_daemon.front.descriptors import API_PART, connections, raise_limit
from yoi_daemon.front.failed_attempts import FailedAttempts
from yoi_daemon.front.http import HttpLimits, serve_http
from yoi_daemon.front.sockets import ListeningSocket
from yoi_daemon.front.tokens import Tokens
from yoi_daemon.model.addresses import TcpAddress, url
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.model.settings import Settings
from yoi_daemon.monitoring.loop_watch import open_loop_watch
from yoi_daemon.monitoring.metrics import register_metrics
from yoi_daemon.monitoring.service_manager import open_service_manager
from yoi_daemon.systemd import Notifier, inherited_sockets, watchdog_interval_s
from yoi_daemon.trusted_files import GROUP_WRITABLE, Trust, trust_for

EXTRA_MODULE = "trio_websocket"
EXTRA_COMMAND = "pip install 'yoi-daemon[observe]'"

LISTENERS_SHARE = 0.25
PLUGINS_SHARE = 0.6
"""Shares of `stop_timeout_s` for open connections and for plugins; the rest is for workers and the log."""
LOAD_WAIT_S = 10.0
"""Maximum delay before the listeners answer while plugins are imported; a slower import goes on by itself."""
WORKERS_SHARE = 0.5
"""Share of what listeners and plugins left, for the workers' turns to end; the rest is for the log."""
CLOSES_SHARE = 0.6
"""Share of the listeners' time over which subscribers are told to reconnect; the rest is for them to do so."""
COLLECT_EVERY = 10_000
"""New containers between two garbage collections, in place of the interpreter's 700: under load they are
accepted events, which are no garbage, and collecting took a twentieth of the processor (`scripts/bench durable`)."""
STDERR = 2


@dataclass(frozen=True, kw_only=True)
class _Process:
    """Everything that is opened before the event loop runs."""

    directories: Directories
    settings: Settings
    environ: Mapping[str, str]
    trust: Trust
    redaction: Redaction
    boots: BootJournal
    tokens: Tokens
    certificates: Certificates
    bound: Bound
    safe: str | None


def run(
    directories: Directories,
    environ: Mapping[str, str],
    announce: Callable[[str], None],
    *,
    safe: bool = False,
) -> None:
    """Runs a daemon until SIGTERM or SIGINT; returns after a clean stop. With `safe` it loads no plugin.

    Calls `announce` once, with the ready line. Raises `ConfigurationError` and `NotAllowed` before anything
    listens, and `StorageFailed` when a commit fails or the tokens cannot be read.
    """
    gc.set_threshold(COLLECT_EVERY, *gc.get_threshold()[1:])
    # Before anything is opened: they come without close-on-exec.
    inherited = inherited_sockets(environ, os.getpid())
    trust, redaction = trust_for(directories), Redaction()
    settings = read_settings(directories, environ, trust)
    journal = JournalHandler(STDERR) if is_journal(environ, STDERR) else None
    configure_logs(settings.daemon.log_level, redaction, journal=journal)
    wants_observe = _wants_observe(settings, directories)
    raise_limit()
    boots = BootJournal(directories.boots_file, limit=settings.daemon.boot_attempts)
    signals = Signals(settings, directories, boots)
    with signals.handled(), hold_state_directory(directories), ExitStack() as sockets:
        process = _Process(
            directories=directories,
            settings=settings,
            environ=environ,
            trust=trust,
            redaction=redaction,
            boots=boots,
            tokens=_open_tokens(settings, directories),
            certificates=open_certificates(settings, directories),
            bound=_bind(settings, directories, sockets, inherited, wants_observe=wants_observe),
            safe="it was started with --safe" if safe else None,
        )
        with boots.kept():
            trio.run(_serve, process, signals, announce)
        process.tokens.keep_uses()


async def _serve(process: _Process, signals: Signals, announce: Callable[[str], None]) -> None:
    signals.enter_loop()
    budget_s = process.settings.daemon.stop_timeout_s
    notifier = Notifier(process.environ)
    watchdog_s = watchdog_interval_s(process.environ, os.getpid())
    async with (
        open_daemon(
            process.directories,
            process.settings,
            process.tokens,
            process.environ,
            certificates=process.certificates,
            trust=process.trust,
            redaction=process.redaction,
            boots=process.boots,
            safe=process.safe,
        ) as daemon,
        open_service_manager(daemon, notifier, watchdog_s, signals.hangups) as manager,
        open_loop_watch(daemon, notifier, manager.update),
        trio.open_nursery() as tending,
    ):
        register_metrics(daemon)
        tending.start_soon(process.tokens.tend)
        # Each listener has a nursery of its own, so that each can be ended by itself, by force too.
        async with trio.open_nursery() as api, trio.open_nursery() as observe:
            await _until_loaded(daemon, signals.stop)
            _warn_of_groups(daemon.trust)
            if not signals.stop.is_set():
                bound = process.bound
                await api.start(_serve_api, daemon, bound, budget_s * LISTENERS_SHARE)
                if bound.observe:
                    spread_s = budget_s * LISTENERS_SHARE * CLOSES_SHARE
                    await observe.start(_serve_observe, daemon, bound, spread_s)
                await _announce(daemon, bound, announce)
                manager.ready()
                healthy_s = process.settings.daemon.boot_healthy_s
                tending.start_soon(process.boots.watch, daemon.plugins, healthy_s)
            await signals.stop.wait()
            process.boots.note_stop()
            deadline = trio.current_time() + budget_s
            structlog.get_logger("daemon").info("stopping", budget_s=budget_s)
            daemon.begin_draining()
            force_at = trio.current_time() + budget_s * LISTENERS_SHARE
            api.cancel_scope.deadline = observe.cancel_scope.deadline = force_at
        await _stop(daemon, process.directories, budget_s, deadline)
        tending.cancel_scope.cancel()
    faulthandler.cancel_dump_traceback_later()
    structlog.get_logger("daemon").info("stopped")


async def _stop(daemon: Daemon, directories: Directories, budget_s: float, deadline: float) -> None:
    """Stops plugins, then workers. The listeners have ended."""
    with trio.move_on_at(min(deadline, trio.current_time() + budget_s * PLUGINS_SHARE)):
        await daemon.plugins.shutdown(budget_s=budget_s * PLUGINS_SHARE)
    await daemon.embedded.shutdown(max(0.0, deadline - trio.current_time()) * WORKERS_SHARE)
    await _leave_wedged(daemon, directories)


def _open_tokens(settings: Settings, directories: Directories) -> Tokens:
    return Tokens(
        admin_token(directories),
        keeper=TokenFile(directories.tokens_file),
        failures=FailedAttempts(
            per_s=settings.api.auth_failures_per_s, total_per_s=settings.api.all_auth_failures_per_s
        ),
    )


def _bind(
    settings: Settings,
    directories: Directories,
    sockets: ExitStack,
    inherited: list[socket.socket],
    *,
    wants_observe: bool,
) -> Bound:
    api = listen_on(settings.api.listen, "api", directories, sockets, inherited)
    observe: list[ListeningSocket] = []
    if wants_observe:
        observe = listen_on(settings.observe.listen, "observe", directories, sockets, inherited)
    refuse_unused(inherited)
    return Bound(api=api, observe=observe)


def _warn_of_groups(trust: Trust) -> None:
    if trust.group_writable:
        paths = [str(path) for path in sorted(trust.group_writable)]
        structlog.get_logger("daemon").warning(GROUP_WRITABLE, paths=paths)


async def _until_loaded(daemon: Daemon, stop: trio.Event) -> None:
    """Waits until every plugin is imported, `LOAD_WAIT_S` at most, and not when asked to stop."""
    async with trio.open_nursery() as nursery:

        async def end_when_stopped() -> None:
            await stop.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(end_when_stopped)
        with trio.move_on_after(LOAD_WAIT_S):
            await daemon.plugins.wait_loaded()
        nursery.cancel_scope.cancel()


async def _serve_api(
    daemon: Daemon,
    bound: Bound,
    graceful_s: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    settings = daemon.settings.api
    names = names_of(
        [listening.address for listening in bound.api], settings.hosts, settings.origins
    )
    await serve_http(
        Application(daemon, names),
        [listening.socket for listening in bound.api],
        draining=daemon.draining,
        graceful_s=graceful_s,
        limits=HttpLimits(
            connections=connections(API_PART, settings.max_connections),
            # Before a proxy, every address is the proxy's.
            connections_by_address=None
            if settings.behind_proxy
            else settings.max_address_connections,
        ),
        certificate=daemon.certificates.get("api"),
        new_request_id=partial(daemon.ids.new, "req"),
        task_status=task_status,
    )


async def _serve_observe(
    daemon: Daemon,
    bound: Bound,
    spread_s: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    # Imported only here: without the extra nothing of it may be.
    server = importlib.import_module("yoi_daemon.observe.server")
    settings = daemon.settings.observe
    names = names_of(
        [listening.address for listening in bound.observe], settings.hosts, settings.origins
    )
    await server.ObserveServer(daemon, names, spread_s=spread_s).serve(
        [listening.socket for listening in bound.observe], task_status=task_status
    )


async def _announce(daemon: Daemon, bound: Bound, announce: Callable[[str], None]) -> None:
    certificates = daemon.certificates
    api = url(bound.api[0].address, "https" if "api" in certificates else "http")
    observe = None
    if bound.observe:
        observe = url(bound.observe[0].address, "wss" if "observe" in certificates else "ws")
    daemon.observed.enabled = observe is not None
    addresses = [listening.address for listening in bound.observe]
    ports = [address.port for address in addresses if isinstance(address, TcpAddress)]
    daemon.observed.port = next(iter(ports), None)
    content: dict[str, Any] = {
        "pid": os.getpid(),
        "api": api,
        "observe": observe,
        "epoch": daemon.event_log.cursors.epoch,
        "version": daemon.version,
    }
    pems = [certificate.pem for certificate in certificates.values()]
    daemon.daemon_file.write(content, pems)
    await daemon.note_ready()
    announce(f"ready api={api} observe={observe or 'off'}")


async def _leave_wedged(daemon: Daemon, directories: Directories) -> None:
    """Ends the process where a plugin or an engine that was given up still runs: it would not end otherwise."""
    plugins, workers = daemon.plugins.unended(), daemon.embedded.wedged()
    if not plugins and not workers:
        return
    log = daemon.event_log
    with trio.move_on_after(1):
        await log.committed(log.appended)
    structlog.get_logger("daemon").warning(
        "stopped beside what still runs", plugins=list(plugins), workers=list(workers)
    )
    exit_now(0, directories)


def _wants_observe(settings: Settings, directories: Directories) -> bool:
    enabled = settings.observe.enabled
    is_there = importlib.util.find_spec(EXTRA_MODULE) is not None
    if enabled is True and not is_there:
        raise ConfigurationError(
            [
                ConfigFault(
                    file=str(directories.config_file),
                    key="observe.enabled",
                    expected=f"the stream needs an extra that is not installed: {EXTRA_COMMAND}",
                )
            ]
        )
    return is_there if enabled == "auto" else enabled
