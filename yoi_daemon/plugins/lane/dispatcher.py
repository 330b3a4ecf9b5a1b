"""A service's lane: a bounded memory channel, one dispatcher, a deadline for each attempt.

Admission reserves room synchronously, before the commit; the room is given back at the event's end.
So the channel itself is never the limit, and depth counts everything unfinished: being committed,
queued, parked for a retry, claimed, in hand. Handlers run one at a time. On a durable store up to 256
events are claimed together: their attempts are committed before the first of their handlers runs. Up
to 64 events share one cancel scope, and one watchdog serves all lanes, because a deadline of its own
would cost an event about as much as all the rest of its way through the lane (`scripts/bench dispatch`).
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.delivery import Attempt, Delivery, Failure, LaneLimits
from yoi_daemon.plugins.execution.interface import Executor
from yoi_daemon.plugins.lane.ledger import LaneLedger

BATCH_EVENTS = 64
CLAIM_EVENTS = 256
"""A commit, and a pass over all subscribers after it, cost the same for few events as for many: with 64
the way of an event to 100 subscribers took a third more (`scripts/bench durable`). After a crash as
many are attempted one at a time, a commit each."""
SLICE_S = 0.005
"""A batch ends after 5 ms, so that a busy lane lets the others run."""


class LaneStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A lane now. `depth` and `bytes` count everything unfinished; `parked` waits for its retry."""

    depth: int
    capacity: int
    bytes: int
    bytes_capacity: int
    parked: int
    oldest_waiting_s: float | None


class Judge(Protocol):
    """Says what becomes of an attempt. Synchronous: verdict and consequence are one step."""

    def __call__(
        self, lane: "Lane", attempt: Attempt, failure: Failure | None, duration_s: float
    ) -> None:
        """`failure` is None for a handled event. Calls one of `finish`, `park`, `hold`, `put_back`."""
        ...


