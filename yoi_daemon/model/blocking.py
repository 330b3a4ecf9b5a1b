"""Who held the event loop, and for how long."""

from collections import Counter, defaultdict

import msgspec


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """One time the loop stood still: of which plugin, if of one, and the innermost file and line.

    `blocked_s` is how long, as far as is known.
    """

    since: str
    plugin_id: str | None
    where: str | None
    blocked_s: float

    def lasting(self, blocked_s: float) -> "Blocked":
        """The same, longer."""
        return msgspec.structs.replace(self, blocked_s=blocked_s)

    @property
    def who(self) -> str:
        """The culprit and its line, in words."""
        who = f"plugin {self.plugin_id}" if self.plugin_id else "the daemon itself"
        return f"{who}, at {self.where}" if self.where else who


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """How often the loop stood still since the start; `last_ago_s` is since the latest one's end."""

    count: int
    longest_s: float
    last: Blocked | None
    last_ago_s: float | None


class LoopFigures:
    """What is counted of the loop's standing still, by plugin; None is the daemon itself."""

    def __init__(self) -> None:
        self.counts: Counter[str | None] = Counter()
        self.seconds: dict[str | None, float] = defaultdict(float)
        self.now: Blocked | None = None
        """What holds the loop at this moment; written by the thread that watches it."""
        self._longest_s = 0.0
        self._last: tuple[Blocked, float] | None = None

    def note(self, blocked: Blocked, now: float) -> None:
        """One more, that ended at `now`."""
        self.now = None
        self.counts[blocked.plugin_id] += 1
        self.seconds[blocked.plugin_id] += blocked.blocked_s
        self._longest_s = max(self._longest_s, blocked.blocked_s)
        self._last = blocked, now

    def blocks(self, now: float) -> Blocks:
        """All of them, as `status` tells it; one that has not been told of as ended is the last."""
        # Asked for while the loop stood still, it is answered before the thread has seen it turn.
        current = self.now
        last, ended_s = (current, now) if current is not None else (self._last or (None, None))
        return Blocks(
            count=self.counts.total() + (current is not None),
            longest_s=self._longest_s,
            last=last,
            last_ago_s=None if ended_s is None else round(now - ended_s, 1),
        )
