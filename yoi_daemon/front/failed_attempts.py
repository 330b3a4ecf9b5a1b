"""A rate limit on failed authentication."""

import time
from collections.abc import Callable

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.rates import RateLimit, RateLimits


class FailedAttempts:
    """Limits the rate of failed attempts. A valid token is never limited.

    `per_s` is for one address, `total_per_s` for all of them. `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        *,
        per_s: float = 5,
        total_per_s: float = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_s = per_s
        self._total_per_s = total_per_s
        self._clock = clock
        self._total = RateLimit(clock())
        self._by_address = RateLimits()

    def refusal(self, address: str, refused: Refused) -> Refused:
        """Counts a failure, and returns the refusal for this address: `refused`, or `rate_limited`."""
        now = self._clock()
        of_address = self._by_address.of(address, now)
        what = "failed authentications"
        try:
            of_address.check(now, self._per_s, f"{what} from this address")
            self._total.check(now, self._total_per_s, what)
        except Refused as limited:
            return limited
        of_address.count()
        self._total.count()
        return refused
