"""The window of committed events: bounded by bytes, count and age, its floor outliving its content."""

from collections.abc import Callable

from yoi_daemon.eventlog.interface import Entry, PositionExpiredError, Window


class Ring:
    """Entries `floor + 1` to `head`, without a hole.

    `window_events`, `window_bytes` (of frames) and `window_age_s` bound it; the newest entry is
    always kept. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        *,
        window_events: int,
        window_bytes: int,
        window_age_s: float,
        clock: Callable[[], float],
        head: int = 0,
    ) -> None:
        self._max_events = window_events
        self._max_bytes = window_bytes
        self._max_age_s = window_age_s
        self._clock = clock
        self._entries: list[Entry] = []
        self._start = (
            0  # entries before it are let go; the list is cut now and then, not at each step
        )
        self._bytes = 0
        self.head = head
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries) - self._start

    @property
    def floor(self) -> int:
        """The lowest position that still resumes."""
        return self.head - len(self)

    def push(self, entry: Entry) -> None:
        """Takes the next entry, and lets go of what is beyond a bound."""
        assert entry.seq == self.head + 1, "entries come in order of number"
        self._entries.append(entry)
        self._bytes += len(entry.frame)
        self.head = entry.seq
        self._let_go(entry.monotonic_s)

    def evict(self) -> None:
        """Lets go of what is beyond a bound by now."""
        self._let_go(self._clock())

    def _let_go(self, now: float) -> None:
        oldest_s = now - self._max_age_s
        while (kept := len(self._entries) - self._start) > 1:
            first = self._entries[self._start]
            if (
                kept <= self._max_events
                and self._bytes <= self._max_bytes
                and first.monotonic_s >= oldest_s
            ):
                break
            self._bytes -= len(first.frame)
            self._start += 1
            self.evicted += 1
        if self._start > 1024 and self._start * 2 > len(self._entries):
            del self._entries[: self._start]
            self._start = 0

    def read(self, position: int, max_bytes: int) -> list[Entry]:
        """Entries after `position`: at least one where there is one, at most `max_bytes` of frames."""
        if position < self.floor:
            raise PositionExpiredError(self.floor)
        size = 0
        found: list[Entry] = []
        for index in range(self._start + position - self.floor, len(self._entries)):
            entry = self._entries[index]
            size += len(entry.frame)
            if found and size > max_bytes:
                break
            found.append(entry)
        return found

    def window(self) -> Window:
        """The bounds as they are."""
        return Window(floor=self.floor, head=self.head, events=len(self), bytes=self._bytes)
