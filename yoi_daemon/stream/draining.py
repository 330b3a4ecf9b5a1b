"""Spreads the closing of sessions over the shutdown, and their reconnects after it."""

from collections.abc import Callable

import trio

EACH_S = 0.005
"""Mean interval between two closes or two reconnects, so at most 200 a second; few subscribers end at once."""

RETRY_S = (0.2, 2.0)
"""Least range of the reconnect delay."""


class DrainSchedule:
    """When each session ends, and returns. `spread_s` is the time for closing; `count` returns the number of subscribers."""

    def __init__(
        self,
        begun: trio.Event,
        *,
        spread_s: float,
        count: Callable[[], int],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._begun = begun
        self._spread_s = spread_s
        self._count = count
        self._uniform = uniform

    def has_begun(self) -> bool:
        """True once the daemon drains."""
        return self._begun.is_set()

    def delay_s(self) -> float:
        """Returns how long one session continues, in seconds."""
        return self._uniform(0.0, min(self._spread_s, self._count() * EACH_S))

    def retry_s(self) -> float:
        """Returns after how many seconds one subscriber reconnects."""
        low, high = RETRY_S
        return round(self._uniform(low, max(high, self._count() * EACH_S)), 2)
