"""Fan-out: one broadcaster writes to every caught-up subscriber without waking a task.

Three numbers: the log's `head` (announced) ≥ `cut` (taken for fan-out) ≥ `done` (pass complete).
A subscriber is *following*, when its own task reads by position up to the cut, or *direct*, when its
position is the cut and the broadcaster writes. Replay, slow and drained are thus the same loop, and
a short write makes a direct one follow. Subscribers of equal filters share a feed: one routing and
one joining of bytes for all of them. Its direct ones stand in groups, each written to in one stretch,
so that where they are is kept for the group: a delivery is one call of `send` and hardly more.
"""

from collections.abc import Iterable, Sequence
from math import inf

import trio

from yoi_daemon.eventlog.entry import Entry
from yoi_daemon.eventlog.feed import WRITES_A_TURN, Feed, Group, Member
from yoi_daemon.eventlog.filter import EVERYTHING, Filter, Scope
from yoi_daemon.eventlog.idle import IdleTimer, IdleTimers
from yoi_daemon.eventlog.interface import EventLog, PositionExpiredError
from yoi_daemon.model.frames import FrameSink, text_frame

PASS_BYTES = 65_536
"""Taken for one pass, and read at a time by one that follows: the write that was measured best."""

PROGRESS_EVENTS = 10_000
"""Told of nothing over so many events, a subscriber is told where it is: a tenth of the window."""

INFORM_EVENTS = 64
"""So often the feeds are looked over for members to be told; an eighth of the window is the margin."""


