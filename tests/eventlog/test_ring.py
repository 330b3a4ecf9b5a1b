from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clocks import ManualClock
from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.interface import PositionExpiredError
from yoi_daemon.eventlog.ring import Ring


class Kept(NamedTuple):
    seq: int
    size: int
    at_s: float


class Model:
    """The rule, told the slow way: drop the oldest while a bound is passed, never the newest."""

    def __init__(self, events: int, max_bytes: int, age_s: float) -> None:
        self.bounds = events, max_bytes, age_s
        self.kept: list[Kept] = []
        self.head = 0

    def push(self, size: int, now: float) -> None:
        self.head += 1
        self.kept.append(Kept(self.head, size, now))
        self.evict(now)

    def evict(self, now: float) -> None:
        events, max_bytes, age_s = self.bounds
        while len(self.kept) > 1 and (
            len(self.kept) > events
            or sum(kept.size for kept in self.kept) > max_bytes
            or self.kept[0].at_s < now - age_s
        ):
            self.kept.pop(0)


def entry(seq: int, size: int, now: float) -> Entry:
    return Entry(seq, "a.b", None, None, now, bytes(size))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 60)),
        st.tuples(st.just("wait"), st.integers(1, 8)),
        st.tuples(st.just("evict"), st.just(0)),
    ),
    max_size=60,
)


@given(st.integers(1, 6), st.integers(1, 120), st.integers(1, 10), steps)
def test_the_ring_is_its_model(events, max_bytes, age_s, steps):
    clock = ManualClock(0.0)
    ring = Ring(window_events=events, window_bytes=max_bytes, window_age_s=age_s, clock=clock)
    model = Model(events, max_bytes, age_s)
    for what, number in steps:
        if what == "push":
            ring.push(entry(ring.head + 1, number, clock()))
            model.push(number, clock())
        elif what == "wait":
            clock.advance(number)
        else:
            ring.evict()
            model.evict(clock())
        window = ring.window()
        assert window.head == model.head == ring.head
        assert window.events == len(ring) == len(model.kept)
        assert window.bytes == sum(kept.size for kept in model.kept)
        assert window.floor == ring.floor == model.head - len(model.kept)
        assert ring.evicted == window.floor
        for position in range(model.head + 1):
            if position < window.floor:
                with pytest.raises(PositionExpiredError) as caught:
                    ring.read(position, 1)
                assert caught.value.floor == window.floor
            else:
                read = ring.read(position, 10**6)
                assert [one.seq for one in read] == list(range(position + 1, model.head + 1))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 120))
def test_a_read_is_as_long_as_the_bytes_allow_and_at_least_one(sizes, max_bytes):
    ring = Ring(window_events=100, window_bytes=10**6, window_age_s=1, clock=lambda: 0.0)
    for seq, size in enumerate(sizes, 1):
        ring.push(entry(seq, size, 0.0))
    for position in range(len(sizes)):
        read = ring.read(position, max_bytes)
        assert read[0].seq == position + 1
        total = sum(len(one.frame) for one in read)
        assert len(read) == 1 or total <= max_bytes
        following = position + len(read)
        if following < len(sizes):
            assert total + sizes[following] > max_bytes


def test_a_floor_outlives_what_was_kept():
    ring = Ring(window_events=1, window_bytes=10, window_age_s=1, clock=lambda: 0.0, head=41)
    assert (ring.floor, ring.head, len(ring)) == (41, 41, 0)
    with pytest.raises(PositionExpiredError):
        ring.read(40, 1)
    assert ring.read(41, 1) == []
    ring.push(entry(42, 5, 0.0))
    assert [one.seq for one in ring.read(41, 1)] == [42]


def test_the_list_behind_it_does_not_grow():
    ring = Ring(window_events=3, window_bytes=10**6, window_age_s=1, clock=lambda: 0.0)
    for seq in range(1, 10_001):
        ring.push(entry(seq, 1, 0.0))
        assert len(ring._volume.entries._entries) < 2100
    assert [one.seq for one in ring.read(9_997, 10)] == [9_998, 9_999, 10_000]


def test_entries_come_in_order():
    ring = Ring(window_events=3, window_bytes=10, window_age_s=1, clock=lambda: 0.0)
    with pytest.raises(AssertionError, match="in order"):
        ring.push(entry(2, 1, 0.0))
