import json
from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.stream.transport import MemoryTransport
from yoi_daemon.eventlog.fanout import PROGRESS_EVENTS, Fanout
from yoi_daemon.eventlog.filter import EVERYTHING, Filter
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.errors import StorageFailed
from yoi_daemon.model.events import Draft, WorkerStateChanged
from yoi_daemon.model.settings import ObserveSettings
from yoi_daemon.model.workers import WorkerSummary
from yoi_daemon.stream.draining import DrainSchedule
from yoi_daemon.stream.protocol import Loss, Snapshot, Start, StreamQuery, StreamRefused, find_start
from yoi_daemon.stream.session import DatedSnapshot, Scope, Session

HEARTBEAT_S = 15.0


def session_on(fanout, transport, draining=None) -> Session:
    drain = DrainSchedule(
        trio.Event() if draining is None else draining,
        spread_s=1.0,
        count=lambda: 0,
        uniform=lambda low, high: (low + high) / 2,
    )
    return Session(fanout, transport, heartbeat_s=HEARTBEAT_S, drain=drain)


def start_at(cursor: str, log, wanted: Filter = EVERYTHING) -> Start:
    return find_start(StreamQuery(cursor=cursor), wanted, log)


def everything(**asks) -> Scope:
    return Scope(wanted=EVERYTHING, **asks)


class Followed:
    """A session under way in a test's nursery."""

    def __init__(self, log, nursery, fanout=None) -> None:
        self.log = log
        self.fanout = fanout or Fanout(log)
        self.transport = MemoryTransport()
        self.draining = trio.Event()
        self.is_over = trio.Event()
        self._nursery = nursery
        if fanout is None:
            nursery.start_soon(self.fanout.run)
        nursery.start_soon(self.fanout.wake_all_at, self.draining)

    async def begin(self, cursor: str = "latest", wanted: Filter = EVERYTHING, **asks) -> None:
        start = start_at(cursor, self.log, wanted)

        async def run() -> None:
            session = session_on(self.fanout, self.transport, self.draining)
            await session.run(Scope(wanted=wanted, **asks), start)
            self.is_over.set()

        self._nursery.start_soon(run)
        await wait_all_tasks_blocked()

    async def append(self, kind: str = "a.b", **fields) -> None:
        await self.log.committed(self.log.append(Draft(kind=kind, data=0, **fields)))
        await wait_all_tasks_blocked()


@pytest.fixture
def followed(event_log, nursery) -> Followed:
    return Followed(event_log, nursery)


async def test_hello_then_the_live_bookmark_then_events(followed):
    await followed.append()
    await followed.begin()
    assert followed.transport.types == ["hello", "bookmark live"]
    hello, live = followed.transport.messages
    assert hello["resume"] == "live"
    assert live["cursor"] == hello["cursor"] == followed.log.cursors.encode(1)
    assert hello["window"]["head"] == hello["cursor"]
    assert live["delivered"] == 0
    await followed.append()
    await followed.append()
    assert followed.transport.types == ["hello", "bookmark live", "event", "event"]
    assert followed.transport.numbers == [2, 3]


async def test_replay_comes_before_the_live_bookmark(followed):
    for _ in range(3):
        await followed.append()
    await followed.begin("earliest")
    assert followed.transport.types == ["hello", "event", "event", "event", "bookmark live"]
    live = followed.transport.of("bookmark")[0]
    assert (live["cursor"], live["delivered"]) == (followed.log.cursors.encode(3), 3)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 6))
def test_cut_off_anywhere_and_resumed_gives_exactly_the_rest(count, cut_after, later):
    """Cut after so many messages; the last cursor told resumes, and no event is doubled or lost."""

    async def follow_until_cut(session: Session, start: Start) -> None:
        with suppress(trio.BrokenResourceError):
            await session.run(everything(), start)

    async def main() -> None:
        async with open_event_log(ObserveSettings()) as log:
            for number in range(count):
                log.append(Draft(kind="a.b", data=number))
            await log.committed(count)
            first = MemoryTransport()
            first.cut_after = 1 + cut_after
            async with trio.open_nursery() as nursery:
                fanout = Fanout(log)
                nursery.start_soon(fanout.run)
                start = start_at("earliest", log)
                nursery.start_soon(follow_until_cut, session_on(fanout, first), start)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            for number in range(later):
                log.append(Draft(kind="a.b", data=count + number))
            await log.committed(count + later)
            told = [message["cursor"] for message in first.messages if "cursor" in message]
            start = start_at(told[-1] if told else "earliest", log)
            second = MemoryTransport()
            async with trio.open_nursery() as nursery:
                fanout = Fanout(log)
                nursery.start_soon(fanout.run)
                nursery.start_soon(session_on(fanout, second).run, everything(), start)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert first.numbers + second.numbers == list(range(1, count + later + 1))

    trio.run(main)


