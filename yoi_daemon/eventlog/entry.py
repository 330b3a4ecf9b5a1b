"""One event as the log keeps it."""

import msgspec

from yoi_daemon.model.frames import payload_of


class Entry(msgspec.Struct, eq=False, gc=False):
    """One numbered event: what filters look at, and the one WebSocket frame every subscriber gets.

    `is_last` says that its worker emits nothing after it.
    """

    seq: int
    kind: str
    worker: tuple[str, str] | None
    plugin_id: str | None
    monotonic_s: float
    frame: bytes
    is_last: bool = False

    @property
    def message(self) -> bytes:
        """The event as JSON, without its frame."""
        return payload_of(self.frame)
