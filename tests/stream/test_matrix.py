"""What happened to the log or the subscriber × where the cursor stands: the exact suffix, or the typed error."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.stream.test_session import session_on
from tests.stream.transport import MemoryTransport
from yoi_daemon.eventlog import fanout as fanout_module
from yoi_daemon.eventlog.fanout import Fanout, Subscriber
from yoi_daemon.eventlog.filter import EVERYTHING, Filter
from yoi_daemon.eventlog.interface import EventLog, PositionExpiredError
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.eventlog.retention import RetentionClass
from yoi_daemon.model import cursor as cursor_module
from yoi_daemon.model.cursor import Cursor, CursorCodec
from yoi_daemon.model.events import Draft
from yoi_daemon.model.settings import ObserveSettings, SqliteStoreSettings
from yoi_daemon.store.interface import Store
from yoi_daemon.store.memory import MemoryStore
from yoi_daemon.store.opening import open_store
from yoi_daemon.stream import protocol
from yoi_daemon.stream.protocol import StreamQuery, StreamRefused, find_start
from yoi_daemon.stream.session import Scope

NOW, BEFORE, FOREIGN = "00112233aabbccdd", "feedfeedfeedfeed", "0" * 16
WINDOW, EVENTS, LATER = 30, 50, 5
FILLER = "x" * 3000  # so that the window takes more than one write
NARROW = Filter(kinds=("plugin.state",))
VOLUME = Filter(kinds=("gen.",))

COLUMNS = [
    "eviction",
    "restart",
    "new log",
    "slow",
    "overrun",
    "widened",
    "narrowed",
    "other epoch",
]
CELLS = ["old", "floor-1", "floor", "head", "head+1", "random text"]

EVICTED = ("cursor_expired", "evicted")
CHANGED = ("cursor_expired", "epoch_changed")
FOREIGN_EPOCH = ("cursor_unknown", "foreign_epoch")
FUTURE = ("cursor_unknown", "future")
MALFORMED = ("cursor_unknown", "malformed")
OVERRUN = ("slow_consumer", "overrun")

Refusals = list[tuple[str, str]]
FIRST_REFUSAL: dict[str, dict[str, tuple[str, str] | None]] = {
    "eviction": dict(zip(CELLS, [EVICTED, EVICTED, None, None, FUTURE, MALFORMED], strict=True)),
    "new log": dict(zip(CELLS, [*[CHANGED] * 5, MALFORMED], strict=True)),
    "narrowed": dict(zip(CELLS, [*[None] * 4, FUTURE, MALFORMED], strict=True)),
    "other epoch": dict(zip(CELLS, [*[FOREIGN_EPOCH] * 5, MALFORMED], strict=True)),
}
for as_evicted in ("restart", "slow", "overrun", "widened"):
    FIRST_REFUSAL[as_evicted] = FIRST_REFUSAL["eviction"]


class SlowTransport(MemoryTransport):
    """Takes hello, and what comes behind it only when it is let."""

    def offer(self, frames: bytes) -> bool:
        if len(self.messages) == 1 and self.may_take.is_set():
            self.may_take = trio.Event()
        return super().offer(frames)


async def append(log: EventLog, kinds: list[str], count: int) -> None:
    """Every tenth is of the lifecycle retention, of which nothing is let go."""
    for _ in range(count):
        kinds.append("gen.tick" if len(kinds) % 10 else "plugin.state")
        log.append(Draft(kind=kinds[-1], data=FILLER))
    await log.committed(len(kinds))


class World:
    """A log, the numbers of every event it ever had by kind, and a subscriber's filter."""

    def __init__(self, column: str, log: EventLog, nursery: trio.Nursery, kinds: list[str]) -> None:
        self.column = column
        self.log = log
        self.fanout = Fanout(log)
        self.nursery = nursery
        self.kinds = kinds
        self.wanted = {"narrowed": NARROW, "widened": VOLUME}.get(column, EVERYTHING)

    async def append(self, count: int) -> None:
        await append(self.log, self.kinds, count)

    def after(self, number: int) -> list[int]:
        """The oracle: what this filter wants after `number`."""
        takes = {NARROW: ("plugin.state",), VOLUME: ("gen.tick",)}.get(self.wanted)
        every = enumerate(self.kinds, 1)
        return [seq for seq, kind in every if seq > number and (takes is None or kind in takes)]

    def number(self, cell: str) -> int:
        floor, head = self.log.window().floor, self.log.head
        return {"old": 3, "floor-1": floor - 1, "floor": floor, "head": head, "head+1": head + 1}[
            cell
        ]

    def cursors(self, cell: str) -> list[str]:
        """The cell's cursors; text has many faces."""
        epoch = {"new log": BEFORE, "other epoch": FOREIGN}.get(self.column, NOW)
        if cell != "random text":
            return [CursorCodec(epoch).encode(self.number(cell))]
        good = self.log.cursors.encode(self.log.head - 3)
        altered = [good[:30] + ("A" if good[30] != "A" else "B") + good[31], good[:-1], good + "A"]
        swapped = good.swapcase()
        return ["", "x", "5", "x" * 32, "0" * 32, "earliest ", good[:16] * 2, swapped, *altered]

    async def follow(self, cursor: str) -> tuple[list[int], Refusals]:
        """What a subscriber gets, which resumes where it is told to, until it is at rest or refused."""
        delivered: list[int] = []
        refusals: Refusals = []
        is_first = True
        while True:
            try:
                start = find_start(StreamQuery(cursor=cursor), self.wanted, self.log)
            except StreamRefused as refused:
                return delivered, [*refusals, (refused.code, refused.reason)]
            is_slow = is_first and self.column in ("slow", "overrun")
            is_first = False
            transport = SlowTransport() if is_slow else MemoryTransport()
            session = session_on(self.fanout, transport)
            self.nursery.start_soon(session.run, Scope(wanted=self.wanted), start)
            await wait_all_tasks_blocked()
            if is_slow:
                assert transport.types == ["hello"]
                await self.append(LATER if self.column == "slow" else 2 * WINDOW)
                await wait_all_tasks_blocked()
                transport.may_take.set()
                await wait_all_tasks_blocked()
            delivered += transport.numbers
            assert transport.types[0] == "hello"
            assert transport.messages[0]["resume"] == "exact"
            if transport.closed is None:
                return delivered, refusals
            (error,) = transport.of("error")
            assert transport.closed == (protocol.CLOSE_CODES[error["code"]], error["code"])
            refusals.append((error["code"], error["reason"]))
            cursor = error["cursor"]


