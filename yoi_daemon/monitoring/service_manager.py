"""Reports to the service manager: ready, healthy, reloading, stopping."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog
import trio

from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.reloading import reload
from yoi_daemon.model.errors import Refused, StorageFailed
from yoi_daemon.systemd import Notifier

FEEDS = 3
"""Watchdog messages in each of its intervals: two in a row may be missed."""
QUICK_SHARE = 0.1
"""Share of the interval by which the loop may wake a task late; beyond it the watchdog is not fed."""
EXTEND_EVERY_S = 5.0
EXTEND_S = 20.0
"""Time the draining daemon asks for, every `EXTEND_EVERY_S`."""


class ServiceManager:
    """Reports to the service manager. Every method returns at once."""

    def __init__(self, daemon: Daemon, notifier: Notifier) -> None:
        self._daemon = daemon
        self._notifier = notifier

    def ready(self) -> None:
        """Reports that the listeners answer, or that a reload is over, taken or refused."""
        self._notifier.send("READY=1", self._status())

    def update(self) -> None:
        """Reports the daemon's current state."""
        self._notifier.send(self._status())

    def reloading(self) -> None:
        """Reports that a reload has begun; `ready` ends it."""
        # CLOCK_MONOTONIC itself, which systemd compares with its own.
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={usec}", "STATUS=Reloading")

    def stopping(self) -> None:
        """Reports that the daemon drains, and asks for time to do so."""
        self._notifier.send("STOPPING=1", "STATUS=Stopping", _EXTENSION)

    def extend(self) -> None:
        """Asks for more time to stop."""
        self._notifier.send(_EXTENSION)

    def feed(self) -> None:
        """Feeds the watchdog: the loop is quick and the store commits."""
        self._notifier.send("WATCHDOG=1", self._status())

    def _status(self) -> str:
        daemon = self._daemon
        if daemon.draining.is_set():
            return "STATUS=Stopping"
        codes = daemon.not_ready()
        plugins = daemon.plugins.records()
        running = sum(record.state == "running" for record in plugins)
        waiting = sum(record.queue_depth for record in plugins)
        if daemon.plugins.safe_mode is not None:
            return "STATUS=Safe mode, no plugin is loaded; yoi-daemon status says why"
        parts = [
            f"Not ready: {', '.join(codes)}" if codes else "Serving",
            f"plugins {running}/{len(plugins)} running",
            f"events {waiting} waiting",
            f"subscribers {daemon.observed.subscribers}",
        ]
        if daemon.refused_reload is not None:
            parts.append("last reload refused")
        return "STATUS=" + "; ".join(parts)


_EXTENSION = f"EXTEND_TIMEOUT_USEC={int(EXTEND_S * 1e6)}"


@asynccontextmanager
async def open_service_manager(
    daemon: Daemon,
    notifier: Notifier,
    watchdog_s: float | None,
    hangups: trio.MemoryReceiveChannel[None],
) -> AsyncGenerator[ServiceManager]:
    """Reports to the manager until left; each item of `hangups` is a request to reload.

    `watchdog_s` is the manager's `WatchdogSec`; None where it has no watchdog.
    """
    manager = ServiceManager(daemon, notifier)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_reload_on, hangups, daemon, manager)
        nursery.start_soon(_extend_while_draining, daemon, manager)
        if watchdog_s is not None:
            nursery.start_soon(_feed, daemon, manager, watchdog_s)
        try:
            yield manager
        finally:
            nursery.cancel_scope.cancel()


async def _feed(daemon: Daemon, manager: ServiceManager, watchdog_s: float) -> None:
    """Feeds the watchdog for as long as the loop is quick and the store commits."""
    log = structlog.get_logger("daemon")
    every_s = watchdog_s / FEEDS
    while True:
        due = trio.current_time() + every_s
        await trio.sleep_until(due)
        late_s = trio.current_time() - due
        if late_s > watchdog_s * QUICK_SHARE:
            log.warning("watchdog not fed: the loop is slow", late_s=round(late_s, 3))
            continue
        # A commit of nothing still writes the store's age, so one is written every ten seconds.
        with trio.move_on_after(every_s) as commit:
            await daemon.event_log.recorded(daemon.event_log.record(()))
        if commit.cancelled_caught:
            log.warning("watchdog not fed: the store does not commit", waited_s=every_s)
        else:
            manager.feed()


async def _extend_while_draining(daemon: Daemon, manager: ServiceManager) -> None:
    await daemon.draining.wait()
    manager.stopping()
    while True:
        await trio.sleep(EXTEND_EVERY_S)
        manager.extend()


async def _reload_on(
    hangups: trio.MemoryReceiveChannel[None], daemon: Daemon, manager: ServiceManager
) -> None:
    log = structlog.get_logger("daemon")
    # A hangup during the start waits: READY=1 ends a reload, and would say that the daemon serves.
    await daemon.serving.wait()
    async for _ in hangups:
        if daemon.draining.is_set():
            return
        manager.reloading()
        try:
            reloaded = await reload(daemon)
        except Refused as refused:
            log.warning(
                "reload refused", detail=refused.detail, faults=refused.fields.get("faults")
            )
        except StorageFailed as error:  # the store's own task ends the daemon
            log.error("reload not committed", error=str(error))  # noqa: TRY400 (without a traceback: the store's own task logs it)
        else:
            log.info(
                "reloaded", plugins=reloaded.plugins, needs_restart=list(reloaded.needs_restart)
            )
        manager.ready()
