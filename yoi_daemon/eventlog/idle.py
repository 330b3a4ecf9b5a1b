"""Finds idle subscribers: one task for all, instead of a timeout in each subscriber's task."""

from heapq import heapify, heappop, heappush
from math import inf
from typing import Protocol

import trio


class IdleReader(Protocol):
    """A subscriber as its idle timer sees it."""

    @property
    def last_write_s(self) -> float:
        """Returns the time of the last write, by `trio.current_time`."""
        ...

    @property
    def is_direct(self) -> bool:
        """True if its task waits: only then it is woken."""
        ...

    def wake(self) -> None:
        """Wakes its own task."""
        ...


class IdleTimer:
    """Wakes one reader after `after_s` without a write. Over when `reader` is None."""

    __slots__ = ("after_s", "reader")

    def __init__(self, reader: IdleReader, after_s: float) -> None:
        self.reader: IdleReader | None = reader
        self.after_s = after_s


class IdleTimers:
    """Wakes idle readers. A timer is checked at the earliest time at which its reader can be idle.

    So a busy reader costs one check in `after_s`. At most half of the timers kept are over.
    """

    def __init__(self) -> None:
        self._timers: list[tuple[float, int, IdleTimer]] = []
        self._begun = 0
        self._ended = 0
        """The number of `_timers` that are over."""
        self._earlier = trio.lowlevel.ParkingLot()

    def start(self, timer: IdleTimer) -> None:
        """Starts a timer, which wakes its reader once and is then over."""
        assert timer.reader is not None
        self._begun += 1
        due_s = timer.reader.last_write_s + timer.after_s
        if not self._timers or due_s < self._timers[0][0]:
            self._earlier.unpark()
        heappush(self._timers, (due_s, self._begun, timer))

    def cancel(self, timer: IdleTimer) -> None:
        """Ends a timer."""
        if timer.reader is None:
            return
        timer.reader = None
        self._ended += 1
        if self._ended * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].reader is not None]
            heapify(self._timers)
            self._ended = 0

    async def run(self) -> None:
        """Wakes idle readers, until cancelled."""
        while True:
            with trio.move_on_at(self._timers[0][0] if self._timers else inf):
                await self._earlier.park()
            now = trio.current_time()
            while self._timers and self._timers[0][0] <= now:
                _, _, timer = heappop(self._timers)
                self._expire(timer, now)

    def _expire(self, timer: IdleTimer, now: float) -> None:
        reader = timer.reader
        if reader is None:
            self._ended -= 1
            return
        if reader.is_direct and reader.last_write_s + timer.after_s > now:
            self.start(timer)
            return
        timer.reader = None
        if reader.is_direct:
            reader.wake()
