"""The window of committed events: bounded by bytes, count and age, its floors outliving its content.

Two retention classes share it: a flood of one takes what the other leaves free of its half, never more.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import merge
from typing import NamedTuple

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.filter import EVERYTHING, Filter, retention_of
from yoi_daemon.eventlog.interface import PositionExpiredError, RetentionStatistics, Window
from yoi_daemon.eventlog.retention import RetentionClass
from yoi_daemon.model.events import Retention

SCAN_ENTRIES = 1024
"""One scan passes so many entries at most, matching or not: some 0.3 ms of the loop."""

NEARLY_FULL = 7 / 8
"""Share of a bound from which the oldest eighth of a retention class counts as about to be evicted."""


class Scan(NamedTuple):
    """Matching entries, and the position up to which there are no others."""

    entries: list[Entry]
    position: int


class Ring:
    """Entries up to `head`, in two retention classes.

    `window_events`, `window_bytes` (of frames) and `window_age_s` bound both together; where they
    are exceeded, the class that holds more than half of them evicts. The newest entry is always kept.
    `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        *,
        window_events: int,
        window_bytes: int,
        window_age_s: float,
        clock: Callable[[], float],
        head: int = 0,
        lifecycle: RetentionClass | None = None,
        volume: RetentionClass | None = None,
    ) -> None:
        self._max_events = window_events
        self._max_bytes = window_bytes
        self._max_age_s = window_age_s
        self._clock = clock
        # Not `or`: a class without entries is false, and its watermarks must be kept.
        self._lifecycle = RetentionClass(head) if lifecycle is None else lifecycle
        self._volume = RetentionClass(head) if volume is None else volume
        self._retentions: Mapping[Retention, RetentionClass] = {
            "lifecycle": self._lifecycle,
            "volume": self._volume,
        }
        self.head = head
        # The last batch: the broadcaster nearly always reads from there.
        self._latest: Sequence[Entry] = ()
        self._before_latest = head

    def __len__(self) -> int:
        return len(self._lifecycle) + len(self._volume)

    @property
    def bytes(self) -> int:
        """Returns the size of all frames kept."""
        return self._lifecycle.bytes + self._volume.bytes

    @property
    def evicted(self) -> int:
        """Returns the number of entries evicted since the start."""
        return self._lifecycle.evicted + self._volume.evicted

    @property
    def floor(self) -> int:
        """Returns the lowest position from which everything is still there."""
        return max(self._lifecycle.floor, self._volume.floor)

    def floor_of(self, wanted: Filter) -> int:
        """Returns the lowest position that resumes for this filter: it may be far below `floor`."""
        scope = wanted.scope
        return max(self._retentions[retention].floor_of(scope) for retention in wanted.retentions)

    def next_floor(self, wanted: Filter) -> int:
        """Returns what `floor_of` may rise to soon: positions below it need a bookmark."""
        if wanted.scope is not None and not wanted.kinds:
            return 0  # every event of the scope is delivered, and moves the position
        nearly = (
            len(self) >= self._max_events * NEARLY_FULL
            or self.bytes >= self._max_bytes * NEARLY_FULL
        )
        old_s = self._clock() - self._max_age_s * NEARLY_FULL
        next_floor = 0
        for name in wanted.retentions:
            retention = self._retentions[name]
            if retention and (nearly or retention.entries[0].monotonic_s < old_s):
                next_floor = max(next_floor, retention.entries[len(retention) // 8].seq)
        return next_floor

    def extend(self, entries: Sequence[Entry]) -> None:
        """Appends the next entries, and evicts what exceeds a bound."""
        head = self.head
        for entry in entries:
            head += 1
            assert entry.seq == head, "entries come in order of number"
            self._retentions[retention_of(entry)].push(entry)
        if entries:
            self._latest, self._before_latest = entries, self.head
            self.head = head
            self._evict_excess(entries[-1].monotonic_s)

    def push(self, entry: Entry) -> None:
        """Appends the next entry."""
        self.extend((entry,))

    def restore(self, entry: Entry) -> None:
        """Appends an entry of an earlier run: in order of number, with gaps."""
        self._retentions[retention_of(entry)].push(entry)
        self.head = self._before_latest = entry.seq

    def evict(self) -> None:
        """Evicts what exceeds a bound now."""
        self._evict_excess(self._clock())

    def _evict_excess(self, now: float) -> None:
        while len(self) > self._max_events and len(self) > 1:
            self._larger(len(self._volume) > self._max_events // 2).evict()
        while self.bytes > self._max_bytes and len(self) > 1:
            self._larger(self._volume.bytes > self._max_bytes // 2).evict()
        oldest_s = now - self._max_age_s
        for retention in (self._lifecycle, self._volume):
            while retention and retention.entries[0].monotonic_s < oldest_s and len(self) > 1:
                if retention.entries[0].seq == self.head:
                    break
                retention.evict()

    def _larger(self, is_volume: bool) -> RetentionClass:
        """Returns the class with more than its share, or the other if that would cost the newest entry."""
        retention, other = self._lifecycle, self._volume
        if is_volume:
            retention, other = other, retention
        if not retention or retention.entries[0].seq == self.head:
            return other
        return retention

    def scan(self, wanted: Filter, position: int, max_bytes: int, up_to: int | None = None) -> Scan:
        """Returns matching entries after `position`: at most `max_bytes`, but at least one if there is one.

        Nothing after `up_to` is read. Raises `PositionExpiredError` if an entry that could have
        matched is gone.
        """
        floor = self.floor_of(wanted)
        if position < floor:
            raise PositionExpiredError(floor)
        end = self.head if up_to is None else min(up_to, self.head)
        found: list[Entry] = []
        size = 0
        last = position
        for passed, entry in enumerate(self._after(wanted, position), 1):
            if entry.seq > end:
                break
            if wanted.matches(entry):
                size += len(entry.frame)
                if found and size > max_bytes:
                    return Scan(found, last)
                found.append(entry)
            last = entry.seq
            if passed == SCAN_ENTRIES:
                return Scan(found, last)
        return Scan(found, max(position, end))

    def _after(self, wanted: Filter, position: int) -> Iterable[Entry]:
        scope = wanted.scope
        if scope is None and position >= self._before_latest:
            begin = position - self._before_latest
            return self._latest[begin : begin + SCAN_ENTRIES]
        parts = [
            part
            for retention in wanted.retentions
            if (part := self._retentions[retention].after(scope, position, SCAN_ENTRIES))
        ]
        return parts[0] if len(parts) == 1 else merge(*parts, key=_seq)

    def read(self, position: int, max_bytes: int) -> list[Entry]:
        """Returns entries after `position`, whatever their kind, in as many scans as it takes."""
        found: list[Entry] = []
        size = 0
        while position < self.head:
            scan = self.scan(EVERYTHING, position, max_bytes - size)
            size += sum(len(entry.frame) for entry in scan.entries)
            if found and size > max_bytes:
                break
            found += scan.entries
            position = scan.position
            if size >= max_bytes:
                break
        return found

    def window(self) -> Window:
        """Returns the window as it is."""
        return Window(floor=self.floor, head=self.head, events=len(self), bytes=self.bytes)

    def floors(self) -> dict[Retention, int]:
        """Returns the number of the last entry that each class evicted."""
        return {"lifecycle": self._lifecycle.floor, "volume": self._volume.floor}

    def retentions(self) -> dict[Retention, RetentionStatistics]:
        """Returns what each class holds."""
        return {
            name: RetentionStatistics(
                floor=retention.floor,
                events=len(retention),
                bytes=retention.bytes,
                evicted=retention.evicted,
                scopes=retention.scopes,
            )
            for name, retention in self._retentions.items()
        }


def _seq(entry: Entry) -> int:
    return entry.seq
