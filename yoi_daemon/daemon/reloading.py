"""Reloads the running daemon: prepares all that can fail, takes it in one stretch, announces it."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import structlog
import trio

import yoi_daemon
from yoi_daemon.daemon.certificates import ListenerName, load_certificates
from yoi_daemon.daemon.daemon import Daemon, RefusedReload
from yoi_daemon.daemon.logs import set_log_level
from yoi_daemon.daemon.settings_file import read_settings
from yoi_daemon.daemon.status import Reloaded
from yoi_daemon.front.tls import Loaded
from yoi_daemon.model.errors import (
    ConfigFault,
    ConfigurationError,
    NotAllowed,
    Refused,
    StorageFailed,
    YoiError,
)
from yoi_daemon.model.events import DaemonReloaded, DaemonReloadRefused, DaemonSafeMode, format_time
from yoi_daemon.model.public_text import public_text
from yoi_daemon.model.settings import Settings, needs_restart, settings_after_reload
from yoi_daemon.model.workers import Diagnostic
from yoi_daemon.plugins.reloading import PluginPlan
from yoi_daemon.plugins.supervision.commands import ServiceCommand
from yoi_daemon.registry.opening import Prepared

PACKAGE = Path(yoi_daemon.__file__).parent


class _Whole(msgspec.Struct, frozen=True):
    """Everything that a reload takes beside the plugins."""

    certificates: Mapping[ListenerName, Loaded]
    runtimes: Prepared
    take_tokens: Callable[[], None]


class _Plan(msgspec.Struct, frozen=True):
    """Everything that a reload takes, read and checked. `whole` is None for a reload of one plugin."""

    read: Settings
    plugins: PluginPlan
    whole: _Whole | None


async def reload(daemon: Daemon, only: str | None = None) -> Reloaded:
    """Reads everything again, or plugin `only`, and takes what changed.

    Everything is the configuration, plugins, runtimes, tokens and certificates; settings that need a
    restart are named by section in `needs_restart`. Returns when replaced services have stopped and the
    reload is committed. Cancelled before anything is taken, nothing is; after that all of it is.

    Raises `Refused` (`invalid_state`, `plugin_not_found`, `draining`, `internal`) with every fault: everything
    goes on as before, and an event says so. A replaced service that ignores its end is refused
    (`invalid_state`) too; everything else has been taken then, and a fault says so.
    """
    async with daemon.reloading, AsyncExitStack() as held:
        try:
            plan = await _prepare(daemon, only, held)
            if daemon.draining.is_set():
                raise Refused("draining", "the daemon stops", retry_after_s=5.0)
        except (Exception, SystemExit) as error:
            # Errors of ours too, and an author's `sys.exit()`: nothing has been taken yet.
            raise _refuse(daemon, only, error) from error
        was_safe = daemon.plugins.safe_mode is not None
        runtimes, commands = _take(daemon, plan)
        return await _announce(daemon, plan, runtimes, commands, was_safe=was_safe)


async def _prepare(daemon: Daemon, only: str | None, held: AsyncExitStack) -> _Plan:
    """Does everything that can fail, and changes nothing. Nobody changes the tokens until `held` ends."""
    if only is None:
        daemon.trust.group_writable.clear()  # every file is checked again
    read = await trio.to_thread.run_sync(
        read_settings, daemon.directories, daemon.environ, daemon.trust
    )
    if only is not None:
        return _Plan(read, await daemon.plugins.prepare(read, only), None)
    certificates = await trio.to_thread.run_sync(
        load_certificates, daemon.certificates, daemon.directories
    )
    take_tokens = await held.enter_async_context(daemon.tokens.reading_again())
    runtimes = await daemon.registry.prepare(read.runtimes)
    plugins = await daemon.plugins.prepare(read)
    # Last, because it shows: until the old ones are out of use, local clients trust both.
    both = [*_shown(daemon), *(loaded.pem for loaded in certificates.values())]
    await trio.to_thread.run_sync(daemon.daemon_file.trust, both)
    return _Plan(read, plugins, _Whole(certificates, runtimes, take_tokens))


def _take(daemon: Daemon, plan: _Plan) -> tuple[tuple[str, ...], Mapping[str, ServiceCommand]]:
    """Goes on with what was prepared. Returns the changed runtimes, and the commands to services under way."""
    runtimes: tuple[str, ...] = ()
    if plan.whole is not None:
        for name, loaded in plan.whole.certificates.items():
            daemon.certificates[name].use(loaded)
        plan.whole.take_tokens()
        runtimes = daemon.registry.take(plan.whole.runtimes)
    daemon.settings = settings_after_reload(daemon.settings, plan.read, plan.plugins.only)
    set_log_level(daemon.settings.daemon.log_level)
    if daemon.refused_reload is not None and plan.plugins.only in (
        None,
        daemon.refused_reload.only,
    ):
        daemon.refused_reload = None
    return runtimes, daemon.plugins.take(plan.plugins)


async def _announce(
    daemon: Daemon,
    plan: _Plan,
    runtimes: tuple[str, ...],
    commands: Mapping[str, ServiceCommand],
    *,
    was_safe: bool,
) -> Reloaded:
    """Records what was taken, once it is in use."""
    # Shielded: what was taken is announced whoever waits for it. Each stop has its own limits.
    with trio.CancelScope(shield=True):
        if plan.whole is not None:
            await _forget_old_certificates(daemon)
        for command in commands.values():
            await command.done.wait()
    refused = {
        name: command.refused for name, command in commands.items() if command.refused is not None
    }
    changed = tuple(name for name in plan.plugins.changed if name not in refused)
    if was_safe and daemon.plugins.safe_mode is None:
        daemon.append("daemon.safe_mode", DaemonSafeMode(active=False))
    seq = daemon.append("daemon.reloaded", DaemonReloaded(plugins=changed, runtimes=runtimes))
    await daemon.event_log.committed(seq)
    if refused:
        faults = [f"{name}: {refusal.detail}" for name, refusal in refused.items()]
        raise Refused("invalid_state", "everything was taken but these plugins", faults=faults)
    return Reloaded(
        plugins=changed,
        runtimes=runtimes,
        needs_restart=needs_restart(daemon.settings, plan.read),
        cursor=daemon.event_log.cursors.encode(seq),
    )


async def _forget_old_certificates(daemon: Daemon) -> None:
    try:
        await trio.to_thread.run_sync(daemon.daemon_file.trust, _shown(daemon))
    except YoiError as error:
        # Local clients trust one certificate too many, until the next reload.
        structlog.get_logger("daemon").warning(
            "daemon.json still has replaced certificates", error=str(error)
        )


def _shown(daemon: Daemon) -> list[str]:
    return [certificate.pem for certificate in daemon.certificates.values()]


def _refuse(daemon: Daemon, only: str | None, error: Exception | SystemExit) -> Refused:
    """Records that a reload was refused. Returns the refusal for its caller."""
    match error:
        case Refused():
            refused = error
        case ConfigurationError() | StorageFailed() | NotAllowed():
            faults = _public_faults(daemon, error)
            detail = "the configuration cannot be taken as it is"
            refused = Refused("invalid_state", detail, faults=faults)
        case _:
            where = _innermost_place(error)
            structlog.get_logger("daemon").error("reload failed", where=where, exc_info=error)
            detail = f"{type(error).__name__} at {where}; the daemon's log has the traceback"
            refused = Refused("internal", detail, faults=[detail])
    faults: Sequence[str] = refused.fields.get("faults", [refused.detail])
    message = "the last reload was refused, and all goes on as before: " + "; ".join(faults)
    daemon.refused_reload = RefusedReload(
        only,
        Diagnostic(
            code="reload_refused",
            severity="warning",
            message=message,
            since=format_time(daemon.wall_clock()),
        ),
    )
    daemon.append("daemon.reload_refused", DaemonReloadRefused(faults=tuple(faults)))
    return refused


def _public_faults(daemon: Daemon, error: YoiError) -> list[str]:
    """Returns the faults without any path of this machine."""
    if isinstance(error, ConfigurationError):
        return [_public(fault) for fault in error.faults]
    return [public_text(str(error).replace(f"{daemon.directories.state}/", ""))]


def _public(fault: ConfigFault) -> str:
    # The file's own name is known to everyone.
    named = msgspec.structs.replace(fault, file=Path(fault.file).name)
    return public_text(str(named))


def _innermost_place(error: BaseException) -> str:
    """Returns the innermost line of this package that an error came through, as `daemon/reloading.py:80`."""
    places = [
        f"{Path(frame.f_code.co_filename).relative_to(PACKAGE)}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE)
    ]
    return places[-1] if places else "an unknown place"
