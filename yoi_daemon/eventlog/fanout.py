"""Fan-out: one broadcaster writes to every caught-up subscriber without waking a task.

Three numbers: the log's `head` (announced) ≥ `cut` (taken for fan-out) ≥ `done` (pass complete).
A subscriber is *following*, when its own task reads by position up to the cut, or *direct*, when its
position is the cut and the broadcaster writes. Replay, slow and drained are thus the same loop, and
a short write makes a direct one follow. Subscribers of equal filters share a feed: one routing and
one joining of bytes for all of them.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import trio

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.filter import EVERYTHING, Filter, Scope
from yoi_daemon.eventlog.interface import EventLog, PositionExpiredError
from yoi_daemon.model.frames import text_frame

PASS_BYTES = 65_536
"""Taken for one pass, and read at a time by one that follows: the write that was measured best."""

WRITES_A_TURN = 128
"""Writes between two checkpoints of a pass."""

PROGRESS_EVENTS = 10_000
"""Told of nothing over so many events, a subscriber is told where it is: a tenth of the window."""

INFORM_EVENTS = 64
"""So often the feeds are looked over for members to be told; an eighth of the window is the margin."""


class Sink(Protocol):
    """Where a subscriber's frames go. All of it raises when the peer is gone."""

    def offer(self, frames: bytes) -> bool:
        """Takes whole frames without waiting; False where some of it is not written yet."""
        ...

    async def drained(self) -> None:
        """Waits until all that was offered is written; bounded by the sink's own stall limit."""
        ...


