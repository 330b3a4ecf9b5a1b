"""The daemon's life in one file: opened, listening, asked to stop, stopped in order within one budget."""

import faulthandler
import gc
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import structlog
import trio

from yoi_daemon.api.app import Application
from yoi_daemon.daemon.boot_journal import BootJournal
from yoi_daemon.daemon.certificates import open_certificates
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.journal import JournalHandler, is_journal
from yoi_daemon.daemon.logs import configure_logs
from yoi_daemon.daemon.opening import open_daemon
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.daemon.statedir import (
    admin_token,
    hold_state_directory,
    remove_daemon_files,
)
from yoi_daemon.daemon.token_file import TokenFile
from yoi_daemon.front.access import names_of
from yoi_daemon.front.binding import Bound, listen_on, refuse_unused
from yoi_daemon.front.descriptors import API_PART, connections, raise_limit
from yoi_daemon.front.http import HttpLimits, serve_http
from yoi_daemon.front.tokens import FailedAttempts, Tokens
from yoi_daemon.model.addresses import TcpAddress, url
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.errors import ConfigFault, ConfigurationError
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.model.settings import Settings
from yoi_daemon.monitoring.loop_watch import open_loop_watch
from yoi_daemon.monitoring.metrics import register_metrics
from yoi_daemon.monitoring.service_manager import ServiceManager, open_service_manager
from yoi_daemon.systemd import Notifier, inherited_sockets, watchdog_interval_s
from yoi_daemon.trusted_files import GROUP_WRITABLE, Trust, trust_for

EXTRA_MODULE = "trio_websocket"
EXTRA_COMMAND = "pip install 'yoi-daemon[observe]'"

LISTENERS_SHARE = 0.25
PLUGINS_SHARE = 0.6
"""Of `stop_timeout_s`: for open connections to end, then for plugins; the rest is for workers and the log."""
LOAD_WAIT_S = 10.0
"""How long the listeners wait for plugins to be imported; a slower one goes on by itself."""
WORKERS_SHARE = 0.5
"""Of what the listeners and plugins left: for the workers' turns to end; the rest is for the log."""
CLOSES_SHARE = 0.6
"""Of the listeners' share: subscribers are told to go over so much of it; the rest is for them to."""
LAST_RESORT_S = 5.0
"""After the whole budget and this, every stack is dumped and the process ends itself."""
COLLECT_EVERY = 10_000
"""New containers between two looks for garbage among them, the interpreter's 700: under load those are
accepted events, which are no garbage, and looking was a twentieth of the processor (`scripts/bench durable`)."""
STDERR = 2
EXIT_AT_ONCE = 130
"""What a second SIGINT ends with: 128 + SIGINT, as shells say it."""


