"""Detects a blocked event loop within a second, and names the file and line that block it.

A thread checks whether the loop still runs. While it is blocked the thread reports it: in the log, to systemd,
and in a file for `yoi-daemon status`. The event and the figures follow when the loop runs again.
"""

import faulthandler
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog
import trio

import yoi_daemon
from yoi_daemon.daemon.daemon import Daemon
from yoi_daemon.daemon.statedir import remove_blocked_files, write_blocked_files
from yoi_daemon.model.blocking import Blocked
from yoi_daemon.model.events import format_time
from yoi_daemon.systemd import Notifier

BEAT_S = 0.2
CHECK_S = 0.1
STILL_S = 0.7
"""Time without a beat after which the loop counts as blocked; with a beat and a check before it, 1 s in all."""
LATE_S = 3 * CHECK_S
"""A check that comes later than this was delayed itself."""
HELD_S = 5.0
"""Processor time without a check after which all stacks are dumped: one call holds the interpreter's lock."""
STACK_FRAMES = 8
STDERR = 2

PACKAGE = Path(yoi_daemon.__file__).parent


class Sample(NamedTuple):
    """The loop's thread at one moment. Times are seconds, each since a start of its own."""

    beats: int
    clock_s: float
    processor_s: float
    """Processor time that the thread used."""
    queued_s: float
    """Time that the thread waited for a processor."""


class Seen(NamedTuple):
    """The place where the loop's thread is."""

    plugin_id: str | None
    where: str | None
    stack: str


class Stillness:
    """Measures how long the loop is blocked by code of its own, not while the process is stopped or starved."""

    def __init__(self) -> None:
        self.held_s = 0.0
        """Time that the loop's thread held the interpreter's lock before the last check, and delayed it."""
        self._last: Sample | None = None
        self._still_s = 0.0

    def check(self, now: Sample) -> float:
        """Returns the seconds without a beat up to `now`; 0 after a beat."""
        last, self._last = self._last, now
        self.held_s = 0.0
        if last is None:
            return 0.0
        elapsed_s = now.clock_s - last.clock_s
        stood_s = elapsed_s - (now.queued_s - last.queued_s)
        if elapsed_s > LATE_S:
            # The whole process was stopped, or the loop's thread held the interpreter's lock: then it
            # used the processor meanwhile.
            self.held_s = min(elapsed_s, now.processor_s - last.processor_s)
            stood_s = min(elapsed_s, CHECK_S + self.held_s)
        if now.beats != last.beats:
            self._still_s = 0.0
            return 0.0
        self._still_s += max(0.0, stood_s)
        return self._still_s


class BlockReporter(Protocol):
    """Receives what the watch finds. `noticed` is called in the watching thread, `ended` in the loop."""

    def noticed(self, blocked: Blocked, stack: str) -> None:
        """The loop is blocked."""
        ...

    def ended(self, blocked: Blocked) -> None:
        """The loop runs again, after `blocked_s`."""
        ...


PlaceOf = Callable[[types.FrameType], tuple[str | None, str] | None]
"""Maps a frame to the plugin's id and `FILE:LINE`; None for a frame to skip."""


class LoopWatch:
    """Watches the loop of the thread that creates it."""

    def __init__(
        self, reporter: BlockReporter, place_of: PlaceOf, wall_clock: Callable[[], float]
    ) -> None:
        self._reporter = reporter
        self._place_of = place_of
        self._wall_clock = wall_clock
        self._token = trio.lowlevel.current_trio_token()
        self._ident = threading.get_ident()
        self._processor_clock = time.pthread_getcpuclockid(self._ident)
        self._schedule = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        self._beats = 0
        self._held: Seen | None = None
        self._held_s = 0.0
        self._stillness = Stillness()
        self._blocked: Blocked | None = None
        self._over = threading.Event()

    async def beat(self) -> None:
        """Counts beats in the loop, until cancelled."""
        while True:
            self._beats += 1
            await trio.sleep(BEAT_S)

    def note_held(self, _number: int, frame: types.FrameType | None) -> None:
        """Handles the signal that comes after `STILL_S` of processor time without a check.

        It runs in the loop's thread as soon as the call that held the lock returns, and so before
        that thread can be anywhere else.
        """
        self._held = self._see(frame)

    def watch(self, arm: Callable[[], None]) -> None:
        """Checks the loop from a thread, until `end`; calls `arm` at each check."""
        while not self._over.wait(CHECK_S):
            beats, held, self._held = self._beats, self._held, None
            arm()
            try:
                self._judge(beats, held)
            except Exception:  # noqa: BLE001 (it goes on watching, whatever telling somebody came to)
                structlog.get_logger("daemon").warning("watching the loop failed", exc_info=True)

    def _judge(self, beats: int, held: Seen | None) -> None:
        still_s = self._stillness.check(self._sample(beats))
        if self._blocked is None:
            self._blocked = self._find(still_s, held)
        elif still_s > 0:
            self._blocked = self._blocked.lasting(round(still_s, 1))
        if self._blocked is not None and still_s == 0:
            ended, self._blocked = self._blocked, None
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._reporter.ended, ended)

    def _find(self, still_s: float, held: Seen | None) -> Blocked | None:
        held_s, self._held_s = max(self._stillness.held_s, self._held_s), 0.0
        if held_s >= STILL_S:
            if held is not None:
                return self._notice(held, held_s)
            if self._stillness.held_s >= STILL_S:
                self._held_s = (
                    held_s  # the handler may be running just now; the next check has its note
                )
                return None
        if still_s >= STILL_S:
            return self._notice(self._see(_frame_of(self._ident)), still_s)
        return None

    def end(self) -> None:
        """Makes `watch` return."""
        self._over.set()

    def _sample(self, beats: int) -> Sample:
        return Sample(
            beats,
            time.monotonic(),
            time.clock_gettime(self._processor_clock),
            _queued_s(self._schedule),
        )

    def _see(self, frame: types.FrameType | None) -> Seen:
        # No locals: they hold secrets.
        lines = traceback.format_stack(frame)[-STACK_FRAMES:] if frame else []
        return Seen(*_blame(frame, self._place_of), "".join(lines))

    def _notice(self, seen: Seen, still_s: float) -> Blocked:
        blocked = Blocked(
            since=format_time(self._wall_clock() - still_s),
            plugin_id=seen.plugin_id,
            where=seen.where,
            blocked_s=round(still_s, 1),
        )
        self._reporter.noticed(blocked, seen.stack)
        return blocked