@asynccontextmanager
async def open_log(directory: Path | None) -> AsyncGenerator[EventLog]:
    """In memory, or on a store in `directory`."""
    settings = ObserveSettings(window_events=WINDOW)
    async with AsyncExitStack() as stack:
        store: Store = MemoryStore(new_epoch=lambda: NOW)
        if directory is not None:
            small = SqliteStoreSettings(low_bytes=1024, reserve_bytes=1024)
            opened = open_store(small, directory, new_epoch=lambda: NOW)
            store = await stack.enter_async_context(opened)
        yield await stack.enter_async_context(
            open_event_log(settings, store, earlier_epochs=[BEFORE])
        )


@asynccontextmanager
async def open_world(column: str) -> AsyncGenerator[World]:
    with TemporaryDirectory() as name:
        directory = Path(name) if column == "restart" else None
        kinds: list[str] = []
        if directory is not None:
            async with open_log(directory) as log:
                await append(log, kinds, EVENTS)
        async with open_log(directory) as log, trio.open_nursery() as nursery:
            world = World(column, log, nursery, kinds)
            nursery.start_soon(world.fanout.run)
            if directory is None:
                await world.append(EVENTS)
            await wait_all_tasks_blocked()
            yield world
            nursery.cancel_scope.cancel()


async def check(column: str, cell: str) -> None:
    async with open_world(column) as world:
        for cursor in world.cursors(cell):
            await check_one(world, cell, cursor)


