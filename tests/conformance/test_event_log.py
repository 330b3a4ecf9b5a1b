"""What every event log holds, whichever store is behind it."""

import json
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.clocks import ManualClock
from yoi_daemon.eventlog.interface import (
    CommitClosedError,
    CommitCutError,
    EventLog,
    PositionExpiredError,
)
from yoi_daemon.model.cursor import Cursor, decode_cursor
from yoi_daemon.model.errors import Refused, StorageFailed
from yoi_daemon.model.events import MAX_EVENT_BYTES, DaemonReady, Draft
from yoi_daemon.store.tables import WORKER_NUMBER, Change, WorkerNumber

LARGE = 1 << 40


@pytest.fixture(params=["memory", "sqlite"])
def opened(request, open_log, open_sqlite_log):
    """Opens a log on the kind of store under test."""
    return {"memory": open_log, "sqlite": open_sqlite_log}[request.param]


@pytest.fixture
async def log(opened):
    async with opened() as log:
        yield log


def draft(number: object = 0, kind: str = "daemon.test", **fields) -> Draft:
    return Draft(kind=kind, data={"number": number}, **fields)


def shown(log: EventLog, position: int = 0) -> list[dict]:
    return [json.loads(entry.message) for entry in log.read(position, LARGE)]


async def test_an_event_is_shown_as_it_was_given(log, wall_clock):
    seq = log.append(
        Draft(
            kind="worker.created",
            data=DaemonReady(version="1"),
            runtime_id="r",
            worker_id="w",
            plugin_id="p",
            correlation_id="c",
        )
    )
    await log.committed(seq)
    assert shown(log) == [
        {
            "type": "event",
            "cursor": log.cursors.encode(seq),
            "seq": 1,
            "time": "2027-01-15T08:00:00.000000Z",
            "kind": "worker.created",
            "runtime_id": "r",
            "worker_id": "w",
            "worker_seq": 1,
            "plugin_id": "p",
            "correlation_id": "c",
            "data": {"version": "1"},
        }
    ]
    (entry,) = log.read(0, LARGE)
    assert (entry.seq, entry.kind, entry.worker, entry.plugin_id) == (
        1,
        "worker.created",
        ("r", "w"),
        "p",
    )


async def test_numbers_have_no_holes_and_nothing_is_shown_before_its_commit(log):
    assert (log.head, log.appended) == (0, 0)
    for number in range(1, 6):
        assert log.append(draft(number)) == number
        assert log.appended == number
        assert (log.head, log.window().head, log.read(0, LARGE)) == (0, 0, [])
    statistics = log.statistics()
    assert (statistics.pending, statistics.committed) == (5, 0)
    assert statistics.pending_bytes > 0
    await log.committed(3)
    await log.committed(5)
    assert [event["seq"] for event in shown(log)] == [1, 2, 3, 4, 5]
    assert [event["data"]["number"] for event in shown(log)] == [1, 2, 3, 4, 5]
    statistics = log.statistics()
    assert (statistics.pending, statistics.pending_bytes, statistics.committed) == (0, 0, 5)
    assert statistics.commits >= 1


async def test_a_commit_that_was_does_not_wait(log):
    await log.committed(log.append(draft()))
    with trio.fail_after(0):
        for _ in range(3):
            await log.committed(1)
            await log.committed(0)


async def test_on_commit_is_called_in_order_when_the_event_can_be_read(log):
    called = []

    def note(seq: int) -> None:
        called.append((seq, log.head >= seq, len(log.read(seq - 1, 1)) == 1))

    for seq in (1, 3, 5):
        log.append(draft(), partial(note, seq))
        log.append(draft())
    assert called == []
    await log.committed(2)
    await log.committed(6)
    assert called == [(seq, True, True) for seq in (1, 3, 5)]


async def test_an_event_may_be_appended_when_another_is_announced(log):
    log.append(draft(1), lambda: log.append(draft(2)) and None)
    await log.committed(2)
    assert [event["data"]["number"] for event in shown(log)] == [1, 2]