def run(
    directories: Directories,
    environ: Mapping[str, str],
    announce: Callable[[str], None],
    *,
    safe: bool = False,
) -> None:
    """Runs a daemon until SIGTERM or SIGINT; returns after a clean stop. With `safe` it loads no plugin.

    `announce` is called once with the ready line. Raises, before anything listens,
    `ConfigurationError` and `NotAllowed`; and `StorageFailed` when a commit fails, or the tokens do not read.
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
    with hold_state_directory(directories), ExitStack() as sockets:
        tokens = Tokens(
            admin_token(directories),
            keeper=TokenFile(directories.tokens_file),
            failures=FailedAttempts(
                per_s=settings.api.auth_failures_per_s,
                total_per_s=settings.api.all_auth_failures_per_s,
            ),
        )
        certificates = open_certificates(settings, directories)
        bound = Bound(
            api=listen_on(settings.api.listen, "api", directories, sockets, inherited),
            observe=listen_on(settings.observe.listen, "observe", directories, sockets, inherited)
            if wants_observe
            else [],
        )
        refuse_unused(inherited)
        boots = BootJournal(directories.boots_file, limit=settings.daemon.boot_attempts)
        open_it = partial(
            open_daemon,
            directories,
            settings,
            tokens,
            environ,
            certificates=certificates,
            trust=trust,
            redaction=redaction,
            boots=boots,
            safe="it was started with --safe" if safe else None,
        )
        notifier = Notifier(environ)
        open_manager = partial(
            open_service_manager,
            notifier=notifier,
            watchdog_s=watchdog_interval_s(environ, os.getpid()),
        )
        with boots.kept():
            trio.run(
                _serve,
                directories,
                settings,
                tokens,
                boots,
                open_it,
                open_manager,
                notifier,
                bound,
                announce,
            )
        tokens.keep_uses()


async def _serve(
    directories: Directories,
    settings: Settings,
    tokens: Tokens,
    boots: BootJournal,
    open_it: Callable[[], AbstractAsyncContextManager[Daemon]],
    open_manager: Callable[..., AbstractAsyncContextManager[ServiceManager]],
    notifier: Notifier,
    bound: Bound,
    announce: Callable[[str], None],
) -> None:
    stop = trio.Event()
    hang_up, hangups = trio.open_memory_channel[None](1)
    with hang_up, hangups, _signals(stop, hang_up, settings, directories, boots):
        budget_s = settings.daemon.stop_timeout_s
        async with (
            open_it() as daemon,
            open_manager(daemon, hangups=hangups) as manager,
            open_loop_watch(daemon, notifier, manager.tell),
            trio.open_nursery() as tending,
        ):
            register_metrics(daemon)
            tending.start_soon(tokens.tend)
            # Each listener has a nursery of its own, so that each can be ended by itself, by force too.
            async with trio.open_nursery() as api, trio.open_nursery() as observe:
                await _until_loaded(daemon, stop)
                _warn_of_groups(daemon.trust)
                if not stop.is_set():
                    await api.start(_serve_api, daemon, bound, budget_s * LISTENERS_SHARE)
                    if bound.observe:
                        spread_s = budget_s * LISTENERS_SHARE * CLOSES_SHARE
                        await observe.start(_serve_observe, daemon, bound, spread_s)
                    await _announce(daemon, bound, announce)
                    manager.ready()
                    tending.start_soon(boots.watch, daemon.plugins, settings.daemon.boot_healthy_s)
                await stop.wait()
                boots.note_stop()
                deadline = trio.current_time() + budget_s
                structlog.get_logger("daemon").info("stopping", budget_s=budget_s)
                daemon.begin_draining()
                force_at = trio.current_time() + budget_s * LISTENERS_SHARE
                api.cancel_scope.deadline = observe.cancel_scope.deadline = force_at
            with trio.move_on_at(min(deadline, trio.current_time() + budget_s * PLUGINS_SHARE)):
                await daemon.plugins.stop(budget_s=budget_s * PLUGINS_SHARE)
            await daemon.embedded.shutdown(max(0.0, deadline - trio.current_time()) * WORKERS_SHARE)
            await _leave_wedged(daemon, directories)
            tending.cancel_scope.cancel()
    faulthandler.cancel_dump_traceback_later()
    structlog.get_logger("daemon").info("stopped")


def _warn_of_groups(trust: Trust) -> None:
    if trust.group_writable:
        paths = [str(path) for path in sorted(trust.group_writable)]
        structlog.get_logger("daemon").warning(GROUP_WRITABLE, paths=paths)


@contextmanager
def _signals(
    stop: trio.Event,
    hang_up: trio.MemorySendChannel[None],
    settings: Settings,
    directories: Directories,
    boots: BootJournal,
) -> Generator[None]:
    """SIGTERM and SIGINT set `stop`; a second SIGINT ends the process, also while a plugin blocks the loop.

    SIGHUP is passed to `hang_up`; those that come before the last was taken are one with it.
    """
    token = trio.lowlevel.current_trio_token()
    interrupts = 0

    def ask(number: int, _frame: object) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            boots.note_stop()
            _exit_now(EXIT_AT_ONCE, directories)
        last_resort_s = settings.daemon.stop_timeout_s + LAST_RESORT_S
        faulthandler.dump_traceback_later(last_resort_s, exit=True)
        token.run_sync_soon(stop.set, idempotent=True)

    def pass_on() -> None:
        with suppress(trio.WouldBlock, trio.ClosedResourceError):
            hang_up.send_nowait(None)

    def reload(_number: int, _frame: object) -> None:
        token.run_sync_soon(pass_on, idempotent=True)

    handlers = {signal.SIGTERM: ask, signal.SIGINT: ask, signal.SIGHUP: reload}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _until_loaded(daemon: Daemon, stop: trio.Event) -> None:
    """Waits for the imports, so that `ready` means them too; not for ever, and not when asked to stop."""
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
    names = names_of([one.address for one in bound.api], settings.hosts, settings.origins)
    await serve_http(
        Application(daemon, names),
        [one.socket for one in bound.api],
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
    names = names_of([one.address for one in bound.observe], settings.hosts, settings.origins)
    await server.ObserveServer(daemon, names, spread_s=spread_s).serve(
        [one.socket for one in bound.observe], task_status=task_status
    )


async def _announce(daemon: Daemon, bound: Bound, announce: Callable[[str], None]) -> None:
    certificates = daemon.certificates
    api = url(bound.api[0].address, "https" if "api" in certificates else "http")
    observe = None
    if bound.observe:
        observe = url(bound.observe[0].address, "wss" if "observe" in certificates else "ws")
    daemon.observed.enabled = observe is not None
    ports = [one.address.port for one in bound.observe if isinstance(one.address, TcpAddress)]
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
    """Ends the process where a plugin or an engine that was given up still runs: it cannot be awaited."""
    plugins, workers = daemon.plugins.unended(), daemon.embedded.wedged()
    if not plugins and not workers:
        return
    log = daemon.event_log
    with trio.move_on_after(1):
        await log.committed(log.appended)
    structlog.get_logger("daemon").warning(
        "stopped beside what still runs", plugins=list(plugins), workers=list(workers)
    )
    _exit_now(0, directories)


def _exit_now(code: int, directories: Directories) -> None:
    remove_daemon_files(directories)
    for stream in (sys.stdout, sys.stderr):
        # A signal may have come in the middle of a write: flushing again raises, and must not be in the way.
        with suppress(RuntimeError, OSError, ValueError):
            stream.flush()
    os._exit(code)


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
