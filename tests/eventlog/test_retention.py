"""Two retention classes, indexed by scope, with floors that outlive what they held."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.eventlog import retention
from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.filter import EVERYTHING, Filter
from yoi_daemon.eventlog.interface import PositionExpiredError
from yoi_daemon.eventlog.ring import SCAN_ENTRIES, Ring

LIFECYCLE, VOLUME = "worker.state", "worker.item"
KINDS = [LIFECYCLE, VOLUME, "plugin.state", "gen.tick"]
W = ("r", "w")


def open_ring(events: int = 10, max_bytes: int = 10**9, clock=lambda: 0.0) -> Ring:
    return Ring(window_events=events, window_bytes=max_bytes, window_age_s=100, clock=clock)


def push(ring: Ring, kind: str, worker=None, plugin_id=None, size: int = 10, now: float = 0.0):
    ring.push(Entry(ring.head + 1, kind, worker, plugin_id, now, bytes(size)))


def seqs(ring: Ring, wanted: Filter, position: int) -> list[int]:
    found: list[int] = []
    while position < ring.head:
        look = ring.scan(wanted, position, 35)
        assert look.position > position
        found += [entry.seq for entry in look.entries]
        position = look.position
    return found


def test_a_flood_of_output_does_not_evict_lifecycle_events():
    ring = open_ring(events=10)
    for _ in range(5):
        push(ring, LIFECYCLE, W)
    for _ in range(1000):
        push(ring, VOLUME, W)
    assert seqs(ring, Filter(kinds=("worker.state",)), 0) == [1, 2, 3, 4, 5]
    assert len(ring) == 10
    with pytest.raises(PositionExpiredError):
        ring.scan(EVERYTHING, 5, 1)  # the hole is not silent
    with pytest.raises(PositionExpiredError):
        ring.scan(Filter(worker=W), 5, 1)


def test_nor_by_bytes_and_an_idle_lane_lends_its_share():
    ring = open_ring(events=1000, max_bytes=1000)
    for _ in range(200):
        push(ring, VOLUME)
    assert ring.bytes == 1000
    for _ in range(60):
        push(ring, LIFECYCLE)
    assert {name: retention.bytes for name, retention in ring.retentions().items()} == {
        "lifecycle": 500,
        "volume": 500,
    }
    for _ in range(200):
        push(ring, VOLUME)
    assert ring.retentions()["lifecycle"].bytes == 500


def test_the_negative_control_one_class_loses_lifecycle_events(monkeypatch):
    monkeypatch.setattr("yoi_daemon.eventlog.ring.retention_of", lambda entry: "volume")
    ring = open_ring(events=10)
    push(ring, LIFECYCLE, W)
    for _ in range(1000):
        push(ring, VOLUME, W)
    assert seqs(ring, Filter(kinds=("worker.state",)), 0) == []


def test_floors_are_each_scopes_own_and_outlive_the_content():
    ring = open_ring(events=6)
    for _ in range(3):
        push(ring, VOLUME, W)
    for _ in range(50):
        push(ring, "gen.tick", plugin_id="gen")
    assert seqs(ring, Filter(worker=W), 3) == []
    assert ring.floor_of(Filter(worker=W)) == 3  # though nothing of it is left, and no more comes
    for position in (0, 1, 2):
        with pytest.raises(PositionExpiredError) as caught:
            ring.scan(Filter(worker=W), position, 1)
        assert caught.value.floor == 3
    # A subscriber that missed nothing is not called expired.
    assert ring.floor_of(Filter(worker=("r", "never"))) == 0
    assert ring.floor_of(Filter(plugin_id="gen")) == ring.floor == 47
    assert ring.floor_of(Filter(worker=W, kinds=("worker.state",))) == 0


def test_forgotten_watermarks_are_shared_never_lowered(monkeypatch):
    monkeypatch.setattr(retention, "MAX_WATERMARKS", 4)
    ring = open_ring(events=1)
    for number in range(20):
        push(ring, VOLUME, ("r", str(number)))
    for number in range(19):
        assert ring.floor_of(Filter(worker=("r", str(number)))) >= number + 1
    assert ring.floor_of(Filter(worker=("r", "18"))) == 19
    assert ring.floor_of(Filter(worker=("r", "0"))) == 15


entries = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from([None, ("r", "a"), ("r", "b")]),
        st.sampled_from([None, "gen", "x"]),
        st.integers(0, 30),
    ),
    max_size=60,
)
filters = st.builds(
    Filter,
    worker=st.sampled_from([None, None, ("r", "a")]),
    plugin_id=st.sampled_from([None, None, "gen"]),
    kinds=st.sampled_from(
        [(), ("worker.",), ("worker.state",), ("worker.item", "plugin"), ("gen",)]
    ),
)


@given(entries, st.integers(1, 30), st.integers(1, 300), st.lists(filters, min_size=1, max_size=5))
def test_every_position_is_replayed_exactly_or_expired_never_both_never_neither(
    pushed, events, max_bytes, wanted
):
    ring = open_ring(events, max_bytes)
    every: list[Entry] = []
    for kind, worker, plugin_id, size in pushed:
        every.append(Entry(len(every) + 1, kind, worker, plugin_id, 0.0, bytes(size)))
        ring.push(every[-1])
    kept = {
        entry.seq
        for retention in ("_lifecycle", "_volume")
        for entry in _all(getattr(ring, retention))
    }
    assert len(kept) == len(ring) <= events or len(kept) == 1
    for one in wanted:
        for position in range(ring.head + 1):
            expected = [entry.seq for entry in every if entry.seq > position and one.matches(entry)]
            try:
                assert seqs(ring, one, position) == expected
            except PositionExpiredError:
                assert position < ring.floor_of(one)
            if not set(expected) <= kept:
                assert position < ring.floor_of(one)
            elif not one.kinds and not (one.worker and one.plugin_id):
                assert position >= ring.floor_of(one)  # nothing it wants is gone


def _all(retention) -> list[Entry]:
    return retention.after(None, 0, 10**6)


def test_one_scan_passes_a_bounded_number_of_entries_and_stops_at_its_limit():
    ring = open_ring(events=10**6)
    for _ in range(SCAN_ENTRIES * 2):
        push(ring, "gen.tick")
    none = Filter(kinds=("other.",))
    assert ring.scan(none, 0, 1) == ([], SCAN_ENTRIES)
    assert ring.scan(none, SCAN_ENTRIES, 1, up_to=SCAN_ENTRIES + 7) == ([], SCAN_ENTRIES + 7)
    assert ring.scan(Filter(worker=W), 0, 1) == ([], ring.head)  # the index has nothing to pass


def test_the_next_floor_rises_only_for_filters_that_can_miss_an_eviction():
    now = [0.0]
    ring = open_ring(events=16, clock=lambda: now[0])
    for _ in range(13):
        push(ring, "gen.tick", plugin_id="gen")
    narrow = Filter(kinds=("gen.other",))
    assert ring.next_floor(narrow) == 0
    now[0] = 90.0
    assert ring.next_floor(narrow) == 2  # by age
    now[0] = 0.0
    push(ring, "gen.tick", plugin_id="gen")
    assert ring.next_floor(narrow) == 2  # by count
    assert ring.next_floor(EVERYTHING) == 2
    assert ring.next_floor(Filter(plugin_id="gen")) == 0
    assert ring.next_floor(Filter(kinds=("plugin.state",))) == 0  # another retention


def test_empty_indexes_are_removed():
    ring = open_ring(events=3)
    for number in range(100):
        push(ring, VOLUME, ("r", str(number)), "gen")
    assert ring.retentions()["volume"].scopes == 4