async def test_a_cancelled_wait_changes_nothing(log):
    called = []
    with trio.CancelScope() as scope:
        scope.cancel()
        seq = log.append(draft("kept"), lambda: called.append("announced"))
        await log.committed(seq)
    assert scope.cancelled_caught
    await log.committed(seq)
    assert called == ["announced"]
    assert [event["data"]["number"] for event in shown(log)] == ["kept"]


async def test_waiters_are_woken_by_what_they_wait_for(log, nursery):
    woken = []

    async def wait(position: int) -> None:
        await log.wait_beyond(position)
        woken.append(position)

    for position in range(3):
        nursery.start_soon(wait, position)
    await wait_all_tasks_blocked()
    assert woken == []
    for number in range(1, 4):
        await log.committed(log.append(draft()))
        await wait_all_tasks_blocked()
        assert sorted(woken) == list(range(number))


# -- several as one commit


def a_row(number: int) -> Change:
    return WORKER_NUMBER.put(WorkerNumber("r", f"w{number}", number))


async def test_what_a_block_appends_and_records_is_one_commit(log, nursery):
    heads = []

    async def watch() -> None:
        while True:
            await log.wait_beyond(log.head)
            heads.append(log.head)

    nursery.start_soon(watch)
    await wait_all_tasks_blocked()
    for number in (1, 4, 7):
        with log.together() as commit:
            assert commit.append(draft()) == number
            ticket = commit.record([a_row(number)])
            assert log.append(draft()) == number + 1  # whoever appends: it is the same block
            assert commit.append(draft()) == number + 2
        await log.recorded(ticket)
        assert log.head == number + 2
        await wait_all_tasks_blocked()
    assert heads == [3, 6, 9]
    assert log.statistics().commits == 3


async def test_a_block_inside_another_joins_it(log):
    with log.together() as outer:
        outer.append(draft())
        with log.together() as inner:
            inner.append(draft())
        outer.append(draft())
    await log.committed(3)
    assert log.statistics().commits == 1


async def test_the_callbacks_of_a_block_are_called_with_all_of_it_shown(log):
    heads = []
    with log.together() as commit:
        commit.append(draft(), lambda: heads.append(log.head))
        commit.append(draft())
    await log.committed(2)
    assert heads == [2]


async def test_what_was_appended_before_a_block_raised_is_committed(log):
    def append_both() -> None:
        with log.together() as commit:
            commit.append(draft("before"))
            commit.append(draft(object()))

    with pytest.raises(Refused):
        append_both()
    await log.committed(log.append(draft("after")))
    assert [event["data"]["number"] for event in shown(log)] == ["before", "after"]


async def test_a_commit_is_over_with_its_block(log):
    with log.together() as commit:
        commit.append(draft())
    with pytest.raises(CommitClosedError):
        commit.append(draft())
    with pytest.raises(CommitClosedError):
        commit.record([a_row(1)])
    assert log.appended == 1


@pytest.mark.parametrize("where", ["in the block", "in the outer block, after an inner one"])
async def test_a_task_that_yields_in_a_block_fails_the_log_and_half_is_not_committed(opened, where):
    async def live() -> None:
        async with opened() as log:
            kept.append(log)
            with log.together() as commit:
                commit.append(draft("half"))
                if where != "in the block":
                    with log.together():
                        pass
                await trio.sleep_forever()

    kept = []
    with pytest.RaisesGroup(CommitCutError, flatten_subgroups=True):
        await live()
    assert (kept[0].head, kept[0].appended) == (0, 1)


async def test_the_negative_control_without_a_block_a_yield_parts_what_belongs_together(log):
    log.append(draft("half"))
    await log.wait_beyond(0)
    log.append(draft("other half"))
    assert [event["data"]["number"] for event in shown(log)] == ["half"]
    await log.committed(2)
    assert log.statistics().commits == 2


# -- refusals, before a number is given