async def test_resume_at_every_position_gives_exactly_the_rest(followed, nursery):
    for _ in range(10):
        await followed.append()
    for position in range(11):
        other = Followed(followed.log, nursery, followed.fanout)
        await other.begin(followed.log.cursors.encode(position))
        assert other.transport.messages[0]["resume"] == "exact"
        assert other.transport.numbers == list(range(position + 1, 11))


async def test_every_subscriber_gets_the_same_bytes_filtered(followed, nursery):
    await followed.begin(wanted=Filter(plugin_id="gen"))
    await followed.append("gen.tick", plugin_id="gen")
    await followed.append("other.tick", plugin_id="other")
    await followed.append("gen.tick", plugin_id="gen")
    assert followed.transport.numbers == [1, 3]


async def test_silence_is_broken_by_a_bookmark(followed, autojump_clock):
    await followed.begin()
    await trio.sleep(HEARTBEAT_S * 3 + 1)
    assert followed.transport.types == ["hello", "bookmark live", *["bookmark idle"] * 3]
    await followed.append()
    await trio.sleep(HEARTBEAT_S - 1)
    assert followed.transport.types[-1] == "event"  # counted from the event, not from the last one
    await trio.sleep(2)
    assert followed.transport.types[-1] == "bookmark idle"
    assert followed.transport.messages[-1]["delivered"] == 1


async def test_events_that_a_filter_drops_do_not_delay_the_heartbeat(followed, autojump_clock):
    """A subscriber that hears nothing must hear a bookmark, however busy the others are."""
    await followed.begin(wanted=Filter(kinds=("gen",)))
    for _ in range(40):
        await trio.sleep(1)
        await followed.append("other.tick")
    assert followed.transport.types == ["hello", "bookmark live", "bookmark idle", "bookmark idle"]
    cursor = followed.transport.messages[-1]["cursor"]
    assert start_at(cursor, followed.log).position in (29, 30)  # it moves past what was filtered


async def test_one_event_kept_back_does_not_prolong_the_silence(followed, autojump_clock):
    await followed.begin(wanted=Filter(kinds=("gen",)))
    await trio.sleep(HEARTBEAT_S - 1)
    await followed.append("other.tick")
    await trio.sleep(1.5)
    assert followed.transport.types == ["hello", "bookmark live", "bookmark idle"]


async def test_draining_tells_where_it_ended_then_closes(followed):
    await followed.begin()
    await followed.append()
    followed.log.append(Draft(kind="daemon.draining", data={}))
    followed.draining.set()
    await followed.is_over.wait()
    assert followed.transport.types == [
        "hello",
        "bookmark live",
        "event",
        "event",
        "bookmark draining",
        "error",
    ]
    mark, error = followed.transport.messages[-2:]
    assert mark["cursor"] == error["cursor"] == followed.log.cursors.encode(2)
    assert (error["code"], error["reason"]) == ("shutting_down", "draining")
    assert error["retry"] == {"after_s": 1.1}
    assert followed.transport.closed == (1012, "shutting_down")


async def test_draining_waits_until_everything_was_delivered(followed):
    for _ in range(20):
        followed.log.append(Draft(kind="a.b", data="x" * 20_000))
    await followed.log.committed(20)
    followed.draining.set()
    await followed.begin("earliest")
    await followed.is_over.wait()
    assert followed.transport.numbers == list(range(1, 21))
    assert followed.transport.closed == (1012, "shutting_down")


