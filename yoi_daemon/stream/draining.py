"""The daemon's stopping as sessions see it: closes spread over the time there is, and so the returns."""

from collections.abc import Callable

import trio

EACH_S = 0.005
"""Between two closes, or two returns: 200 a second are no storm. Few subscribers thus end at once."""

RETRY_S = (0.2, 2.0)


class Drain:
    """`spread_s` is the time there is for closing; `count` says how many subscribers there are."""

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

    def is_set(self) -> bool:
        """Whether it began."""
        return self._begun.is_set()

    def delay_s(self) -> float:
        """How long one session goes on yet, in seconds."""
        return self._uniform(0.0, min(self._spread_s, self._count() * EACH_S))

    def retry_s(self) -> float:
        """When one subscriber is to come back, in seconds."""
        low, high = RETRY_S
        return round(self._uniform(low, max(high, self._count() * EACH_S)), 2)