def _blame(frame: types.FrameType | None, place_of: PlaceOf) -> tuple[str | None, str | None]:
    """Returns the innermost frame of a plugin, else the innermost of ours."""
    ours: str | None = None
    while frame is not None:
        found = place_of(frame)
        if found is not None and found[0] is not None:
            return found
        if found is not None:
            ours = ours or found[1]
        frame = frame.f_back
    return None, ours


def _frame_of(ident: int) -> types.FrameType | None:
    return sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage] (documented)


def _queued_s(schedule: str) -> float:
    """How long the thread was ready and had no processor; see Documentation/scheduler/sched-stats in Linux."""
    try:
        with open(schedule, encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0  # a kernel that does not count it: then a starved loop is one that stands still


class _Reporter:
    """Implements `BlockReporter` for the daemon."""

    def __init__(self, daemon: Daemon, notifier: Notifier, on_end: Callable[[], None]) -> None:
        self._daemon = daemon
        self._notifier = notifier
        self._on_end = on_end
        self._log = structlog.get_logger("daemon")

    def noticed(self, blocked: Blocked, stack: str) -> None:
        plugin = {"plugin_id": blocked.plugin_id} if blocked.plugin_id else {}
        self._log.warning(
            "the event loop stands still",
            **plugin,
            where=blocked.where,
            code="loop_blocked",
            stack=stack,
        )
        self._notifier.send(f"STATUS=Event loop held by {blocked.who}")
        self._daemon.loop.now = blocked
        write_blocked_files(self._daemon.directories, blocked)

    def ended(self, blocked: Blocked) -> None:
        plugin = {"plugin_id": blocked.plugin_id} if blocked.plugin_id else {}
        self._log.warning(
            "the event loop turns again",
            **plugin,
            where=blocked.where,
            code="loop_blocked",
            blocked_s=blocked.blocked_s,
        )
        remove_blocked_files(self._daemon.directories)
        self._daemon.note_blocked(blocked)
        self._on_end()


@asynccontextmanager
async def open_loop_watch(
    daemon: Daemon, notifier: Notifier, on_end: Callable[[], None]
) -> AsyncGenerator[None]:
    """Watches the loop it is opened in until it is left; `on_end` is called each time it turns again."""

    def place_of(frame: types.FrameType) -> tuple[str | None, str] | None:
        if (found := daemon.plugins.place_of(frame, frame.f_lineno)) is not None:
            return found
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            return None, f"{PACKAGE.name}/{file.relative_to(PACKAGE)}:{frame.f_lineno}"
        return None

    remove_blocked_files(daemon.directories)  # of one that was killed while it stood still
    watch = LoopWatch(_Reporter(daemon, notifier, on_end), place_of, daemon.wall_clock)
    with _processor_timers(watch.note_held) as arm:
        # A daemon thread: it never keeps the process from ending.
        thread = threading.Thread(target=watch.watch, args=(arm,), name="loop watch", daemon=True)
        thread.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.beat)
            try:
                yield
            finally:
                watch.end()
                thread.join(LATE_S)
                nursery.cancel_scope.cancel()


@contextmanager
def _processor_timers(
    note: Callable[[int, types.FrameType | None], None],
) -> Generator[Callable[[], None]]:
    """Gives what is to be called again and again; where it is not, `note` is a signal's handler after
    `STILL_S` of processor time, and after `HELD_S` every stack is dumped to standard error.

    The dump needs no interpreter. The time is the processor's, and not that of `dump_traceback_later`,
    which goes off in a process that was stopped, too.
    """

    def arm() -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, STILL_S)
        signal.setitimer(signal.ITIMER_PROF, HELD_S)

    signal.signal(signal.SIGVTALRM, note)
    faulthandler.register(signal.SIGPROF, file=STDERR, all_threads=True)
    try:
        yield arm
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.unregister(signal.SIGPROF)
        # Not the default, which would end the process: a thread that is late may arm them once more.
        signal.signal(signal.SIGVTALRM, signal.SIG_IGN)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
