"""One task that holds every deadline of every plugin: start, handlers, closing, status, tools.

A scope with a deadline for each event costs more than the event (15-19 µs, measured on Trio 0.35), so
deadlines are looked at four times a second. Time the loop itself stood still is given back to all of
them: that is the blocker's fault, not theirs.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from yoi_daemon.cancellation import GuardedCall

POLL_S = 0.25


class Watched(Protocol):
    """Something with calls under way."""

    def calls(self) -> Iterable[GuardedCall]:
        """Returns the calls under way now."""
        ...

    def on_slow(self, call: GuardedCall, elapsed_s: float) -> None:
        """A call passed its warning time."""
        ...

    def on_wedged(self, call: GuardedCall) -> None:
        """A call outlived its deadline and its grace, and was given up."""
        ...

    def on_tick(self, now: float) -> None:
        """Once a poll."""
        ...


async def run_watchdog(watched: Callable[[], Iterable[Watched]], *, poll_s: float = POLL_S) -> None:
    """Looks at the calls of all that is `watched`, until cancelled."""
    due = trio.current_time() + poll_s
    while True:
        await trio.sleep_until(due)
        now = trio.current_time()
        stood_still_s = now - due
        due = now + poll_s
        for subject in tuple(watched()):
            for call in tuple(subject.calls()):
                if stood_still_s > poll_s:
                    call.extend(stood_still_s)
                match call.advance(now):
                    case "slow":
                        subject.on_slow(call, now - call.started_s)
                    case "wedged":
                        subject.on_wedged(call)
                    case _:
                        pass
            subject.on_tick(now)