BAD = {
    "not JSON": {"data": object()},
    "a bad character in the data": {"data": "\ud800"},
    "a bad key": {"data": {("a",): 1}},
    "too large": {"data": "x" * MAX_EVENT_BYTES},
    "a bad character in the kind": {"kind": "gen.\ud800"},
    "a bad character in an id": {"correlation_id": "\udfff", "runtime_id": "r", "worker_id": "w"},
}
CODES = {"too large": "payload_too_large"}


@pytest.mark.parametrize("name", BAD)
async def test_a_refused_event_takes_no_number(log, name):
    log.append(draft("before", runtime_id="r", worker_id="w"))
    with pytest.raises(Refused) as caught:
        log.append(Draft(**{"kind": "gen.bad", "data": None} | BAD[name]))
    assert caught.value.code == CODES.get(name, "invalid_event")
    assert str(caught.value).isprintable()
    assert log.append(draft("after", runtime_id="r", worker_id="w")) == 2
    await log.committed(2)
    assert [event["data"]["number"] for event in shown(log)] == ["before", "after"]
    assert [event["worker_seq"] for event in shown(log)] == [1, 2]


async def test_a_deep_value_is_refused(log):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Refused, match="invalid_event"):
        log.append(draft(deep))
    while deep:  # taken apart by hand: freeing it at once recurses
        deep = deep.pop()


async def test_the_largest_event_is_carried(log):
    text = "x" * (MAX_EVENT_BYTES - 2)
    await log.committed(log.append(Draft(kind="gen.large", data=text)))
    assert shown(log)[0]["data"] == text
    with pytest.raises(Refused, match="payload_too_large"):
        log.append(Draft(kind="gen.large", data=text + "x"))


# -- numbering of workers


async def test_workers_are_numbered_each_by_itself(log):
    for worker in "aabab":
        log.append(draft(kind="worker.test", runtime_id="r", worker_id=worker))
    log.append(draft(kind="worker.test", runtime_id="other", worker_id="a"))
    log.append(draft())
    await log.committed(7)
    assert [event.get("worker_seq") for event in shown(log)] == [1, 2, 1, 3, 2, 1, None]
    log.forget_worker("r", "a")
    log.forget_worker("r", "never was")
    await log.committed(log.append(draft(runtime_id="r", worker_id="b")))
    assert shown(log, 7)[0]["worker_seq"] == 3


# -- the window


async def test_the_window_moves_and_says_what_is_gone(opened):
    async with opened(window_events=3) as log:
        for number in range(1, 11):
            await log.committed(log.append(draft(number)))
        window = log.window()
        assert (window.floor, window.head, window.events) == (7, 10, 3)
        assert window.bytes == sum(len(entry.frame) for entry in log.read(7, LARGE))
        assert log.statistics().evicted == 7
        for position in range(7):
            with pytest.raises(PositionExpiredError) as caught:
                log.read(position, LARGE)
            assert caught.value.floor == 7
        for position in range(7, 11):
            assert [event["seq"] for event in shown(log, position)] == [*range(position + 1, 11)]


async def test_the_window_ages(opened):
    clock = ManualClock(0)
    async with opened(clock=clock, window_age_s=10) as log:
        await log.committed(log.append(draft()))
        clock.advance(6)
        await log.committed(log.append(draft()))
        clock.advance(6)
        window = log.window()
        assert (window.floor, window.head) == (1, 2)
        clock.advance(100)
        assert log.window().events == 1  # the newest is always kept


async def test_a_read_is_cut_at_its_bytes(log):
    for number in range(10):
        log.append(draft(number))
    await log.committed(10)
    size = len(log.read(0, 1)[0].frame)
    assert [entry.seq for entry in log.read(0, 1)] == [1]
    assert [entry.seq for entry in log.read(4, 3 * size)] == [5, 6, 7]
    assert log.read(10, LARGE) == []


async def test_cursors_are_of_this_log(opened):
    async with opened() as log:
        assert log.cursors.epoch == "00112233aabbccdd"
        await log.committed(log.append(draft()))
        assert decode_cursor(shown(log)[0]["cursor"]) == Cursor(log.cursors.epoch, 1)


# -- room


