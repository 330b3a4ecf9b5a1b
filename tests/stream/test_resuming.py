"""Cut off anywhere, or quiet while others are loud: what a subscriber was told resumes exactly."""

import json
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.stream.test_session import HEARTBEAT_S, Followed, session_on, start_at
from tests.stream.transport import messages_in
from yoi_daemon.eventlog.fanout import Fanout, Subscriber
from yoi_daemon.eventlog.filter import EVERYTHING, Filter
from yoi_daemon.eventlog.retention import RetentionClass
from yoi_daemon.model.events import Draft
from yoi_daemon.model.frames import Transport
from yoi_daemon.stream.protocol import StreamRefused
from yoi_daemon.stream.session import Scope

HISTORY = 500


class Wire(Transport):
    """A connection that is cut behind so many frames; what is left of the write is lost with it."""

    def __init__(self, cut_after: int) -> None:
        self.frames: list[bytes] = []
        self._cut_after = cut_after

    stalled = False

    def when_stalled(self, *_: object) -> None: ...

    def abort(self) -> None: ...

    def offer(self, frames: bytes) -> bool:
        left = self._cut_after - len(self.frames)
        self.frames += messages_in(frames)[:left]
        return True

    def lend(self, *_: object) -> None: ...

    def keep(self, *_: object) -> None: ...

    async def drained(self) -> None:
        await trio.lowlevel.checkpoint()
        if len(self.frames) >= self._cut_after:
            raise trio.BrokenResourceError

    async def close(self, reason: str) -> None: ...


async def follow(fanout: Fanout, cursor: str, wanted: Filter, cut_after: int) -> list[bytes]:
    """The frames that got through before the cut, or until the subscriber was at rest."""
    wire = Wire(cut_after)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with suppress(trio.BrokenResourceError):
                session = session_on(fanout, wire)
                await session.run(Scope(wanted=wanted), start_at(cursor, fanout.log, wanted))

        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return wire.frames


def events_of(frames: list[bytes]) -> list[bytes]:
    return [frame for frame in frames if frame.startswith(b'{"type":"event"')]


def last_cursor(frames: list[bytes]) -> str:
    return json.loads(frames[-1])["cursor"] if frames else "earliest"


async def cut_everywhere(log, wanted: Filter) -> None:
    async with trio.open_nursery() as nursery:
        fanout = Fanout(log)
        nursery.start_soon(fanout.run)
        whole = await follow(fanout, "earliest", wanted, 10**6)
        for cut_after in range(len(whole) + 1):
            first = await follow(fanout, "earliest", wanted, cut_after)
            assert len(first) == cut_after
            rest = await follow(fanout, last_cursor(first), wanted, 10**6)
            assert events_of(first) + events_of(rest) == events_of(whole), cut_after
        nursery.cancel_scope.cancel()


@pytest.fixture
async def history(event_log):
    for number in range(HISTORY):
        kind = "gen.tick" if number % 3 else "plugin.state"
        event_log.append(Draft(kind=kind, data={"number": number, "filler": "x" * 250}))
    await event_log.committed(HISTORY)
    return event_log


@pytest.mark.parametrize("wanted", [EVERYTHING, Filter(kinds=("plugin.",))], ids=["all", "some"])
async def test_cut_at_every_frame_of_a_history_and_resumed_is_the_whole_log(history, wanted):
    await cut_everywhere(history, wanted)


async def test_control_a_reader_that_reports_what_it_skipped_is_caught(history, monkeypatch):
    take = Subscriber.write_next

    def hasty(self, up_to=None):
        if self.position % 7 == 5:
            self.position += 1
        return take(self, up_to)

    monkeypatch.setattr(Subscriber, "write_next", hasty)
    with pytest.RaisesGroup(AssertionError):
        await cut_everywhere(history, EVERYTHING)


# -- the window filled by others

W, OTHER, NEVER = ("r", "w"), ("r", "other"), ("r", "never")


class Story:
    """W wrote a little and fell silent; others filled the window until nothing of W's was left."""

    def __init__(self, log, nursery) -> None:
        self.log = log
        self.live = Followed(log, nursery)
        self.nursery = nursery

    async def write(self, worker: tuple[str, str], count: int) -> None:
        for _ in range(count):
            ids = {"runtime_id": worker[0], "worker_id": worker[1]}
            self.log.append(Draft(kind="worker.item", data="x", **ids))
        await self.log.committed(self.log.appended)
        await wait_all_tasks_blocked()

    async def tell(self) -> None:
        await self.live.begin(wanted=Filter(worker=W))
        await self.write(W, 5)
        old = self.live.transport.messages[4]["cursor"]
        await trio.sleep(HEARTBEAT_S + 1)
        assert self.live.transport.types[-1] == "bookmark idle"
        for _ in range(20):
            await self.write(OTHER, 50)
        assert not self.log.scan(Filter(worker=W), self.log.head - 1, 1)[0]
        assert (
            self.log.statistics().retentions["volume"].scopes == 1
        )  # of W's there is nothing left
        with pytest.raises(StreamRefused, match="evicted"):
            start_at(old, self.log, Filter(worker=W))
        # Its last bookmark resumes exactly, for it missed nothing.
        last = self.live.transport.messages[-1]["cursor"]
        assert start_at(last, self.log, Filter(worker=W)).resume == "exact"
        # Whoever never had anything to miss may come with any cursor.
        beginning = self.log.cursors.encode(0)
        assert start_at(beginning, self.log, Filter(worker=NEVER)).resume == "exact"
        with pytest.raises(StreamRefused, match="evicted"):
            start_at(last, self.log)  # everything is another filter, which did miss much
        # The live one was not called slow, and both get what comes.
        resumed = Followed(self.log, self.nursery, self.live.fanout)
        await resumed.begin(last, wanted=Filter(worker=W))
        await self.write(W, 1)
        assert self.live.transport.closed is None
        assert self.live.transport.numbers[:5] == [1, 2, 3, 4, 5]
        assert self.live.transport.numbers[5:] == resumed.transport.numbers == [self.log.head]


@pytest.fixture
async def story(open_log, nursery):
    async with open_log(window_events=60) as log:
        yield Story(log, nursery)
        nursery.cancel_scope.cancel()


async def test_a_workers_own_floor_is_where_its_own_events_went(story, autojump_clock):
    await story.tell()


async def test_control_one_floor_for_all_expires_a_subscriber_that_missed_nothing(
    story, monkeypatch, autojump_clock
):
    monkeypatch.setattr(RetentionClass, "floor_of", lambda self, scope: self.floor)
    with pytest.raises((AssertionError, StreamRefused)):
        await story.tell()


async def test_control_an_emptied_index_that_says_caught_up_is_caught(
    story, monkeypatch, autojump_clock
):
    def emptied(self, scope):
        return 0 if scope not in self._tracks else self._watermarks.get(scope, 0)

    monkeypatch.setattr(RetentionClass, "floor_of", emptied)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await story.tell()
