"""A subscription: a position in the log and a filter. It has no queue, so it can fall behind, not grow."""

from collections.abc import Sequence

from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.eventlog.interface import EventLog

CHUNK_BYTES = 65_536
"""One read takes up to 64 KiB, the write that the fan-out measurement was made with."""


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
        entries, self.position = self._log.look(self._wanted, self.position, CHUNK_BYTES)
        frames = [entry.frame for entry in entries]
        self.delivered += len(frames)
        return frames

    async def wait(self) -> None:
        """Waits until there is something to look at. Raises `StorageFailed`."""
        await self._log.wait_beyond(self.position)
