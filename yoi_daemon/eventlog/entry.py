"""One event as the log keeps it."""

from yoi_daemon.model.frames import payload_of


class Entry:
    """One numbered event: what filters look at, and the one WebSocket frame every subscriber gets.

    `is_last` says that its worker emits nothing after it.
    """

    __slots__ = ("frame", "is_last", "kind", "monotonic_s", "plugin_id", "seq", "worker")

    def __init__(
        self,
        seq: int,
        kind: str,
        worker: tuple[str, str] | None,
        plugin_id: str | None,
        monotonic_s: float,
        frame: bytes,
        *,
        is_last: bool = False,
    ) -> None:
        self.seq = seq
        self.kind = kind
        self.worker = worker
        self.plugin_id = plugin_id
        self.monotonic_s = monotonic_s
        self.frame = frame
        self.is_last = is_last

    @property
    def message(self) -> bytes:
        """The event as JSON, without its frame."""
        return payload_of(self.frame)
