"""A subscription: a position in the log and a filter. It has no queue, so it can fall behind, not grow."""

from collections.abc import Sequence

import msgspec

from yoi_daemon.eventlog.interface import Entry, EventLog
from yoi_daemon.model.events import matches_kind

CHUNK_BYTES = 65_536
"""One read takes up to 64 KiB, the write that the fan-out measurement was made with."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events: of one worker, of one plugin, or all; of these the kinds, or all."""

    worker: tuple[str, str] | None = None
    plugin_id: str | None = None
    kinds: tuple[str, ...] = ()

    def takes(self, entry: Entry) -> bool:
        """Whether the entry passes."""
        if self.worker is not None and entry.worker != self.worker:
            return False
        if self.plugin_id is not None and entry.plugin_id != self.plugin_id:
            return False
        return not self.kinds or any(matches_kind(entry.kind, prefix) for prefix in self.kinds)


class Subscription:
    """Reads a log from `position` on; `position` names the last event looked at, matching or not."""

    def __init__(self, log: EventLog, wanted: Filter, position: int) -> None:
        self._log = log
        self._wanted = wanted
        self.position = position
        self.delivered = 0

    @property
    def caught_up(self) -> bool:
        """Whether every committed event was looked at."""
        return self.position >= self._log.head

    def take(self) -> Sequence[bytes]:
        """The next matching frames, perhaps none; moves the position.

        Synchronous. Raises `PositionExpiredError` when the window has moved past the position:
        the subscriber was too slow, and nothing is skipped in silence.
        """
        entries = self._log.read(self.position, CHUNK_BYTES)
        if entries:
            self.position = entries[-1].seq
        frames = [entry.frame for entry in entries if self._wanted.takes(entry)]
        self.delivered += len(frames)
        return frames

    async def wait(self) -> None:
        """Waits until there is something to look at. Raises `StorageFailed`."""
        await self._log.wait_beyond(self.position)
