"""Blocks of the event loop: by whom, and for how long."""

from collections import Counter, defaultdict

import msgspec


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """One block of the event loop: the plugin, if any, and the innermost file and line.

    `blocked_s` is its length as far as known.
    """

    since: str
    plugin_id: str | None
    where: str | None
    blocked_s: float

    def lasting(self, blocked_s: float) -> "Blocked":
        """Returns the same block with another length."""
        return msgspec.structs.replace(self, blocked_s=blocked_s)

    @property
    def who(self) -> str:
        """Returns the culprit and its line, in words."""
        who = f"plugin {self.plugin_id}" if self.plugin_id else "the daemon itself"
        return f"{who}, at {self.where}" if self.where else who


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks of the loop since the start; `last_ago_s` is the time since the last one ended."""

    count: int
    longest_s: float
    last: Blocked | None
    last_ago_s: float | None


class LoopFigures:
    """Counts blocks of the loop by plugin; None is the daemon itself."""

    def __init__(self) -> None:
        self.counts: Counter[str | None] = Counter()
        self.seconds: dict[str | None, float] = defaultdict(float)
        self.now: Blocked | None = None
        """The current block; written by the watching thread."""
        self._longest_s = 0.0
        self._last: tuple[Blocked, float] | None = None

    def note(self, blocked: Blocked, now: float) -> None:
        """Counts a block that ended at `now`."""
        self.now = None
        self.counts[blocked.plugin_id] += 1
        self.seconds[blocked.plugin_id] += blocked.blocked_s
        self._longest_s = max(self._longest_s, blocked.blocked_s)
        self._last = blocked, now

    def blocks(self, now: float) -> Blocks:
        """Returns the totals for `status`; a block that has not ended counts as the last."""
        # A request that arrived during a block is answered before the thread has seen its end.
        current = self.now
        last, ended_s = (current, now) if current is not None else (self._last or (None, None))
        return Blocks(
            count=self.counts.total() + (current is not None),
            longest_s=self._longest_s,
            last=last,
            last_ago_s=None if ended_s is None else round(now - ended_s, 1),
        )