class Feed:
    """The subscribers of one filter."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.users = 0
        self.direct: dict[Subscriber, None] = {}
        self.pending: list[Entry] = []
        self.told = 0
        """No direct member was told of less; a lower bound."""


class Subscriber:
    """One reader: `position` is the last event looked at, `told` the last the peer knows it is at.

    It has no queue: what is unsent is one write at most, and what comes later waits in the log.
    """

    __slots__ = (
        "_fanout",
        "_is_drained",
        "_sink",
        "_wake",
        "delivered",
        "feed",
        "heard_s",
        "is_direct",
        "position",
        "told",
    )

    def __init__(self, fanout: "Fanout", feed: Feed, sink: Sink, position: int) -> None:
        self._fanout = fanout
        self._sink = sink
        self._wake = trio.Event()
        self._is_drained = True
        self.feed = feed
        self.position = position
        self.told = position
        self.delivered = 0
        self.heard_s = trio.current_time()
        self.is_direct = False

    @property
    def caught_up(self) -> bool:
        """Whether everything up to the cut was looked at and written."""
        return self._is_drained and self.position == self._fanout.cut

    def take(self, up_to: int | None = None) -> bool:
        """Writes the next matching events; False when there were none. Only while following.

        Synchronous. Raises `PositionExpiredError` when the log has let go of what comes next.
        """
        limit = self._fanout.cut if up_to is None else min(up_to, self._fanout.cut)
        entries, self.position = self._fanout.log.look(
            self.feed.wanted, self.position, PASS_BYTES, limit
        )
        if entries:
            self._write(b"".join([entry.frame for entry in entries]))
            self.delivered += len(entries)
            self.told = entries[-1].seq
        return bool(entries)

    def tell(self, message: bytes, *, is_position: bool = False) -> None:
        """Writes a message of the session; `is_position` where it tells of `position`. Only while following."""
        self._write(text_frame(message))
        if is_position:
            self.told = self.position

    async def drained(self) -> None:
        """Waits until everything was written. Raises when the peer is gone."""
        await self._sink.drained()
        self._is_drained = True

    async def rest(self) -> None:
        """Is direct until woken: by a write that fell short, by `wake`, or by cancellation.

        Afterwards it follows. To be called when `caught_up`, with nothing awaited since.
        """
        assert self.caught_up, "the cut moved between the look and the rest"
        self._wake = trio.Event()
        self.is_direct = True
        self.feed.direct[self] = None
        self.feed.told = min(self.feed.told, self.told)
        try:
            await self._wake.wait()
        finally:
            self.follow()

    def wake(self) -> None:
        """Lets its own task look at things."""
        self._wake.set()

    def follow(self) -> None:
        """From direct to following. Everything that matches up to `done` was written."""
        if self.is_direct:
            self.is_direct = False
            self.position = max(self.position, self._fanout.done)
            del self.feed.direct[self]
            self._wake.set()

    def receive(self, frames: bytes, cut: int, count: int, last: int, now: float) -> None:
        """What the broadcaster writes to a direct one."""
        self.position = cut
        self.told = last
        self.delivered += count
        self.heard_s = now
        try:
            self._is_drained = self._sink.offer(frames)
        except Exception:  # noqa: BLE001 - its own task meets the same, and ends itself by it
            self._is_drained = False
        if not self._is_drained:
            self.follow()

    def _write(self, frames: bytes) -> None:
        self._is_drained = self._sink.offer(frames)
        self.heard_s = trio.current_time()


class Fanout:
    """The subscribers of one log; `run` is the broadcaster."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.cut = self.done = log.head
        self._informed = self._progressed = self.cut
        self._moved = trio.lowlevel.ParkingLot()
        self._feeds: dict[Filter, Feed] = {}
        self._by_scope: dict[Scope, list[Feed]] = {}
        self._by_kinds: dict[Filter, Feed] = {}
        """Those that keep from their members what is in their scope: only they can miss an eviction."""
        self._subscribers: set[Subscriber] = set()

    def join(self, wanted: Filter, sink: Sink, position: int) -> Subscriber:
        """A subscriber that follows from `position`."""
        feed = self._feeds.get(wanted)
        if feed is None:
            feed = self._feeds[wanted] = Feed(wanted)
            if wanted.kinds:
                self._by_kinds[wanted] = feed
            self._by_scope.setdefault(wanted.scope, []).append(feed)
            feed.told = self.cut
        feed.users += 1
        subscriber = Subscriber(self, feed, sink, position)
        self._subscribers.add(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Lets go of it."""
        subscriber.follow()
        self._subscribers.discard(subscriber)
        feed = subscriber.feed
        feed.users -= 1
        if not feed.users:
            del self._feeds[feed.wanted]
            self._by_kinds.pop(feed.wanted, None)
            feeds = self._by_scope[feed.wanted.scope]
            feeds.remove(feed)
            if not feeds:
                del self._by_scope[feed.wanted.scope]

    def lag_events(self) -> int:
        """How many committed events the subscriber furthest behind has not looked at."""
        behind = (
            self.log.head - (self.done if one.is_direct else one.position)
            for one in self._subscribers
        )
        return max(behind, default=0)

    def wake_all(self) -> None:
        """Lets every subscriber's own task look at things."""
        for feed in self._feeds.values():
            _wake(feed.direct)

    async def reached(self, position: int) -> None:
        """Waits until the cut is at `position`, which is committed: until then nothing may be direct there."""
        while self.cut < position:
            await self._moved.park()

    async def wake_all_at(self, event: trio.Event) -> None:
        """Wakes all once `event` was set: it has no deadline, it is the daemon's own stopping."""
        await event.wait()
        self.wake_all()

    async def run(self) -> None:
        """Writes what is committed to whoever is direct, until cancelled. Raises `StorageFailed`."""
        while True:
            if self.cut < self.log.head:
                await trio.lowlevel.checkpoint()
            else:
                await self.log.wait_beyond(self.cut)
            await self._pass()

    async def _pass(self) -> None:
        # One stretch up to the moved cut: whoever becomes direct later stands at it already.
        try:
            entries, cut = self.log.look(EVERYTHING, self.cut, PASS_BYTES)
        except PositionExpiredError:
            self._give_up_pass()
            return
        touched = self._route(entries)
        self.cut = cut
        self._moved.unpark_all()
        work = [(feed, feed.pending, tuple(feed.direct)) for feed in touched]
        for feed in touched:
            feed.pending = []
        now = trio.current_time()
        writes = 0
        for _, pending, members in work:
            frames = b"".join([entry.frame for entry in pending])
            last = pending[-1].seq
            for member in members:
                if member.is_direct and member.position < cut:
                    member.receive(frames, cut, len(pending), last, now)
                writes += 1
                if not writes % WRITES_A_TURN:
                    await trio.lowlevel.checkpoint()
        self.done = cut
        self._wake_at_ends(entries)
        self._wake_uninformed()

    def _route(self, entries: Iterable[Entry]) -> list[Feed]:
        # At the cut, not when announced: a feed may be born between the two.
        touched: list[Feed] = []
        by_scope = self._by_scope
        everybody = by_scope.get(None, [])
        for entry in entries:
            feeds = everybody
            if entry.worker in by_scope and entry.worker is not None:
                feeds = feeds + by_scope[entry.worker]
            if entry.plugin_id in by_scope and entry.plugin_id is not None:
                feeds = feeds + by_scope[entry.plugin_id]
            for feed in feeds:
                if feed.direct and feed.wanted.takes(entry):
                    if not feed.pending:
                        touched.append(feed)
                    feed.pending.append(entry)
        return touched

    def _give_up_pass(self) -> None:
        """The log moved on further than a pass behind: each reads for itself what its filter still has."""
        members = [member for feed in self._feeds.values() for member in feed.direct]
        for member in members:
            member.follow()
        self.cut = self.done = self.log.head
        self._moved.unpark_all()

    def _wake_at_ends(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.is_last:
                for feed in self._by_scope.get(entry.worker, ()):
                    _wake(feed.direct)

    def _wake_uninformed(self) -> None:
        """Those whose cursor falls behind because their filter keeps so much from them."""
        if self.cut - self._informed < INFORM_EVENTS:
            return
        self._informed = self.cut
        feeds = self._by_kinds
        if self.cut - self._progressed >= PROGRESS_EVENTS // 8:
            self._progressed = self.cut
            feeds = self._feeds
        for feed in feeds.values():
            if feed.direct and self.lags(feed.wanted, feed.told):
                late = [one for one in feed.direct if self.lags(feed.wanted, one.told)]
                _wake(late)
                feed.told = min(
                    (one.told for one in feed.direct if one not in late), default=self.cut
                )

    def lags(self, wanted: Filter, told: int) -> bool:
        """Whether one told of no more than `told` is to be told where it is."""
        return self.cut - told >= PROGRESS_EVENTS or (
            bool(wanted.kinds) and told < min(self.log.soon(wanted), self.cut)
        )


def _wake(members: Iterable[Subscriber]) -> None:
    for member in tuple(members):
        member.wake()
