"""Who has heard nothing for too long: one timer for all, instead of one in each subscriber's task."""

from heapq import heapify, heappop, heappush
from math import inf
from typing import Protocol

import trio


class IdleReader(Protocol):
    """Somebody who hears things."""

    @property
    def heard_s(self) -> float:
        """When it heard something last, by `trio.current_time`."""
        ...

    @property
    def is_direct(self) -> bool:
        """Whether it rests: only then it is to be woken."""
        ...

    def wake(self) -> None:
        """Lets its own task look at things."""
        ...


class IdleTimer:
    """One listener, to be woken after `after_s` of silence. Over when `listener` is None."""

    __slots__ = ("after_s", "listener")

    def __init__(self, listener: IdleReader, after_s: float) -> None:
        self.listener: IdleReader | None = listener
        self.after_s = after_s


class IdleTimers:
    """Wakes listeners. A watch is looked at when its listener was to be woken at the earliest.

    So one who hears costs nothing but that look, once in `after_s`. Of watches that ended no more
    are kept than of those that go on.
    """

    def __init__(self) -> None:
        self._watches: list[tuple[float, int, IdleTimer]] = []
        self._begun = 0
        self._ended = 0
        """How many of `_watches` are over."""
        self._earlier = trio.lowlevel.ParkingLot()

    def begin(self, watch: IdleTimer) -> None:
        """Has it woken once; then its watch is over."""
        assert watch.listener is not None
        self._begun += 1
        due_s = watch.listener.heard_s + watch.after_s
        if not self._watches or due_s < self._watches[0][0]:
            self._earlier.unpark()
        heappush(self._watches, (due_s, self._begun, watch))

    def end(self, watch: IdleTimer) -> None:
        """Has it not woken any more."""
        if watch.listener is None:
            return
        watch.listener = None
        self._ended += 1
        if self._ended * 2 > len(self._watches):
            self._watches = [one for one in self._watches if one[2].listener is not None]
            heapify(self._watches)
            self._ended = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with trio.move_on_at(self._watches[0][0] if self._watches else inf):
                await self._earlier.park()
            now = trio.current_time()
            while self._watches and self._watches[0][0] <= now:
                _, _, watch = heappop(self._watches)
                self._look(watch, now)

    def _look(self, watch: IdleTimer, now: float) -> None:
        listener = watch.listener
        if listener is None:
            self._ended -= 1
            return
        if listener.is_direct and listener.heard_s + watch.after_s > now:
            self.begin(watch)
            return
        watch.listener = None
        if listener.is_direct:
            listener.wake()
