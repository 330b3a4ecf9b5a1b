import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.rates import RateLimit, RateLimits


def taken(limit: RateLimit, now: float, per_s: float, tries: int) -> int:
    done = 0
    for _ in range(tries):
        try:
            limit.take(now, per_s, "things")
        except Refused:
            break
        done += 1
    return done


def test_one_seconds_worth_may_burst_and_then_the_rate_holds():
    limit = RateLimit(0)
    assert taken(limit, 0, 5, 10) == 5
    assert taken(limit, 0.2, 5, 10) == 1
    assert taken(limit, 100, 5, 10) == 5


def test_after_the_refusals_delay_one_is_allowed():
    limit = RateLimit(0)
    assert taken(limit, 0, 4, 9) == 4
    with pytest.raises(Refused, match="4 a second") as caught:
        limit.take(0.1, 4, "things")
    assert caught.value.code == "rate_limited"
    assert caught.value.retry_after_s == 0.15
    assert taken(limit, 0.1 + 0.15, 4, 9) == 1


def test_a_slow_rate_still_allows_one():
    limit = RateLimit(0)
    assert taken(limit, 0, 0.1, 5) == 1
    assert taken(limit, 9.9, 0.1, 5) == 0
    assert taken(limit, 10.001, 0.1, 5) == 1


@given(st.lists(st.floats(0, 0.5), max_size=60), st.floats(0.1, 50))
def test_no_stretch_has_more_than_its_rate_and_one_seconds_worth(waits, per_s):
    limit, now, done = RateLimit(0), 0.0, 0
    for wait in waits:
        now += wait
        done += taken(limit, now, per_s, 3)
        assert done <= max(1.0, per_s) + now * per_s + 1e-6


def test_each_key_has_its_own_and_memory_is_bounded():
    limits = RateLimits(max_keys=3)
    for key in "abc":
        assert taken(limits.of(key, 0), 0, 1, 5) == 1
    assert taken(limits.of("a", 0), 0, 1, 5) == 0  # a was seen last, so b is let go of
    limits.of("d", 0)
    assert taken(limits.of("a", 0), 0, 1, 5) == 0
    assert taken(limits.of("b", 0), 0, 1, 5) == 1
