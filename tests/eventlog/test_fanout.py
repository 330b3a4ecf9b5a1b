"""The fan-out against its model: whatever the order of things, each reader gets exactly its events."""

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.stream.transport import messages_in
from yoi_daemon.eventlog import fanout as module
from yoi_daemon.eventlog import feed
from yoi_daemon.eventlog.fanout import Fanout, Subscriber
from yoi_daemon.eventlog.feed import Feed, Group
from yoi_daemon.eventlog.filter import EVERYTHING, Filter
from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.events import Draft
from yoi_daemon.model.settings import ObserveSettings

SEEDS, SAMPLE = 400, 40
READERS, EVENTS = 24, 400
KINDS = ["worker.item", "worker.state", "plugin.state", "gen.x"]
FILTERS = [
    EVERYTHING,
    EVERYTHING,
    Filter(kinds=("worker.",)),
    Filter(kinds=("worker.state", "gen")),
    Filter(worker=("r", "a")),
    Filter(worker=("r", "a"), kinds=("worker.item",)),
    Filter(worker=("r", "b")),
    Filter(plugin_id="gen"),
]


class Pipe:
    """Takes so many bytes as there is room, and gets room by chance."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.speed = rnd.choice([1, 0.5, 0.05])
        self.room = rnd.randrange(3000)
        self.unsent = b""
        self.taken = bytearray()
        self.is_gone = False
        self.lends = rnd.random() < 0.7
        self.take_back: Callable[[], None] | None = None

    def lend(self, take_back: Callable[[], None]) -> Callable[[bytes], int] | None:
        self.take_back = None
        if not self.lends or self.is_gone:
            return None
        self.take_back = take_back
        return self._send

    def _send(self, frames: bytes) -> int:
        assert self.take_back is not None, "what was taken back is not used"
        assert not self.unsent
        if self.is_gone:
            raise BrokenPipeError
        if not self.room:
            raise BlockingIOError
        self.taken += frames[: self.room]
        taken = min(self.room, len(frames))
        self.room -= taken
        return taken

    def keep(self, frames: bytes, taken: int) -> None:
        self.unsent += frames[taken:]
        self.end_loan()

    def end_loan(self) -> None:
        if self.take_back is not None:
            take_back, self.take_back = self.take_back, None
            take_back()

    def offer(self, frames: bytes) -> bool:
        if self.is_gone:
            raise trio.BrokenResourceError
        self.unsent += frames
        self._write()
        if self.unsent:
            self.end_loan()
        return not self.unsent

    def _write(self) -> None:
        part = self.unsent[: self.room]
        self.unsent = self.unsent[len(part) :]
        self.room -= len(part)
        self.taken += part

    async def drained(self) -> None:
        await trio.lowlevel.checkpoint()
        while self.unsent and not self.is_gone:
            if self.rnd.random() < self.speed:
                self.room += self.rnd.randrange(1, 5000)
                self._write()
            await trio.lowlevel.checkpoint()
        if self.is_gone:
            raise trio.BrokenResourceError


class Reader:
    """What a session does, with less talk."""

    def __init__(self, fanout: Fanout, rnd: random.Random, wanted: Filter, position: int) -> None:
        self.wanted = wanted
        self.begin = position
        self.pipe = Pipe(rnd)
        self.fanout = fanout
        self.subscriber: Subscriber | None = None
        self.to_say = 0

    async def run(self) -> None:
        subscriber = self.fanout.join(self.wanted, self.pipe, self.begin)
        self.subscriber = subscriber
        try:
            with suppress(trio.BrokenResourceError):
                await self.fanout.reached(self.begin)
                while True:
                    await subscriber.drained()
                    subscriber.write_next()
                    if self.to_say:
                        self.to_say -= 1
                        subscriber.send(b"C")
                    if subscriber.caught_up:
                        await subscriber.wait_direct()
        finally:
            self.fanout.leave(subscriber)

    @property
    def is_at_rest(self) -> bool:
        return self.pipe.is_gone or (self.subscriber is not None and self.subscriber.is_direct)

    def got(self) -> list[bytes]:
        return [one for one in messages_in(bytes(self.pipe.taken)) if one != b"C"]


class Model:
    """One run: readers come, are disturbed and go while the log is written."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rnd = random.Random(seed)
        self.readers: list[Reader] = []

    async def run(self) -> None:
        async with open_event_log(ObserveSettings()) as log, trio.open_nursery() as nursery:
            fanout = Fanout(log)
            nursery.start_soon(fanout.run)
            await self._write(fanout, nursery)
            await self._rest(fanout)
            for reader in self.readers:
                self._check(reader, log)
            nursery.cancel_scope.cancel()
        assert not fanout._feeds
        assert not fanout._by_scope

    async def _write(self, fanout: Fanout, nursery: trio.Nursery) -> None:
        chance = self.rnd.random
        for number in range(EVENTS):
            if number < READERS // 2 or (chance() < 0.04 and len(self.readers) < READERS):
                head = fanout.log.head
                position = self.rnd.choice([head, 0, self.rnd.randint(0, head)])
                reader = Reader(fanout, self.rnd, self.rnd.choice(FILTERS), position)
                self.readers.append(reader)
                nursery.start_soon(reader.run)
            fanout.log.append(self._draft())
            if chance() < 0.3:
                await trio.lowlevel.checkpoint()
            if chance() < 0.5:
                self._disturb(self.rnd.choice(self.readers))

    def _draft(self) -> Draft:
        worker = self.rnd.choice([None, "a", "b", "c"])
        return Draft(
            kind=self.rnd.choice(KINDS),
            data="x" * self.rnd.randrange(300),
            runtime_id=worker and "r",
            worker_id=worker,
            plugin_id=self.rnd.choice([None, "gen"]),
        )

    def _disturb(self, reader: Reader) -> None:
        dice = self.rnd.random()
        if dice < 0.4:
            reader.to_say += 1
            if reader.subscriber is not None:
                reader.subscriber.wake()
        elif dice < 0.9:
            reader.pipe.room = self.rnd.choice([0, 1, 100, 10**6])
        elif dice < 0.92:
            reader.pipe.is_gone = True
            reader.pipe.end_loan()
        elif dice < 0.94:
            reader.pipe.end_loan()

    async def _rest(self, fanout: Fanout) -> None:
        for _ in range(100_000):
            await trio.lowlevel.checkpoint()
            if fanout.done == fanout.log.appended and all(one.is_at_rest for one in self.readers):
                return
        raise AssertionError("no rest")

    def _check(self, reader: Reader, log: EventLog) -> None:
        wanted = [
            entry for entry in log.read(reader.begin, 1 << 40) if reader.wanted.matches(entry)
        ]
        if reader.pipe.is_gone:  # cut off anywhere, in a frame too
            written = bytes(reader.pipe.taken).replace(b"\x81\x01C", b"")[:-3]
            assert b"".join(entry.frame for entry in wanted).startswith(written), self.seed
            return
        assert reader.got() == [entry.message for entry in wanted], (self.seed, reader.wanted)
        assert reader.subscriber is not None
        assert reader.subscriber.delivered == len(wanted)


