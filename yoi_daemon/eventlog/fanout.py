"""Fan-out: one broadcaster writes to every caught-up subscriber without waking a task.

Three numbers: the log's `head` (announced) ≥ `cut` (taken for fan-out) ≥ `done` (pass complete).
A *following* subscriber's own task reads by position up to the cut. A *direct* subscriber is at the
cut, and the broadcaster writes to it. So replay, lag and drain are one loop, and a short write turns a
direct subscriber into a following one. Subscribers with equal filters share a feed: events are routed
and joined once for all of them. Direct subscribers of a feed stand in groups, each written to in one
stretch, so that positions are kept per group: a delivery is one call of `send` and hardly more.
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
"""Size of one pass, and of one read of a following subscriber: measured best as a write."""

PROGRESS_EVENTS = 10_000
"""A subscriber without a matching event over so many gets a bookmark: a tenth of the window."""

INFORM_EVENTS = 64
"""Interval of the check for subscribers that need a bookmark; an eighth of the window is the margin."""


class Subscriber:
    """One reader: `position` is the last event it passed, `reported` the last that its peer knows of.

    It has no queue: at most one write is unsent, and later events wait in the log.
    """

    __slots__ = (
        "_delivered",
        "_fanout",
        "_group",
        "_idle_timer",
        "_is_drained",
        "_is_lent",
        "_last_write_s",
        "_reported",
        "_sink",
        "_task",
        "feed",
        "position",
    )

    def __init__(self, fanout: "Fanout", feed: Feed, sink: FrameSink, position: int) -> None:
        self._fanout = fanout
        self._sink = sink
        self._task: trio.lowlevel.Task | None = None
        self._idle_timer: IdleTimer | None = None
        self._is_drained = True
        self._is_lent = False
        self._group: Group | None = None
        self.feed = feed
        self.position = position
        self._reported = position
        # While direct, without what its group had delivered before.
        self._delivered = 0
        self._last_write_s = trio.current_time()

    @property
    def is_direct(self) -> bool:
        """True if the broadcaster writes to it; `position` is then where it became direct."""
        return self._group is not None

    @property
    def reported(self) -> int:
        """Returns the last position that the peer knows of."""
        group = self._group
        return self._reported if group is None or group.last <= self.position else group.last

    @property
    def last_write_s(self) -> float:
        """Returns the time of the last write, by `trio.current_time`."""
        group = self._group
        return (
            self._last_write_s
            if group is None or group.last <= self.position
            else group.last_write_s
        )

    @property
    def delivered(self) -> int:
        """Returns the number of events written."""
        return self._delivered + (0 if self._group is None else self._group.delivered)

    @property
    def caught_up(self) -> bool:
        """True if everything up to the cut was passed and written."""
        return self._is_drained and self.position == self._fanout.cut

    def write_next(self, up_to: int | None = None) -> bool:
        """Writes the next matching events. Returns False if there were none. Only while following.

        Synchronous. Raises `PositionExpiredError` if the log has evicted the next events.
        """
        limit = self._fanout.cut if up_to is None else min(up_to, self._fanout.cut)
        entries, self.position = self._fanout.log.scan(
            self.feed.wanted, self.position, PASS_BYTES, limit
        )
        if entries:
            self._write(b"".join([entry.frame for entry in entries]))
            self._delivered += len(entries)
            self._reported = entries[-1].seq
        return bool(entries)

    def send(self, message: bytes, *, is_position: bool = False) -> None:
        """Writes a message of the session; `is_position` if it reports `position`. Only while following."""
        self._write(text_frame(message))
        if is_position:
            self._reported = self.position

    async def drained(self) -> None:
        """Waits until nothing is unsent. Raises when the peer is gone."""
        await self._sink.drained()
        self._is_drained = True

    async def wait_direct(self, idle_s: float = inf) -> None:
        """Is direct until woken: by a short write, `wake`, cancellation, or `idle_s` without a write.

        Afterwards it follows. Call it when `caught_up`, with nothing awaited since.
        """
        assert self.caught_up, "the cut moved between the read and the wait"
        lent = self._sink.lend(self.follow)
        self._is_lent = lent is not None
        group = self._group = self.feed.group()
        group.members[self] = lent or self._offer
        self._delivered -= group.delivered
        self.feed.least_reported = min(self.feed.least_reported, self._reported)
        if idle_s < inf and (self._idle_timer is None or self._idle_timer.reader is None):
            self._idle_timer = IdleTimer(self, idle_s)
            self._fanout.idle_timers.start(self._idle_timer)
        self._task = trio.lowlevel.current_task()
        try:
            # Not a `trio.Event`, which is half a kibibyte for each direct subscriber.
            await trio.lowlevel.wait_task_rescheduled(self._wake_cancelled)
        finally:
            self.follow()

    def _wake_cancelled(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """Wakes its own task, if that waits."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def follow(self) -> None:
        """Turns a direct subscriber into a following one, with its group's position and counts."""
        group = self._group
        if group is not None:
            self._delivered = self.delivered
            self._reported, self._last_write_s = self.reported, self.last_write_s
            self._group = None
            self.position = max(self.position, group.position, self._fanout.done)
            del group.members[self]
            if not group.members:
                self.feed.groups.remove(group)
            self.wake()

    def leave(self) -> None:
        """Follows, and ends its idle timer."""
        self.follow()
        if self._idle_timer is not None:
            self._fanout.idle_timers.cancel(self._idle_timer)

    def note_short_write(self, frames: bytes, taken: int) -> None:
        """Only `taken` bytes of `frames` were written: its own task writes the rest."""
        self._is_drained = False
        if self._is_lent:
            self._sink.keep(frames, taken)
        self.follow()

    def _offer(self, frames: bytes) -> int:
        """Replaces the socket that a sink does not lend."""
        return len(frames) if self._sink.offer(frames) else 0

    def _write(self, frames: bytes) -> None:
        self._is_drained = self._sink.offer(frames)
        self._last_write_s = trio.current_time()


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
        """Feeds that filter within their scope: only their subscribers can miss an eviction."""
        self._subscribers: set[Subscriber] = set()
        self.idle_timers = IdleTimers()

    def join(self, wanted: Filter, sink: FrameSink, position: int) -> Subscriber:
        """Returns a new subscriber that follows from `position`."""
        feed = self._feeds.get(wanted)
        if feed is None:
            feed = self._feeds[wanted] = Feed(wanted)
            if wanted.kinds:
                self._by_kinds[wanted] = feed
            self._by_scope.setdefault(wanted.scope, []).append(feed)
            feed.least_reported = self.cut
        feed.users += 1
        subscriber = Subscriber(self, feed, sink, position)
        self._subscribers.add(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Removes a subscriber."""
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
        """Returns how many committed events the slowest subscriber has yet to pass."""
        behind = (
            self.log.head - (self.done if subscriber.is_direct else subscriber.position)
            for subscriber in self._subscribers
        )
        return max(behind, default=0)

    def wake_all(self) -> None:
        """Wakes every subscriber's own task."""
        for feed in self._feeds.values():
            _wake(feed.direct())

    async def reached(self, position: int) -> None:
        """Waits until the cut is at `position`, which is committed: nothing may be direct there before."""
        while self.cut < position:
            await self._moved.park()

    async def wake_all_at(self, event: trio.Event) -> None:
        """Wakes all once `event` is set. Without a deadline: the event is the daemon's shutdown."""
        await event.wait()
        self.wake_all()

    async def run(self) -> None:
        """Writes committed events to direct subscribers, until cancelled. Raises `StorageFailed`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.idle_timers.run)
            await self._broadcast()

    async def _broadcast(self) -> None:
        while True:
            if self.cut < self.log.head:
                await trio.lowlevel.checkpoint()
            else:
                await self.log.wait_beyond(self.cut)
            await self._pass()

    async def _pass(self) -> None:
        # One stretch up to the moved cut: a subscriber that becomes direct later is already at it.
        try:
            entries, cut = self.log.scan(EVERYTHING, self.cut, PASS_BYTES)
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
                if feed.groups and (feed.passes_whole_scope or feed.wanted.matches(entry)):
                    if not feed.pending:
                        touched.append(feed)
                    feed.pending.append(entry)
        return touched

    def _give_up_pass(self) -> None:
        """The pass was overrun: each subscriber reads for itself what its filter still has."""
        for member in [member for feed in self._feeds.values() for member in feed.direct()]:
            member.follow()
        self.cut = self.done = self.log.head
        self._moved.unpark_all()

    def _wake_at_ends(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.is_last:
                for feed in self._by_scope.get(entry.worker, ()):
                    _wake(feed.direct())

    def _wake_uninformed(self) -> None:
        """Wakes subscribers whose cursor falls behind because their filter drops so much."""
        if self.cut - self._informed < INFORM_EVENTS:
            return
        self._informed = self.cut
        feeds = self._by_kinds
        if self.cut - self._progressed >= PROGRESS_EVENTS // 8:
            self._progressed = self.cut
            feeds = self._feeds
        longest = self.cut - PROGRESS_EVENTS
        for feed in feeds.values():
            # First the test that needs no call: there may be thousands of feeds.
            if feed.least_reported > longest and not feed.wanted.kinds:
                continue
            if feed.groups and self.lags(feed.wanted, feed.least_reported):
                late = {
                    member for member in feed.direct() if self.lags(feed.wanted, member.reported)
                }
                _wake(late)
                feed.least_reported = min(
                    (member.reported for member in feed.direct() if member not in late),
                    default=self.cut,
                )

    def lags(self, wanted: Filter, reported: int) -> bool:
        """True if a peer that knows of `reported` needs a bookmark."""
        return self.cut - reported >= PROGRESS_EVENTS or (
            bool(wanted.kinds) and reported < min(self.log.next_floor(wanted), self.cut)
        )


def _wake(members: Iterable[Member]) -> None:
    for member in tuple(members):
        member.wake()
