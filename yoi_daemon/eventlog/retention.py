"""A retention class of the window: its entries by scope, and watermarks that outlive them."""

from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from types import MappingProxyType

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.filter import Scope

MAX_WATERMARKS = 16_384
"""Scopes with a watermark of their own, about 3 MB; all others share one."""

_KEEP_CUT = 1024


class Track:
    """Entries in order of number, evicted from the front."""

    __slots__ = ("_entries", "_start", "push")

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        # Entries before it are evicted; the list is cut now and then, not at each step.
        self._start = 0
        self.push = self._entries.append
        """Appends the next entry."""

    def __len__(self) -> int:
        return len(self._entries) - self._start

    def __getitem__(self, index: int) -> Entry:
        return self._entries[self._start + index]

    def pop(self) -> Entry:
        """Removes and returns the oldest entry."""
        entry = self._entries[self._start]
        self._start += 1
        if self._start == len(self._entries) or (
            self._start > _KEEP_CUT and self._start * 2 > len(self._entries)
        ):
            del self._entries[: self._start]
            self._start = 0
        return entry

    def after(self, position: int, most: int) -> list[Entry]:
        """Returns up to `most` entries after `position`."""
        begin = bisect_right(self._entries, position, self._start, key=_seq)
        return self._entries[begin : begin + most]


class RetentionClass:
    """One retention class; `floor` is the number of the last entry it evicted."""

    def __init__(
        self,
        floor: int,
        shared_mark: int | None = None,
        watermarks: Mapping[Scope, int] = MappingProxyType({}),
    ) -> None:
        self.floor = floor
        self.bytes = 0
        self.evicted = 0
        self.entries = Track()
        self._tracks: defaultdict[Scope, Track] = defaultdict(Track)
        self._watermarks: OrderedDict[Scope, int] = OrderedDict(watermarks)
        # Of every scope without a watermark of its own: earlier ones, and marks that were dropped.
        self._shared_mark = floor if shared_mark is None else shared_mark

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def scopes(self) -> int:
        """Returns the number of workers and plugins with entries here."""
        return len(self._tracks)

    def push(self, entry: Entry) -> None:
        """Appends the next entry."""
        self.entries.push(entry)
        self.bytes += len(entry.frame)
        # Spelled out, not by `_scopes`: this runs for every event.
        if entry.worker is not None:
            self._tracks[entry.worker].push(entry)
        if entry.plugin_id is not None:
            self._tracks[entry.plugin_id].push(entry)

    def evict(self) -> None:
        """Evicts the oldest entry, and keeps its number as watermark of its scopes."""
        entry = self.entries.pop()
        self.bytes -= len(entry.frame)
        self.evicted += 1
        self.floor = entry.seq
        for scope in _scopes(entry):
            track = self._tracks[scope]
            track.pop()
            if not track:
                del self._tracks[scope]
            self._watermarks[scope] = entry.seq
            self._watermarks.move_to_end(scope)
        while len(self._watermarks) > MAX_WATERMARKS:
            _, mark = self._watermarks.popitem(last=False)
            self._shared_mark = max(self._shared_mark, mark)

    def floor_of(self, scope: Scope) -> int:
        """Returns the lowest position that misses nothing of `scope` here."""
        if scope is None:
            return self.floor
        return self._watermarks.get(scope, self._shared_mark)

    def after(self, scope: Scope, position: int, most: int) -> list[Entry]:
        """Returns up to `most` entries of `scope` after `position`."""
        track = self.entries if scope is None else self._tracks.get(scope)
        return [] if track is None else track.after(position, most)


def _scopes(entry: Entry) -> tuple[Scope, ...]:
    if entry.worker is None:
        return () if entry.plugin_id is None else (entry.plugin_id,)
    return (entry.worker,) if entry.plugin_id is None else (entry.worker, entry.plugin_id)


def _seq(entry: Entry) -> int:
    return entry.seq
