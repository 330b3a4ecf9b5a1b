"""Rate limits. Pure: the caller passes the time, in monotonic seconds."""

from collections import OrderedDict

from yoi_daemon.model.errors import Refused

MAX_KEYS = 10_000
"""Limit of remembered keys; beyond it the least recently used starts afresh."""


class RateLimit:
    """A token bucket that holds one second's worth, but at least one."""

    def __init__(self, now: float) -> None:
        self._spent = 0.0
        self._at = now

    def check(self, now: float, per_s: float, what: str) -> None:
        """Raises `Refused` (`rate_limited`) if one more would be too many; `what` names them."""
        self._spent = max(0.0, self._spent - (now - self._at) * per_s)
        self._at = now
        over = self._spent + 1 - max(1.0, per_s)
        if over > 0:
            raise Refused(
                "rate_limited",
                f"{what}: {per_s:g} a second are allowed; retry later",
                retry_after_s=round(over / per_s, 3) or 0.001,
            )

    def count(self) -> None:
        """Counts one."""
        self._spent += 1

    def take(self, now: float, per_s: float, what: str) -> None:
        """Checks, then counts one."""
        self.check(now, per_s, what)
        self.count()


class RateLimits:
    """A `RateLimit` for each key, in bounded memory."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._limits: OrderedDict[str, RateLimit] = OrderedDict()

    def of(self, key: str, now: float) -> RateLimit:
        """Returns the limit of a key."""
        limit = self._limits.get(key)
        if limit is None:
            limit = self._limits[key] = RateLimit(now)
            if len(self._limits) > self._max_keys:
                self._limits.popitem(last=False)
        self._limits.move_to_end(key)
        return limit
