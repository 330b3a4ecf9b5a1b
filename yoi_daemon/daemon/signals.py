"""Handling of SIGTERM, SIGINT and SIGHUP."""

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

import trio

from yoi_daemon.daemon.boot_journal import BootJournal
from yoi_daemon.daemon.statedir import remove_daemon_files
from yoi_daemon.model.directories import Directories
from yoi_daemon.model.settings import Settings

LAST_RESORT_S = 5.0
"""Delay after the whole budget before every stack is dumped and the process ends itself."""
EXIT_AT_ONCE = 130
"""Exit code after a second SIGINT: 128 + SIGINT, as in shells."""


class Signals:
    """SIGTERM and SIGINT set `stop`; a second SIGINT ends the process, also while a plugin blocks the loop.

    SIGHUP goes to `hangups`; those that come before the last was taken count as one. What comes before the
    event loop runs is kept for it; what comes after it has ended changes nothing.
    """

    def __init__(self, settings: Settings, directories: Directories, boots: BootJournal) -> None:
        self.stop = trio.Event()
        self._hang_up, self.hangups = trio.open_memory_channel[None](1)
        self._last_resort_s = settings.daemon.stop_timeout_s + LAST_RESORT_S
        self._directories = directories
        self._boots = boots
        self._interrupts = 0
        self._token: trio.lowlevel.TrioToken | None = None

    def enter_loop(self) -> None:
        """From here on signals are passed to the event loop that calls this."""
        self._token = trio.lowlevel.current_trio_token()

    @contextmanager
    def handled(self) -> Generator[None]:
        """Handles the signals for as long as the context, then puts their handlers back."""
        handlers = {
            signal.SIGTERM: self._ask_to_stop,
            signal.SIGINT: self._ask_to_stop,
            signal.SIGHUP: self._ask_to_reload,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            with self._hang_up, self.hangups:
                yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask_to_stop(self, number: int, _frame: object) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            self._boots.note_stop()
            exit_now(EXIT_AT_ONCE, self._directories)
        faulthandler.dump_traceback_later(self._last_resort_s, exit=True)
        self._in_loop(self.stop.set)

    def _ask_to_reload(self, _number: int, _frame: object) -> None:
        self._in_loop(self._pass_on)

    def _pass_on(self) -> None:
        with suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            self._hang_up.send_nowait(None)

    def _in_loop(self, act: Callable[[], None]) -> None:
        if self._token is None:
            act()  # nothing waits for it yet
            return
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(act, idempotent=True)


def exit_now(code: int, directories: Directories) -> None:
    """Ends the process without waiting for any thread or task."""
    remove_daemon_files(directories)
    for stream in (sys.stdout, sys.stderr):
        # A signal may have come in the middle of a write: flushing again raises, and must not be in the way.
        with suppress(RuntimeError, OSError, ValueError):
            stream.flush()
    os._exit(code)