async def test_an_overrun_subscriber_gets_an_error(open_log, nursery):
    async with open_log(window_events=5) as log:
        followed = Followed(log, nursery)
        await followed.append()
        await followed.begin()
        followed.transport.may_take = trio.Event()
        await followed.append()  # it is stuck in sending this one
        for _ in range(10):
            await followed.append()
        followed.transport.may_take.set()
        await followed.is_over.wait()
        assert followed.transport.numbers == [2]
        error = followed.transport.messages[-1]
        assert (error["code"], error["reason"]) == ("slow_consumer", "overrun")
        assert error["cursor"] == log.cursors.encode(2)
        assert error["floor"] == log.cursors.encode(7)
        assert followed.transport.closed == (4008, "slow_consumer")
        with pytest.raises(StreamRefused, match="evicted"):
            start_at(error["cursor"], log)
        nursery.cancel_scope.cancel()


async def test_a_stalled_subscriber_gets_an_error_without_a_cursor(followed):
    await followed.begin()
    message, reason = followed.transport.farewell
    assert reason == "slow_consumer"
    told = json.loads(message())
    assert (told["type"], told["code"], told["reason"]) == ("error", "slow_consumer", "stalled")
    assert "cursor" not in told  # what is unsent is dropped: only the subscriber knows what it has


async def test_a_slow_subscriber_makes_no_publisher_wait(followed):
    await followed.begin()
    followed.transport.may_take = trio.Event()
    for _ in range(100):  # synchronous: there is nothing it could wait for
        followed.log.append(Draft(kind="a.b", data=0))
    await followed.log.committed(100)
    followed.transport.may_take.set()
    await wait_all_tasks_blocked()
    assert followed.transport.numbers == list(range(1, 101))


@pytest.mark.parametrize("code", ["cursor_unknown", "cursor_expired", "bad_request"])
async def test_a_refused_cursor_gets_only_an_error(event_log, code):
    transport = MemoryTransport()
    await session_on(Fanout(event_log), transport).refuse(StreamRefused(code, "why", "detail"))
    assert transport.types == ["error"]
    assert transport.messages[0]["code"] == code
    assert "cursor" not in transport.messages[0]
    assert transport.closed is not None
    assert 4400 <= transport.closed[0] < 4500


async def test_a_peer_that_is_gone_ends_the_session(event_log):
    transport = MemoryTransport()
    transport.cut_after = 1
    with pytest.raises(trio.BrokenResourceError):
        await session_on(Fanout(event_log), transport).run(
            everything(), start_at("latest", event_log)
        )
    assert transport.types == ["hello"]


async def test_a_log_that_ends_ends_the_session(open_log):
    transport = MemoryTransport()
    with pytest.RaisesGroup(StorageFailed, flatten_subgroups=True):
        async with trio.open_nursery() as nursery, open_log() as log:
            fanout = Fanout(log)
            nursery.start_soon(fanout.run)
            nursery.start_soon(
                session_on(fanout, transport).run, everything(), start_at("latest", log)
            )
            await wait_all_tasks_blocked()
    assert transport.types == ["hello", "bookmark live"]


WORKER = ("r", "w")


def state(log, number: int) -> WorkerSummary:
    return WorkerSummary(
        runtime_id="r",
        worker_id="w",
        implementation_kind="embedded",
        label="",
        profile="p",
        state="stopped",
        generation=number,
        created_at="",
    )


async def test_an_accepted_gap_is_reported_with_its_exact_range(followed, nursery):
    for _ in range(3):
        await followed.append()
    loss = Loss(from_cursor="old", reason="evicted")
    start = Start(position=1, resume="earliest", loss=loss)
    session = session_on(followed.fanout, followed.transport)
    nursery.start_soon(session.run, everything(), start)
    await wait_all_tasks_blocked()
    assert followed.transport.types == ["hello", "gap", "event", "event", "bookmark live"]
    assert followed.transport.of("gap")[0]["from"] == "old"
    assert followed.transport.of("gap")[0]["cursor"] == followed.log.cursors.encode(1)


@pytest.mark.parametrize("cursor", ["latest", "earliest"])
async def test_a_snapshot_stands_exactly_at_its_position(followed, cursor):
    """What is before it was delivered where the subscriber resumes; what is after it will be."""
    for _ in range(3):
        await followed.append()

    async def snapshot() -> DatedSnapshot:
        at = followed.log.head
        for _ in range(3):  # the log goes on meanwhile
            await followed.log.committed(followed.log.append(Draft(kind="a.b", data=0)))
        return DatedSnapshot(Snapshot(cursor=followed.log.cursors.encode(at), workers=()), at)

    await followed.begin(cursor, snapshot=snapshot)
    before = ["event"] * 3 if cursor == "earliest" else []
    assert followed.transport.types == [
        "hello",
        *before,
        "snapshot",
        *["event"] * 3,
        "bookmark live",
    ]
    assert followed.transport.numbers[-3:] == [4, 5, 6]


