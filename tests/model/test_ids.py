import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.ids import RESERVED_PLUGIN_IDS, IdSource, is_plugin_id

FORM = re.compile(r"evt_[0-9a-hjkmnp-tv-z]{26}")


@given(
    clock=st.lists(st.floats(0, 4e9), min_size=2, max_size=30),
    chance=st.sampled_from([bytes(10), b"\xff" * 10, b"\x80" + bytes(9)]),
)
def test_ids_sort_as_they_were_made_whatever_the_clock_does(clock, chance):
    moments = iter(clock)
    source = IdSource(lambda: next(moments), lambda size: chance[:size])
    made = [source.new("evt") for _ in clock]
    assert made == sorted(set(made))
    assert all(FORM.fullmatch(one) for one in made)


def test_ids_sort_within_one_millisecond_with_the_highest_chance():
    source = IdSource(lambda: 1_800_000_000.0, lambda size: b"\xff" * size)
    made = [source.new("evt") for _ in range(100)]
    assert made == sorted(set(made))


def test_a_later_millisecond_sorts_after_an_earlier_one_of_another_source():
    early = IdSource(lambda: 1_800_000_000.000, lambda size: b"\xff" * size)
    late = IdSource(lambda: 1_800_000_000.002, bytes)
    assert early.new("evt") < late.new("evt")


def test_two_sources_of_one_moment_differ_by_chance():
    assert IdSource(lambda: 1.0).new("a") != IdSource(lambda: 1.0).new("a")


@pytest.mark.parametrize("name", ["a", "github_watch", "a1_b2", "a" * 32])
def test_a_plugin_id(name):
    assert is_plugin_id(name)


@pytest.mark.parametrize(
    "name",
    ["", "1a", "_a", "a__b", "A", "a-b", "a.b", "a" * 33, "a\n", "é", *sorted(RESERVED_PLUGIN_IDS)],
)
def test_no_plugin_id(name):
    assert not is_plugin_id(name)