async def test_producers_of_volume_wait_while_much_is_uncommitted(log, nursery):
    passed = trio.Event()

    async def produce() -> None:
        await log.room()
        passed.set()

    await log.room()
    for _ in range(70):
        log.append(draft("x" * 250_000))
    with trio.CancelScope() as scope:
        scope.cancel()
        await log.room()
    assert scope.cancelled_caught  # there was none
    nursery.start_soon(produce)
    await passed.wait()
    assert log.statistics().pending_bytes == 0


# -- the end


async def test_the_last_words_of_cancelled_users_are_committed(opened):
    words = []

    async def user(log: EventLog, name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append(draft(name), lambda: words.append(name))

    async with opened() as log:
        async with trio.open_nursery() as users:
            for name in "abc":
                users.start_soon(user, log, name)
            await wait_all_tasks_blocked()
            users.cancel_scope.cancel()
        log.append(draft("last"), lambda: words.append("last"))
    assert sorted(words[:3]) == ["a", "b", "c"]
    assert words[3:] == ["last"]
    assert log.head == 4


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_however_the_context_ends_what_was_appended_is_committed(opened, end):
    words = []
    kept = []

    async def live(scope: trio.CancelScope) -> None:
        async with opened() as log:
            kept.append(log)
            try:
                if end == "failed":
                    raise KeyError("a fault of the body")
                scope.cancel()
                await trio.sleep_forever()
            finally:
                log.append(draft("last"), lambda: words.append("last"))

    with trio.CancelScope() as scope:
        if end == "failed":
            with pytest.RaisesGroup(KeyError, flatten_subgroups=True):
                await live(scope)
        else:
            await live(scope)
    assert words == ["last"]
    assert kept[0].head == 1


async def test_the_negative_control_a_writer_that_can_be_cancelled_loses_the_last_words(open_log):
    """The same users over a log whose writer is an ordinary task: the test above would fail."""
    words = []
    async with open_log() as whole:
        pass
    log = type(whole)(whole._store, whole._ring, wall_clock=float)

    async def cancellable_writer() -> None:
        while True:
            await log._writer.park()
            await trio.lowlevel.checkpoint()
            await log._commit()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancellable_writer)
            await wait_all_tasks_blocked()
            scope.cancel()
            log.append(draft("last"), lambda: words.append("last"))
    assert words == []


async def test_a_closed_log_refuses_in_its_own_type(opened):
    async with opened() as log:
        await log.committed(log.append(draft()))
    with pytest.raises(StorageFailed):
        log.append(draft())
    with pytest.raises(StorageFailed):
        await log.committed(2)
    with pytest.raises(StorageFailed):
        await log.wait_beyond(1)
    await log.committed(1)
    assert [event["seq"] for event in shown(log)] == [1]
    assert log.appended == 1


async def test_waiters_learn_of_the_end(opened):
    told = []

    async def wait(log: EventLog) -> None:
        try:
            await log.wait_beyond(0)
        except StorageFailed:
            told.append("failed")

    async with trio.open_nursery() as nursery, opened() as log:
        nursery.start_soon(wait, log)
        await wait_all_tasks_blocked()
    assert told == ["failed"]


async def test_a_log_that_failed_says_why(opened):
    def fault() -> None:
        raise OSError("disk")

    @asynccontextmanager
    async def failing():
        async with opened() as log:
            log.append(draft(), fault)
            yield log

    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with failing() as log:
            with pytest.raises((StorageFailed, trio.Cancelled)):
                await log.committed(2)
            await trio.sleep_forever()
    with pytest.raises(StorageFailed) as caught:
        log.append(draft())
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_log_with_nothing_to_do_rests(log):
    """An event appended while another is committed once left the writer awake for good, on a whole core."""
    with trio.fail_after(5):
        for _ in range(30):  # whether the writer or this task runs first is chance
            log.append(draft())
            await trio.lowlevel.checkpoint()
            log.append(draft())
            await wait_all_tasks_blocked()
        await log.committed(60)
        await wait_all_tasks_blocked()
