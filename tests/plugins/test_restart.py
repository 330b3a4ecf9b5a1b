import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.supervision.restart import Restart, RestartPolicy


class Policy(RestartPolicy):
    """A policy with the settings of one plugin, without chance."""

    def __init__(self, spread: float, settings: PluginSettings) -> None:
        super().__init__(lambda low, high: spread)
        self._settings = settings

    def after_failure(self, now: float) -> Restart:
        return self.next_restart(self._settings, now)


def policy(spread: float = 1.0, **settings) -> Policy:
    return Policy(spread, PluginSettings(**settings))


def test_a_back_off_doubles_to_its_bound():
    one = policy(restart_attempts=9, restart_min_s=1, restart_max_s=60)
    delays = [one.after_failure(0.0).delay_s for _ in range(9)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@given(st.floats(0.75, 1.25), st.integers(1, 8))
def test_a_back_off_is_spread_by_a_quarter_within_the_bounds(spread, count):
    one = policy(spread, restart_attempts=8)
    for number in range(count):
        delay_s = one.after_failure(0.0).delay_s
        assert 1 <= delay_s <= 60
        plain = 2.0**number
        assert min(60, plain * 0.75) <= delay_s <= max(1, plain * 1.25)


def test_too_many_restarts_are_a_quarantine_that_grows():
    one = policy(restart_attempts=2, give_up_min_s=300, give_up_max_s=3600)
    assert not one.gave_up
    told = [one.after_failure(0.0) for _ in range(8)]
    assert [one.gave_up for one in told] == [False, False, *[True] * 6]
    assert [one.delay_s for one in told[2:]] == [300, 600, 1200, 2400, 3600, 3600]
    assert one.gave_up
    assert one.restarts == 2


def test_a_quarantine_lasts_until_it_is_cleared():
    one = policy(restart_attempts=1)
    one.after_failure(0.0)
    assert one.after_failure(0.0).gave_up
    assert one.after_failure(10_000.0).gave_up  # long after the window
    one.clear()
    assert not one.gave_up
    assert one.restarts == 0
    assert one.after_failure(10_001.0) == Restart(1.0)


def test_restarts_count_within_the_window_alone():
    one = policy(restart_attempts=2, restart_window_s=300)
    assert not one.after_failure(0.0).gave_up
    assert not one.after_failure(200.0).gave_up
    assert not one.after_failure(300.0).gave_up  # the first has left the window
    assert one.restarts == 2
    assert one.after_failure(499.0).gave_up


def test_no_restart_at_all_may_be_wanted():
    assert policy(restart_attempts=0).after_failure(0.0) == Restart(300.0, gave_up=True)


@pytest.mark.parametrize("count", [40, 2000])
def test_no_number_of_failures_overflows(count):
    one = policy(restart_attempts=1000, restart_window_s=86_400)
    told = [one.after_failure(0.0) for _ in range(count)]
    assert all(1 <= restart.delay_s <= 3600 for restart in told)