class Subscriber:
    """One reader: `position` is the last event looked at, `told` the last the peer knows it is at.

    It has no queue: what is unsent is one write at most, and what comes later waits in the log.
    """

    __slots__ = (
        "_delivered",
        "_fanout",
        "_group",
        "_heard_s",
        "_is_drained",
        "_is_lent",
        "_sink",
        "_task",
        "_told",
        "_watch",
        "feed",
        "position",
    )

    def __init__(self, fanout: "Fanout", feed: Feed, sink: FrameSink, position: int) -> None:
        self._fanout = fanout
        self._sink = sink
        self._task: trio.lowlevel.Task | None = None
        self._watch: IdleTimer | None = None
        self._is_drained = True
        self._is_lent = False
        self._group: Group | None = None
        self.feed = feed
        self.position = position
        self._told = position
        # While it is direct, less what its group had delivered before.
        self._delivered = 0
        self._heard_s = trio.current_time()

    @property
    def is_direct(self) -> bool:
        """Whether the broadcaster writes to it; `position` is then where it became so."""
        return self._group is not None

    @property
    def told(self) -> int:
        """The last event the peer knows it is at."""
        group = self._group
        return self._told if group is None or group.last <= self.position else group.last

    @property
    def heard_s(self) -> float:
        """When something was written to it."""
        group = self._group
        return self._heard_s if group is None or group.last <= self.position else group.heard_s

    @property
    def delivered(self) -> int:
        """How many events were written to it."""
        return self._delivered + (0 if self._group is None else self._group.delivered)

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
            self._delivered += len(entries)
            self._told = entries[-1].seq
        return bool(entries)

    def tell(self, message: bytes, *, is_position: bool = False) -> None:
        """Writes a message of the session; `is_position` where it tells of `position`. Only while following."""
        self._write(text_frame(message))
        if is_position:
            self._told = self.position

    async def drained(self) -> None:
        """Waits until everything was written. Raises when the peer is gone."""
        await self._sink.drained()
        self._is_drained = True

    async def rest(self, silence_s: float = inf) -> None:
        """Is direct until woken: by a write that fell short, by `wake`, by cancellation or after so much silence.

        Afterwards it follows. To be called when `caught_up`, with nothing awaited since.
        """
        assert self.caught_up, "the cut moved between the look and the rest"
        lent = self._sink.lend(self.follow)
        self._is_lent = lent is not None
        group = self._group = self.feed.group()
        group.members[self] = lent or self._offer
        self._delivered -= group.delivered
        self.feed.told = min(self.feed.told, self._told)
        if silence_s < inf and (self._watch is None or self._watch.listener is None):
            self._watch = IdleTimer(self, silence_s)
            self._fanout.silence.begin(self._watch)
        self._task = trio.lowlevel.current_task()
        try:
            # Not an event, which is half a kibibyte for each that rests.
            await trio.lowlevel.wait_task_rescheduled(self._wake_cancelled)
        finally:
            self.follow()

    def _wake_cancelled(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """Lets its own task look at things, if it rests."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def follow(self) -> None:
        """From direct to following: what held of its group holds of it, and all passes done were written."""
        group = self._group
        if group is not None:
            self._delivered = self.delivered
            self._told, self._heard_s = self.told, self.heard_s
            self._group = None
            self.position = max(self.position, group.position, self._fanout.done)
            del group.members[self]
            if not group.members:
                self.feed.groups.remove(group)
            self.wake()

    def leave(self) -> None:
        """Follows, and is not waited for any more."""
        self.follow()
        if self._watch is not None:
            self._fanout.silence.end(self._watch)

    def fall_short(self, frames: bytes, taken: int) -> None:
        """Of `frames` only `taken` bytes were written: its own task sees to the rest."""
        self._is_drained = False
        if self._is_lent:
            self._sink.keep(frames, taken)
        self.follow()

    def _offer(self, frames: bytes) -> int:
        """In place of what a sink does not lend."""
        return len(frames) if self._sink.offer(frames) else 0

    def _write(self, frames: bytes) -> None:
        self._is_drained = self._sink.offer(frames)
        self._heard_s = trio.current_time()


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
        self.silence = IdleTimers()

    def join(self, wanted: Filter, sink: FrameSink, position: int) -> Subscriber:
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
        subscriber.leave()
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
            _wake(feed.direct())

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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.silence.run)
            await self._broadcast()

    async def _broadcast(self) -> None:
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
        work: list[tuple[list[Entry], bytes, Group]] = []
        for feed in touched:
            pending, feed.pending = feed.pending, []
            if len(pending) == 1:
                frames = pending[0].frame
            else:
                frames = b"".join([entry.frame for entry in pending])
            for group in feed.groups:
                group.is_due = True
                work.append((pending, frames, group))
        now = trio.current_time()
        writes = 0
        for pending, frames, group in work:
            writes += len(group.members)
            if writes > WRITES_A_TURN:
                await trio.lowlevel.checkpoint()
                writes = len(group.members)
            group.write(pending, frames, cut, now)
        self.done = cut
        self._wake_at_ends(entries)
        self._wake_uninformed()

    def _route(self, entries: Iterable[Entry]) -> list[Feed]:
        # At the cut, not when announced: a feed may be born between the two.
        touched: list[Feed] = []
        find = self._by_scope.get
        everybody = find(None, [])
        for entry in entries:
            feeds = everybody
            if entry.worker is not None and (own := find(entry.worker)):
                feeds = feeds + own if feeds else own
            if entry.plugin_id is not None and (own := find(entry.plugin_id)):
                feeds = feeds + own if feeds else own
            for feed in feeds:
                if feed.groups and (feed.takes_its_scope or feed.wanted.takes(entry)):
                    if not feed.pending:
                        touched.append(feed)
                    feed.pending.append(entry)
        return touched

    def _give_up_pass(self) -> None:
        """The log moved on further than a pass behind: each reads for itself what its filter still has."""
        for member in [one for feed in self._feeds.values() for one in feed.direct()]:
            member.follow()
        self.cut = self.done = self.log.head
        self._moved.unpark_all()

    def _wake_at_ends(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.is_last:
                for feed in self._by_scope.get(entry.worker, ()):
                    _wake(feed.direct())

    def _wake_uninformed(self) -> None:
        """Those whose cursor falls behind because their filter keeps so much from them."""
        if self.cut - self._informed < INFORM_EVENTS:
            return
        self._informed = self.cut
        feeds = self._by_kinds
        if self.cut - self._progressed >= PROGRESS_EVENTS // 8:
            self._progressed = self.cut
            feeds = self._feeds
        longest = self.cut - PROGRESS_EVENTS
        for feed in feeds.values():
            # First what can be told without a call: there may be thousands.
            if feed.told > longest and not feed.wanted.kinds:
                continue
            if feed.groups and self.lags(feed.wanted, feed.told):
                late = {one for one in feed.direct() if self.lags(feed.wanted, one.told)}
                _wake(late)
                feed.told = min(
                    (one.told for one in feed.direct() if one not in late), default=self.cut
                )

    def lags(self, wanted: Filter, told: int) -> bool:
        """Whether one told of no more than `told` is to be told where it is."""
        return self.cut - told >= PROGRESS_EVENTS or (
            bool(wanted.kinds) and told < min(self.log.soon(wanted), self.cut)
        )


def _wake(members: Iterable[Member]) -> None:
    for member in tuple(members):
        member.wake()