def run_models(count: int) -> None:
    for seed in range(count):
        trio.run(Model(seed).run)


def test_the_fan_out_is_its_model(full, monkeypatch):
    for seed in range(SEEDS if full else SAMPLE):
        for room in (module, feed):
            monkeypatch.setattr(room, "WRITES_A_TURN", [1, 2, 5, 128][seed % 4])
        monkeypatch.setattr(module, "PASS_BYTES", [200, 4000, 65_536][seed % 3])
        trio.run(Model(seed).run)


follow_as_it_is, write_as_it_is = Subscriber.follow, Group.write


def _forget_done(self) -> None:
    """It stands where the cut is, not where the last pass ended."""
    if self.is_direct:
        follow_as_it_is(self)
        self.position = self._fanout.cut


def _write_again(self, pending, frames, cut, now) -> None:
    """The group's position is not moved."""
    position = self.position
    write_as_it_is(self, pending, frames, cut, now)
    self.position = position


def _join_any(self) -> Group:
    """One that is yet to be written to may be joined too."""
    if not self.groups:
        self.groups.append(Group())
    return self.groups[-1]


def _lose_the_rest(self, frames, taken) -> None:
    """What the lent way did not take is forgotten."""
    self._is_drained = False
    self.follow()


@pytest.mark.parametrize(
    ("owner", "name", "bug", "writes_a_turn"),
    [
        (Subscriber, "follow", _forget_done, 1),
        (Group, "write", _write_again, 1),
        (Feed, "group", _join_any, 2),
        (Subscriber, "note_short_write", _lose_the_rest, 128),
    ],
)
def test_the_negative_control_a_planted_bug_is_found(monkeypatch, owner, name, bug, writes_a_turn):
    for room in (module, feed):
        monkeypatch.setattr(room, "WRITES_A_TURN", writes_a_turn)
    monkeypatch.setattr(owner, name, bug)
    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True):
        run_models(SAMPLE)