class Lane:
    """One service's queue and its dispatcher. It outlives the service's restarts."""

    def __init__(
        self,
        limits: LaneLimits,
        judge: Judge,
        ledger: LaneLedger,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.limits = limits
        self._judge = judge
        self._ledger = ledger
        self._clock = clock
        # Twice the capacity: withdrawn events leave their shells in the channel until taken.
        self._send, self._receive = trio.open_memory_channel[Delivery](2 * limits.queue_events)
        self._unfinished: dict[str, Delivery] = {}
        self._reserved = 0
        self._reserved_bytes = 0
        self._front: deque[Delivery] = deque()
        self._claimed: deque[Delivery] = deque()
        self._parked: list[tuple[float, str, Delivery]] = []
        self._idle: trio.CancelScope | None = None
        self._draining = False
        self._halted = False
        self._room_wanted: trio.Event | None = None
        self.turnstile = trio.Lock()
        """Held by the one requester whose turn it is to wait for room."""
        self.current: Attempt | None = None
        self.is_sealed = False

    # -- admission

    def reserve(self, size: int) -> None:
        """Takes room for one event of `size` bytes, or raises `Refused` (`queue_full`)."""
        limits = self.limits
        if not self.has_room(size):
            raise Refused(
                "queue_full",
                "the service's queue is full; send again later",
                retry_after_s=1.0,
                queue_depth=self._reserved,
                queue_capacity=limits.queue_events,
                queue_bytes=self._reserved_bytes,
                queue_bytes_capacity=limits.queue_bytes,
            )
        self._reserved += 1
        self._reserved_bytes += size

    def release(self, size: int) -> None:
        """Gives back room that `reserve` took."""
        self._reserved -= 1
        self._reserved_bytes -= size
        self.wake_waiters()

    def wake_waiters(self) -> None:
        """Lets those who wait for room look again: there may be some, or they may be refused by now."""
        if self._room_wanted is not None:
            self._room_wanted.set()
            self._room_wanted = None

    async def wait_for_room(self) -> None:
        """Waits until some room was given back. Somebody else may take it first."""
        if self._room_wanted is None:
            self._room_wanted = trio.Event()
        await self._room_wanted.wait()

    def deliver(self, delivery: Delivery) -> None:
        """Queues an event whose room is reserved. Synchronous; called when its commit is announced."""
        self._unfinished[delivery.event_id] = delivery
        try:
            self._send.send_nowait(delivery)
        except trio.WouldBlock:
            for queued in (*self._take_queued(), delivery):
                self._send.send_nowait(queued)

    def restore(self, deliveries: Sequence[Delivery]) -> None:
        """Queues what an earlier run accepted, in this order, even beyond the limits. Before any dispatch."""
        for delivery in deliveries:
            self._unfinished[delivery.event_id] = delivery
            self._front.append(delivery)
            self._reserved += 1
            self._reserved_bytes += delivery.size

    def withdraw(self, delivery: Delivery) -> None:
        """Takes back an event that still waits in the queue, and its room with it."""
        delivery.withdrawn = True
        self.finish(delivery)

    def is_waiting(self, ingress: str) -> bool:
        """Whether an event of this ingress is unfinished."""
        return any(delivery.ingress == ingress for delivery in self._unfinished.values())

    def has_room(self, size: int, *, events: int = 1) -> bool:
        """Whether `events` more, of `size` bytes together, would fit."""
        limits = self.limits
        return (
            self._reserved + events <= limits.queue_events
            and self._reserved_bytes + size <= limits.queue_bytes
        )

    def waiting(self, ingress: str) -> list[Delivery]:
        """The queued events of `ingress` that were not attempted yet, oldest first."""
        in_hand = self.current.delivery if self.current is not None else None
        return [
            delivery
            for delivery in self._unfinished.values()
            if delivery.ingress == ingress and delivery.attempt == 0 and delivery is not in_hand
        ]

    def resize(self, limits: LaneLimits) -> None:
        """Takes new limits. What is queued stays, even beyond them. Only while no dispatcher runs."""
        self.limits = limits
        queued = self._take_queued()
        room = 2 * max(limits.queue_events, self._reserved)
        self._send, self._receive = trio.open_memory_channel[Delivery](room)
        for delivery in queued:
            self._send.send_nowait(delivery)

    # -- the end of an attempt, called by the judge

    def finish(self, delivery: Delivery) -> None:
        """The event ended: handled, dead, dropped. Its room is given back."""
        del self._unfinished[delivery.event_id]
        self.release(delivery.size)

    def park(self, delivery: Delivery, delay_s: float) -> None:
        """Tries again after `delay_s`; later events go first."""
        delivery.not_before = self._clock() + delay_s
        heapq.heappush(self._parked, (delivery.not_before, delivery.event_id, delivery))

    def hold(self, delivery: Delivery, delay_s: float) -> None:
        """Tries again after `delay_s`; the lane waits."""
        delivery.not_before = self._clock() + delay_s
        self._put_first(delivery)

    def put_back(self, delivery: Delivery) -> None:
        """Keeps an interrupted event at the head of the queue for the service's next start."""
        self._put_first(delivery)

    def _put_first(self, delivery: Delivery) -> None:
        self._unclaim()
        self._front.appendleft(delivery)

    # -- dispatch

    def drain(self) -> None:
        """Tells the dispatcher to leave once the queue is empty. What is parked or held stays."""
        self._draining = True
        self._wake_dispatcher()

    def halt(self) -> None:
        """Tells the dispatcher to leave after the event in hand. What is queued stays."""
        self._halted = True
        self.drain()

    def seal(self) -> None:
        """The handler in hand was given up for good: nothing follows it."""
        self.is_sealed = True
        self._unclaim()

    def _wake_dispatcher(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    @property
    def depth(self) -> int:
        """How many events are unfinished, or have their room reserved."""
        return self._reserved

    def statistics(self) -> LaneStatistics:
        """The lane now."""
        oldest = next(iter(self._unfinished.values()), None)
        return LaneStatistics(
            depth=self._reserved,
            capacity=self.limits.queue_events,
            bytes=self._reserved_bytes,
            bytes_capacity=self.limits.queue_bytes,
            parked=len(self._parked),
            oldest_waiting_s=None if oldest is None else self._clock() - oldest.accepted_s,
        )

    async def run(self, executor: Executor, interruption: Callable[[], Failure]) -> None:
        """The dispatcher: hands events to `executor` one at a time, until drained, sealed or cancelled.

        Cancelled, the event in hand is judged as `interruption` says, and the others stay where they are.
        """
        self._draining = self._halted = False
        try:
            while (delivery := await self._claimed_or_next()) is not None:
                await self._run_batch(delivery, executor, interruption)
                if self._front or self._claimed:
                    await (
                        trio.lowlevel.checkpoint()
                    )  # the queue is not empty, so nothing else yields
        finally:
            self._unclaim()

    async def _claimed_or_next(self) -> Delivery | None:
        if not self._claimed:
            delivery = await self._next_or_wait()
            if delivery is None:
                return None
            self._claim(delivery)
            if self._ledger.durable:
                self._claim_following(delivery)
                await self._ledger.claim(list(self._claimed))
        return None if self._halted or self.is_sealed else self._claimed.popleft()

    def _claim(self, delivery: Delivery) -> None:
        delivery.attempt += 1
        self._claimed.append(delivery)

    def _claim_following(self, delivery: Delivery) -> None:
        """Claims what comes after it for the same commit; a suspect is claimed alone."""
        while len(self._claimed) < CLAIM_EVENTS and not delivery.is_suspect:
            following = self._next()
            if following is None:
                return
            if following.is_suspect:
                self._front.appendleft(following)
                return
            self._claim(following)

    def _unclaim(self) -> None:
        """Gives back what was claimed and is not in hand, ahead of all that waits."""
        with self._ledger.together() as commit:
            for delivery in reversed(self._claimed):
                delivery.attempt -= 1
                self._ledger.waits(commit, delivery)
                self._front.appendleft(delivery)
        self._claimed.clear()

    def _following(self) -> Delivery | None:
        """The event to go on with in the batch under way."""
        if not self._claimed and not self._ledger.durable and (delivery := self._next()):
            self._claim(delivery)
        if not self._claimed or self._halted or self.is_sealed:
            return None
        return self._claimed.popleft()

    async def _run_batch(
        self, delivery: Delivery, executor: Executor, interruption: Callable[[], Failure]
    ) -> None:
        """Handles up to `BATCH_EVENTS` under one scope. No event is in hand when it returns."""
        attempt: Attempt | None = None
        try:
            # The inner scope is shielded when a handler is given up for wedged: what swallows a pending
            # cancellation would otherwise spin a core.
            with trio.CancelScope() as scope, trio.CancelScope() as give_up:
                begun_s = now = self._clock()
                for _ in range(BATCH_EVENTS):
                    attempt = self._begin(delivery, now, scope, give_up)
                    failure = await executor.handle(attempt)
                    if attempt.is_late:
                        break  # although it came back: the verdict cancelled the scope, which is spent
                    now = self._end(attempt, failure)
                    attempt = None
                    following = self._following()
                    if following is None:
                        return
                    delivery = following
                    if now - begun_s > SLICE_S:
                        break
                if attempt is None:
                    self._claimed.appendleft(delivery)
        except BaseException:
            # Only somebody else's cancellation comes here: what a handler raises is a value.
            if attempt is not None and not attempt.is_wedged:
                self._end(attempt, LATE if attempt.is_late else interruption())
            raise
        if attempt is not None and attempt.is_wedged:
            # It came back after all. Its verdict has fallen, and the lane is sealed.
            self.current = None
            self._front.appendleft(attempt.delivery)
        elif attempt is not None:
            self._end(attempt, LATE)

    def _begin(
        self, delivery: Delivery, now: float, scope: trio.CancelScope, give_up: trio.CancelScope
    ) -> Attempt:
        self.current = attempt = Attempt(delivery, now, self.limits, scope, give_up)
        return attempt

    def _end(self, attempt: Attempt, failure: Failure | None) -> float:
        """Has the attempt judged; gives the time it ended."""
        attempt.is_open = False
        self.current = None
        now = self._clock()
        self._judge(self, attempt, failure, now - attempt.started_s)
        return now

    def _next(self) -> Delivery | None:
        """The event whose turn it is, if there is one now."""
        if self._halted or self.is_sealed:
            return None
        while self._front and self._front[0].withdrawn:
            self._front.popleft()
        if self._front:
            if self._front[0].not_before <= self._clock():
                return self._front.popleft()
            return None  # held: later events wait
        if self._parked and self._parked[0][0] <= self._clock():
            return heapq.heappop(self._parked)[2]
        try:
            while (delivery := self._receive.receive_nowait()).withdrawn:
                pass
        except trio.WouldBlock:
            return None
        return delivery

    async def _next_or_wait(self) -> Delivery | None:
        while (delivery := self._next()) is None:
            if self._draining or self.is_sealed:
                return None
            if self._front:
                due = self._front[0].not_before
            elif self._parked:
                due = self._parked[0][0]
            else:
                due = float("inf")
            with trio.CancelScope(deadline=due) as self._idle:
                if self._front:
                    await trio.sleep_forever()  # until the held event is due, or drain
                # Leaves the taken event where `_next` finds it first; a cancelled receive takes none.
                self._front.append(await self._receive.receive())
            self._idle = None
        return delivery

    def _take_queued(self) -> list[Delivery]:
        """Empties the channel; shells of withdrawn events fall away."""
        taken: list[Delivery] = []
        try:
            while True:
                if not (delivery := self._receive.receive_nowait()).withdrawn:
                    taken.append(delivery)
        except trio.WouldBlock:
            return taken


LATE = Failure(
    outcome="dispatch_timeout", code="dispatch_timeout", message="the handler outlived its deadline"
)


def lane_limits(settings: PluginSettings) -> LaneLimits:
    """The lane's part of a plugin's settings."""
    return LaneLimits(
        queue_events=settings.queue_events,
        queue_bytes=settings.queue_bytes,
        dispatch_timeout_s=settings.dispatch_timeout_s,
        dispatch_warn_s=settings.dispatch_warn_s,
        dispatch_grace_s=settings.dispatch_grace_s,
    )
