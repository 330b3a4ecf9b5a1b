"""When a failed service is tried again. Pure: time and chance come in as arguments."""

from collections import deque
from collections.abc import Callable

import msgspec

from yoi_daemon.model.settings import PluginSettings

MIN_NOT_READY_S, MAX_NOT_READY_S = 0.1, 3600.0
"""Bounds of the time that a `start` which is not ready may name."""


class Restart(msgspec.Struct, frozen=True):
    """Try again after `delay_s`. `gave_up` says that the pause is a give-up: the lane refuses meanwhile."""

    delay_s: float
    gave_up: bool = False


class RestartPolicy:
    """Counts restarts of one service.

    Up to `restart_attempts` in `restart_window_s`, each after a back-off from `restart_min_s` doubling
    to `restart_max_s`; then a pause of `give_up_min_s`, doubling to `give_up_max_s` each time
    the half-open try fails. `uniform(low, high)` spreads each back-off by a quarter either way.
    """

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform
        self._times: deque[float] = deque()
        self._give_ups = 0
        self._not_ready = 0

    @property
    def restarts(self) -> int:
        """Restarts spent in the window since the last clearing."""
        return len(self._times)

    @property
    def gave_up(self) -> bool:
        """Returns whether it gave up and was not healthy since."""
        return self._give_ups > 0

    def next_restart(self, settings: PluginSettings, now: float) -> Restart:
        """Returns what to do about a failure at `now` (monotonic seconds)."""
        while self._times and self._times[0] <= now - settings.restart_window_s:
            self._times.popleft()
        if self._give_ups or len(self._times) >= settings.restart_attempts:
            delay_s = min(
                settings.give_up_max_s,
                settings.give_up_min_s * 2 ** min(self._give_ups, 30),
            )
            self._give_ups += 1
            return Restart(delay_s, gave_up=True)
        delay_s = self._backoff(settings, len(self._times))
        self._times.append(now)
        return Restart(delay_s)

    def next_start(self, settings: PluginSettings, after_s: float | None) -> float:
        """Returns when to call a `start` again that is not ready: after `after_s`, or by a back-off, in seconds."""
        delay_s = self._backoff(settings, self._not_ready) if after_s is None else after_s
        self._not_ready += 1
        return min(MAX_NOT_READY_S, max(MIN_NOT_READY_S, delay_s))

    def note_started(self) -> None:
        """`start` has returned: the next back-off of one that is not ready begins anew."""
        self._not_ready = 0

    def _backoff(self, settings: PluginSettings, before: int) -> float:
        spread_s = self._uniform(0.75, 1.25) * settings.restart_min_s * 2 ** min(before, 30)
        return min(settings.restart_max_s, max(settings.restart_min_s, spread_s))

    def clear(self) -> None:
        """Forgets every restart: the service was healthy long enough, or an operator started it."""
        self._times.clear()
        self._give_ups = 0
        self._not_ready = 0
