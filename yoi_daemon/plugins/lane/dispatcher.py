"""A service's lane: a bounded memory channel, one dispatcher, a deadline for each attempt.

Admission reserves room synchronously, before the commit; the room is free again when the event ends.
So the channel itself is never the limit, and depth counts everything unfinished. Handlers run one at a time. On a durable store up to 256
events are claimed together: their attempts are committed before the first of their handlers runs. Up
to 64 events share one cancel scope, and one watchdog serves all lanes, because a deadline of its own
would cost an event about as much as all the rest of its way through the lane (`scripts/bench dispatch`).
"""

from collections.abc import Callable
from typing import Protocol

import trio

from yoi_daemon.model.settings import PluginSettings
from yoi_daemon.plugins.delivery import Attempt, Delivery, Failure, LaneLimits
from yoi_daemon.plugins.execution.interface import Executor
from yoi_daemon.plugins.lane.ledger import LaneLedger
from yoi_daemon.plugins.lane.places import LaneQueue, move

BATCH_EVENTS = 64
CLAIM_EVENTS = 256
"""A commit, and a pass over all subscribers after it, cost the same for few events as for many: with 64
the way of an event to 100 subscribers took a third more (`scripts/bench durable`). After a crash as
many are attempted one at a time, a commit each."""
SLICE_S = 0.005
"""A batch ends after 5 ms, so that a busy lane lets the others run."""


class Judge(Protocol):
    """Judges an attempt. Synchronous: the verdict and its consequence are one step."""

    def __call__(
        self, lane: "Lane", attempt: Attempt, failure: Failure | None, duration_s: float
    ) -> None:
        """`failure` is None for a handled event. Calls one of `finish`, `park`, `hold`, `put_back`."""
        ...


class Lane(LaneQueue):
    """One service's queue and its dispatcher. It outlives the service's restarts."""

    def __init__(
        self,
        limits: LaneLimits,
        judge: Judge,
        ledger: LaneLedger,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        super().__init__(limits, clock)
        self._judge = judge
        self._ledger = ledger
        self._has_claims = ledger.durable
        self._idle: trio.CancelScope | None = None
        self._draining = False
        self._halted = False
        self.current: Attempt | None = None
        self.is_sealed = False

    def displace(self, delivery: Delivery) -> None:
        """Ends a delivery in favour of a newer one, and withdraws its claim from the store."""
        if delivery.place == "claimed":
            self._ledger.unclaim(delivery)
        self.finish(delivery)

    # -- dispatch

    def drain(self) -> None:
        """Ends `run` once the queue is empty. What is parked or held stays."""
        self._draining = True
        self._wake_dispatcher()

    def halt(self) -> None:
        """Ends `run` after the event in hand. What is queued stays."""
        self._halted = True
        self.drain()

    def seal(self) -> None:
        """Gives the handler in hand up for good: nothing follows it."""
        self.is_sealed = True
        self._unclaim()

    def _wake_dispatcher(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    async def run(self, executor: Executor, interruption: Callable[[], Failure]) -> None:
        """Hands events to `executor` one at a time, until drained, sealed or cancelled.

        Cancelled, the event in hand is judged as `interruption` says, and the others stay where they are.
        """
        self._draining = self._halted = False
        try:
            while (delivery := await self._next_to_begin()) is not None:
                await self._run_batch(delivery, executor, interruption)
                if self._front or self._claimed:
                    await (
                        trio.lowlevel.checkpoint()
                    )  # the queue is not empty, so nothing else yields
        finally:
            self._unclaim()

    async def _next_to_begin(self) -> Delivery | None:
        """Waits for the event to begin a batch with; on a durable store its claim is committed."""
        while (delivery := self._following()) is None:
            delivery = await self._next_or_wait()
            if delivery is None or not self._has_claims:
                return delivery
            self._claim(delivery)
            self._claim_following(delivery)
            # What is displaced meanwhile is passed over.
            await self._ledger.claim(list(self._claimed))
        return delivery

    def _claim_following(self, delivery: Delivery) -> None:
        """Claims what comes after it for the same commit; a suspect is claimed alone."""
        while len(self._claimed) < CLAIM_EVENTS and not delivery.is_suspect:
            following = self._next()
            if following is None:
                return
            if following.is_suspect:
                self._return_first(following)
                return
            self._claim(following)

    def _unclaim(self) -> None:
        """Queues what is claimed and not in hand again, ahead of all that waits."""
        if not self._claimed:
            return
        with self._ledger.together() as commit:
            for delivery in self._return_claimed():
                self._ledger.waits(commit, delivery)

    def _put_first(self, delivery: Delivery) -> None:
        self._unclaim()
        super()._put_first(delivery)

    def _following(self) -> Delivery | None:
        """Takes the next event of the batch, if one is ready."""
        if self._halted or self.is_sealed:
            return None
        return self._take_claimed() if self._has_claims else self._take_next()

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
                    move(delivery, "in_hand")
                    delivery.attempt += 1
                    attempt = Attempt(delivery, now, self.limits, scope, give_up)
                    self.current = attempt
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
                    self._return_first(delivery)
        except BaseException:
            # Only somebody else's cancellation comes here: what a handler raises is a value.
            if attempt is not None and not attempt.is_wedged:
                self._end(attempt, LATE if attempt.is_late else interruption())
            raise
        if attempt is not None and attempt.is_wedged:
            # It returned after all. It was judged when it was given up, and the lane is sealed.
            self.current = None
            self.put_back(attempt.delivery)
        elif attempt is not None:
            self._end(attempt, LATE)

    def _end(self, attempt: Attempt, failure: Failure | None) -> float:
        """Has the attempt judged and returns the time it ended."""
        attempt.is_open = False
        self.current = None
        now = self._clock()
        self._judge(self, attempt, failure, now - attempt.started_s)
        return now

    def _next(self) -> Delivery | None:
        """Takes the event whose turn it is, if there is one now."""
        return None if self._halted or self.is_sealed else self._take_next()

    async def _next_or_wait(self) -> Delivery | None:
        while (delivery := self._next()) is None:
            if self._draining or self.is_sealed:
                return None
            with trio.CancelScope(deadline=self._due_s()) as self._idle:
                if self._front:
                    await trio.sleep_forever()  # until the held event is due, or drain
                # Leaves the taken event where `_next` finds it first; a cancelled receive takes none.
                self._front.append(await self._receive.receive())
            self._idle = None
        return delivery


LATE = Failure(
    outcome="dispatch_timeout", code="dispatch_timeout", message="the handler outlived its deadline"
)


def lane_limits(settings: PluginSettings) -> LaneLimits:
    """Returns the lane's part of a plugin's settings."""
    return LaneLimits(
        queue_events=settings.queue_events,
        queue_bytes=settings.queue_bytes,
        dispatch_timeout_s=settings.dispatch_timeout_s,
        dispatch_warn_s=settings.dispatch_warn_s,
        dispatch_grace_s=settings.dispatch_grace_s,
    )
