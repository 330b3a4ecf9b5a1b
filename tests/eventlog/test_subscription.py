import json
from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.eventlog.filter import Filter
from yoi_daemon.eventlog.interface import PositionExpiredError
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.eventlog.subscription import CHUNK_BYTES, Subscription
from yoi_daemon.model.events import Draft, matches_kind
from yoi_daemon.model.frames import payload_of
from yoi_daemon.model.settings import ObserveSettings

KINDS = ["worker.state", "worker.turn.started", "plugin.state", "gen.tick", "workerx.state"]
drafts = st.lists(
    st.builds(
        Draft,
        kind=st.sampled_from(KINDS),
        data=st.integers(0, 9),
        runtime_id=st.just("r"),
        worker_id=st.sampled_from([None, "a", "b"]),
        plugin_id=st.sampled_from([None, "gen", "other"]),
    ),
    max_size=25,
)
filters = st.builds(
    Filter,
    worker=st.sampled_from([None, ("r", "a"), ("s", "a")]),
    plugin_id=st.sampled_from([None, "gen"]),
    kinds=st.lists(st.sampled_from(["worker.", "worker", "plugin.state", "gen"]), max_size=2).map(
        tuple
    ),
)


def expected(wanted: Filter, drafts: list[Draft], position: int) -> list[int]:
    return [
        seq
        for seq, draft in enumerate(drafts, 1)
        if seq > position
        and (wanted.worker is None or (draft.runtime_id, draft.worker_id) == wanted.worker)
        and (wanted.plugin_id is None or draft.plugin_id == wanted.plugin_id)
        and (not wanted.kinds or any(matches_kind(draft.kind, one) for one in wanted.kinds))
    ]


@given(drafts, filters, st.integers(1, 25), st.integers(0, 24))
def test_every_matching_event_once_from_any_position_or_the_position_is_expired(
    drafts, wanted, window_events, split
):
    async def main() -> None:
        settings = ObserveSettings(window_events=window_events)
        async with open_event_log(settings) as log:
            readers = {}
            for draft in drafts[:split]:
                log.append(draft)
            await log.committed(log.appended)
            floor = log.floor_of(wanted)
            for position in range(log.head + 1):
                readers[position] = Subscription(log, wanted, position), []
            for draft in drafts[split:]:
                await log.committed(log.append(draft))
                for position, (reader, got) in readers.items():
                    if position >= floor and (position + log.head) % 3 == 0:
                        _take_all(reader, got)
            floor = log.floor_of(wanted)
            for position, (reader, got) in readers.items():
                before = reader.position
                if before < floor:
                    with pytest.raises(PositionExpiredError):
                        reader.take()
                    assert reader.position == before  # it can be told from where it is missing
                    assert got == expected(wanted, drafts[:before], position)
                else:
                    _take_all(reader, got)
                    assert got == expected(wanted, drafts, position)
                    assert reader.delivered == len(got)
                    assert reader.caught_up

    trio.run(main)


def _take_all(reader: Subscription, got: list[int]) -> None:
    with suppress(PositionExpiredError):
        while not reader.caught_up:
            got += [json.loads(payload_of(frame))["seq"] for frame in reader.take()]


async def test_one_take_is_bounded(event_log):
    for _ in range(10):
        event_log.append(Draft(kind="a.b", data="x" * 20_000))
    await event_log.committed(10)
    reader = Subscription(event_log, Filter(), 0)
    takes = []
    while not reader.caught_up:
        frames = reader.take()
        assert sum(map(len, frames)) <= CHUNK_BYTES
        takes.append(len(frames))
    assert takes == [3, 3, 3, 1]


async def test_the_same_bytes_for_everyone(event_log):
    event_log.append(Draft(kind="worker.state", data=1, runtime_id="r", worker_id="a"))
    await event_log.committed(1)
    (one,) = Subscription(event_log, Filter(), 0).take()
    (two,) = Subscription(event_log, Filter(worker=("r", "a"), kinds=("worker",)), 0).take()
    assert one is two


async def test_it_waits_beyond_where_it_looked_matching_or_not(event_log, nursery, autojump_clock):
    reader = Subscription(event_log, Filter(kinds=("gen",)), 0)
    event_log.append(Draft(kind="other.a", data=1))
    await reader.wait()
    assert list(reader.take()) == []
    assert (reader.position, reader.delivered, reader.caught_up) == (1, 0, True)
    with trio.move_on_after(60) as scope:
        await reader.wait()
    assert scope.cancelled_caught
    event_log.append(Draft(kind="gen.a", data=1))
    await reader.wait()
    assert len(reader.take()) == 1