async def check_one(world: World, cell: str, cursor: str) -> None:
    column = world.column
    number = world.log.head if cell == "random text" else world.number(cell)
    expected = FIRST_REFUSAL[column][cell]
    delivered, refusals = await world.follow(cursor)
    if expected is not None:
        assert (delivered, refusals) == ([], [expected])
        return
    suffix = world.after(number)
    if column == "overrun":
        # Never a hole: what came is exact, and where it stops the error says so.
        assert refusals == [OVERRUN, EVICTED]
        assert delivered == suffix[: len(delivered)]
    else:
        assert (delivered, refusals) == (suffix, [])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("column", COLUMNS)
async def test_every_cell_is_the_exact_suffix_or_the_typed_error(column, cell):
    await check(column, cell)


async def test_the_worlds_are_what_they_are_called():
    async with open_world("eviction") as world:
        assert 3 < world.log.floor_of(EVERYTHING) < world.log.head == EVENTS
        assert world.log.window().bytes > fanout_module.PASS_BYTES
        assert world.log.floor_of(NARROW) == 0
        assert world.log.floor_of(VOLUME) == world.log.floor_of(EVERYTHING)
        floor = world.log.window().floor
    async with open_world("restart") as world:
        assert (world.log.window().floor, world.log.head) == (floor, EVENTS)
        assert world.log.durable


# -- negative controls: what systems like this one got wrong, and each must be caught in some cell


def ignore_the_epoch(monkeypatch):
    decode = cursor_module.decode_cursor
    monkeypatch.setattr(cursor_module, "decode_cursor", lambda text: Cursor(NOW, decode(text).seq))


def forget_what_was_let_go(monkeypatch):
    monkeypatch.setattr(RetentionClass, "floor_of", lambda self, scope: 0)


def take_the_future_for_now(monkeypatch):
    decode = cursor_module.decode_cursor
    monkeypatch.setattr(
        cursor_module,
        "decode_cursor",
        lambda text: decode(text)._replace(seq=min(decode(text).seq, EVENTS)),
    )


def check_nothing(monkeypatch):
    decode = cursor_module.decode_cursor

    def lenient(text: str) -> Cursor:
        return decode(CursorCodec(NOW).encode(EVENTS) if len(text) == 32 else text)

    monkeypatch.setattr(cursor_module, "decode_cursor", lenient)


def begin_one_late(monkeypatch):
    find = find_start

    def late(asked, wanted, log):
        start = find(asked, wanted, log)
        return msgspec.structs.replace(start, position=min(start.position + 1, log.head))

    monkeypatch.setitem(globals(), "find_start", late)


def skip_silently_when_overrun(monkeypatch):
    take = Subscriber.write_next

    def skipping(self, up_to=None):
        try:
            return take(self, up_to)
        except PositionExpiredError as error:
            self.position = error.floor
            return take(self, up_to)

    monkeypatch.setattr(Subscriber, "write_next", skipping)


def one_floor_for_every_filter(monkeypatch):
    floor_of = RetentionClass.floor_of
    monkeypatch.setattr(
        "yoi_daemon.eventlog.ring.Ring.floor_of",
        lambda self, wanted: max(floor_of(self._volume, None), floor_of(self._lifecycle, None)),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ignore_the_epoch,
        forget_what_was_let_go,
        take_the_future_for_now,
        check_nothing,
        begin_one_late,
        skip_silently_when_overrun,
        one_floor_for_every_filter,
    ],
    ids=lambda wrong: wrong.__name__,
)
async def test_control_each_way_to_be_wrong_is_caught_in_some_cell(wrong, monkeypatch):
    wrong(monkeypatch)
    caught = []
    for column in COLUMNS:
        for cell in CELLS:
            try:
                await check(column, cell)
            except* (AssertionError, PositionExpiredError):
                caught.append((column, cell))
    assert caught
