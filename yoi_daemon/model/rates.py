"""How often something may happen. Pure: times are monotonic seconds that the caller gives."""

from collections import OrderedDict

from yoi_daemon.model.errors import Refused

MAX_KEYS = 10_000
"""Of whom the rate is remembered; beyond it whoever was seen longest ago begins anew."""


class RateLimit:
    """So many a second and no more; what is unused is kept for one second (for one, where that is longer)."""

    def __init__(self, now: float) -> None:
        self._spent = 0.0
        self._at = now

    def check(self, now: float, per_s: float, what: str) -> None:
        """Raises `Refused` (`rate_limited`) where one more would be too many; `what` names them."""
        self._spent = max(0.0, self._spent - (now - self._at) * per_s)
        self._at = now
        over = self._spent + 1 - max(1.0, per_s)
        if over > 0:
            raise Refused(
                "rate_limited",
                f"{what}: {per_s:g} a second are taken; come back later",
                retry_after_s=round(over / per_s, 3) or 0.001,
            )

    def count(self) -> None:
        """One happened."""
        self._spent += 1

    def take(self, now: float, per_s: float, what: str) -> None:
        """`check`, then `count`."""
        self.check(now, per_s, what)
        self.count()


class RateLimits:
    """A `RateLimit` for each key, in bounded memory."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._limits: OrderedDict[str, RateLimit] = OrderedDict()

    def of(self, key: str, now: float) -> RateLimit:
        """The limit of one key."""
        limit = self._limits.get(key)
        if limit is None:
            limit = self._limits[key] = RateLimit(now)
            if len(self._limits) > self._max_keys:
                self._limits.popitem(last=False)
        self._limits.move_to_end(key)
        return limit