async def test_the_end_comes_when_everything_was_delivered(followed):
    over = trio.Event()
    final_state = WorkerStateChanged(state="stopped", before="idle", generation=1)

    def final() -> WorkerSummary | None:
        return state(followed.log, 1) if over.is_set() else None

    await followed.begin(wanted=Filter(worker=WORKER, kinds=("worker.item",)), final=final)
    ids = {"runtime_id": "r", "worker_id": "w"}
    await followed.append("worker.item", **ids)
    assert not followed.is_over.is_set()
    over.set()
    followed.log.append(Draft(kind="worker.item", data=0, **ids))
    followed.log.append(Draft(kind="worker.state", data=final_state, **ids))
    await followed.is_over.wait()
    assert followed.transport.types == ["hello", "bookmark live", "event", "event", "end"]
    assert followed.transport.messages[-1]["worker"]["state"] == "stopped"
    assert followed.transport.messages[-1]["cursor"] == followed.log.cursors.encode(3)
    assert followed.transport.closed == (1000, "end")


async def test_a_subscriber_whose_filter_skips_much_gets_bookmarks(followed):
    await followed.begin(wanted=Filter(kinds=("gen",)))
    for _ in range(PROGRESS_EVENTS + 200):
        followed.log.append(Draft(kind="other.tick", data=0))
    await followed.log.committed(PROGRESS_EVENTS)
    await wait_all_tasks_blocked()
    assert followed.transport.types == ["hello", "bookmark live", "bookmark progress"]
    assert start_at(followed.transport.messages[-1]["cursor"], followed.log).position >= (
        PROGRESS_EVENTS
    )


async def test_a_quiet_subscriber_gets_a_bookmark_before_the_floor_passes_its_last_one(
    open_log, nursery
):
    async with open_log(window_events=1000) as log:
        followed = Followed(log, nursery)
        wanted = Filter(kinds=("gen",))
        await followed.begin(wanted=wanted)
        for _ in range(100):
            for _ in range(50):
                log.append(Draft(kind="other.tick", data=0))
            await log.committed(log.appended)
            await wait_all_tasks_blocked()
            told = followed.transport.messages[-1]["cursor"]
            assert start_at(told, log, wanted).resume == "exact"  # at no time is it expired
        assert set(followed.transport.types[2:]) == {"bookmark evicting"}
        assert 5 <= len(followed.transport.types[2:]) <= 20
        nursery.cancel_scope.cancel()


async def test_one_that_is_expired_by_a_burst_is_overrun_and_others_go_on(open_log, nursery):
    async with open_log(window_events=100) as log:
        all_of_it = Followed(log, nursery)
        other = Followed(log, nursery, all_of_it.fanout)
        await all_of_it.begin()
        await other.begin(wanted=Filter(kinds=("plugin.state",)))
        log.append(Draft(kind="plugin.state", data=0))
        for _ in range(1000):
            log.append(Draft(kind="gen.tick", data=0))
        await log.committed(1001)
        await wait_all_tasks_blocked()
        assert all_of_it.transport.closed == (4008, "slow_consumer")
        assert other.transport.numbers == [1]
        assert other.transport.closed is None
        nursery.cancel_scope.cancel()


async def test_closes_are_spread_and_each_goes_on_until_its_own(followed, autojump_clock):
    drain = DrainSchedule(
        followed.draining, spread_s=2.0, count=lambda: 1000, uniform=lambda _, high: high
    )
    session = session_on(followed.fanout, followed.transport)
    session._drain = drain
    followed.draining.set()
    begun_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run, everything(), start_at("latest", followed.log))
        await trio.sleep(1)
        await followed.append()
        assert followed.transport.numbers == [1]
    assert trio.current_time() - begun_s == pytest.approx(2.0)
    assert followed.transport.types[-2:] == ["bookmark draining", "error"]
    assert followed.transport.messages[-1]["retry"] == {"after_s": 5.0}