class Counting:
    """A sink that takes everything, and counts the writes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def offer(self, frames: bytes) -> bool:
        self.writes.append(frames)
        return True

    def lend(self, take_back: Callable[[], None]) -> Callable[[bytes], int]:
        return self._send

    def _send(self, frames: bytes) -> int:
        self.writes.append(frames)
        return len(frames)

    def keep(self, frames: bytes, taken: int) -> None:
        raise AssertionError("all was taken")

    async def drained(self) -> None:
        await trio.lowlevel.checkpoint()


async def follow(fanout: Fanout, sink: Counting, wanted: Filter = EVERYTHING) -> None:
    subscriber = fanout.join(wanted, sink, fanout.cut)
    while True:
        await subscriber.drained()
        subscriber.write_next()
        if subscriber.caught_up:
            await subscriber.wait_direct()


async def test_pending_events_are_joined_once_and_written_once_to_each_subscriber(
    event_log, nursery
):
    fanout = Fanout(event_log)
    nursery.start_soon(fanout.run)
    sinks = [Counting() for _ in range(3)]
    for sink in sinks:
        nursery.start_soon(follow, fanout, sink)
    await wait_all_tasks_blocked()
    for number in range(50):
        event_log.append(Draft(kind="a.b", data=number))
    await wait_all_tasks_blocked()
    assert [len(messages_in(*sink.writes)) for sink in sinks] == [50, 50, 50]
    assert sinks[0].writes[0] is sinks[1].writes[0] is sinks[2].writes[0]
    nursery.cancel_scope.cancel()


async def test_the_publisher_never_waits_and_a_direct_subscribers_task_is_not_woken(
    event_log, nursery
):
    fanout = Fanout(event_log)
    nursery.start_soon(fanout.run)
    sink = Counting()
    woken = []

    subscriber = fanout.join(EVERYTHING, sink, 0)

    async def run() -> None:
        while True:
            await subscriber.drained()
            woken.append(subscriber.position)
            await subscriber.wait_direct()

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    for number in range(10):
        event_log.append(Draft(kind="a.b", data=number))
        await wait_all_tasks_blocked()
    assert len(sink.writes) == 10
    assert woken == [0]
    nursery.cancel_scope.cancel()


async def test_how_far_behind_the_last_one_is(open_log):
    """One that is direct is as far as the pass; one that follows as far as it read; one that left is nowhere."""
    async with open_log() as log:
        fanout = Fanout(log)
        assert fanout.lag_events() == 0
        for _ in range(10):
            log.append(Draft(kind="gen.x", data={}))
        await log.committed(10)
        behind = fanout.join(EVERYTHING, Pipe(random.Random(1)), 3)
        assert fanout.lag_events() == 7
        near = fanout.join(Filter(plugin_id="other"), Pipe(random.Random(1)), 10)
        assert fanout.lag_events() == 7
        fanout.leave(behind)
        assert fanout.lag_events() == 0
        fanout.leave(near)
