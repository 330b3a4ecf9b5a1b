"""Where each delivery of a lane is: one place at a time, changed here alone, along a table.

The containers below keep the order of a place, not who is in it: a delivery that left its place by
another way, as one that was displaced does, is passed over when its turn comes.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.states import UndefinedTransitionError
from yoi_daemon.plugins.delivery import Delivery, LaneLimits, Place

TRANSITIONS: Mapping[Place, frozenset[Place]] = {
    "new": frozenset({"reserved"}),
    # To ended: its acceptance was refused by the log.
    "reserved": frozenset({"queued", "ended"}),
    # To ended: a newer event displaced it. To in_hand: a store that forgets needs no claims.
    "queued": frozenset({"claimed", "in_hand", "ended"}),
    "claimed": frozenset({"in_hand", "queued", "ended"}),
    "in_hand": frozenset({"queued", "parked", "held", "ended"}),
    "parked": frozenset({"queued"}),
    "held": frozenset({"queued"}),
    # A dead letter that is delivered again.
    "ended": frozenset({"reserved"}),
}


def _before(to: Place) -> frozenset[Place]:
    return frozenset(place for place, following in TRANSITIONS.items() if to in following)


# Every event takes these three moves, which therefore are spelled out: a call costs more than its check.
BEFORE_RESERVED, BEFORE_QUEUED, BEFORE_ENDED = map(_before, ("reserved", "queued", "ended"))


def move(delivery: Delivery, to: Place) -> None:
    """Moves a delivery to another place. Raises `UndefinedTransitionError`."""
    if to not in TRANSITIONS[delivery.place]:
        raise _undefined(delivery, to)
    delivery.place = to


def _undefined(delivery: Delivery, to: Place) -> UndefinedTransitionError:
    return UndefinedTransitionError(
        f"{delivery.event_id}: {delivery.place} → {to} is not in the table"
    )


class LaneStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A lane now. `depth` and `bytes` count everything unfinished; `parked` waits for its retry."""

    depth: int
    capacity: int
    bytes: int
    bytes_capacity: int
    parked: int
    oldest_waiting_s: float | None


class LaneQueue:
    """The unfinished deliveries of one lane, within its limits, in the order of their turns.

    Everything but `wait_for_room` is synchronous. `clock` gives seconds.
    """

    def __init__(self, limits: LaneLimits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        self.depth = 0
        """How many deliveries have their room: all that are not new and not ended."""
        self._bytes = 0
        # By ingress and id, in order of delivery: all from queued on.
        self._unfinished: defaultdict[str, dict[str, Delivery]] = defaultdict(dict)
        # Twice the capacity: what was displaced leaves its shell in the channel until it is taken.
        self._send, self._receive = trio.open_memory_channel[Delivery](2 * limits.queue_events)
        self._front: deque[Delivery] = deque()
        """Queued or held, ahead of the channel."""
        self._claimed: deque[Delivery] = deque()
        self._parked: list[tuple[float, str, Delivery]] = []
        """A heap, by when each is due."""
        self._room_wanted: trio.Event | None = None
        self.turnstile = trio.Lock()
        """Held by the one requester whose turn it is to wait for room."""

    # -- room

    def has_room(self, size: int, *, events: int = 1) -> bool:
        """Returns whether `events` more, of `size` bytes together, would fit."""
        limits = self.limits
        return (
            self.depth + events <= limits.queue_events and self._bytes + size <= limits.queue_bytes
        )

    def reserve(self, delivery: Delivery) -> None:
        """Takes room for a delivery. Raises `Refused` (`queue_full`)."""
        size, limits = delivery.size, self.limits
        if self.depth >= limits.queue_events or self._bytes + size > limits.queue_bytes:
            raise Refused(
                "queue_full",
                "the service's queue is full; send again later",
                retry_after_s=1.0,
                queue_depth=self.depth,
                queue_capacity=limits.queue_events,
                queue_bytes=self._bytes,
                queue_bytes_capacity=limits.queue_bytes,
            )
        if delivery.place not in BEFORE_RESERVED:
            raise _undefined(delivery, "reserved")
        delivery.place = "reserved"
        self.depth += 1
        self._bytes += size

    def release(self, delivery: Delivery) -> None:
        """Frees the room of a delivery that ended: it is in no queue any more, or never was."""
        if delivery.place not in BEFORE_ENDED:
            raise _undefined(delivery, "ended")
        delivery.place = "ended"
        self.depth -= 1
        self._bytes -= delivery.size
        if self._room_wanted is not None:
            self.wake_waiters()

    def wake_waiters(self) -> None:
        """Wakes those who wait for room: there may be some, or they may be refused by now."""
        if self._room_wanted is not None:
            self._room_wanted.set()
            self._room_wanted = None

    async def wait_for_room(self) -> None:
        """Waits until some room was freed. Somebody else may take it first."""
        if self._room_wanted is None:
            self._room_wanted = trio.Event()
        await self._room_wanted.wait()

    # -- coming in, and ending

    def deliver(self, delivery: Delivery) -> None:
        """Queues a delivery that has its room; called when its commit is announced."""
        if delivery.place not in BEFORE_QUEUED:
            raise _undefined(delivery, "queued")
        delivery.place = "queued"
        self._unfinished[delivery.ingress][delivery.event_id] = delivery
        try:
            self._send.send_nowait(delivery)
        except trio.WouldBlock:
            for queued in (*self._take_queued(), delivery):
                self._send.send_nowait(queued)

    def restore(self, deliveries: Sequence[Delivery]) -> None:
        """Queues what an earlier run accepted, in this order, even beyond the limits. Before any dispatch."""
        for delivery in deliveries:
            move(delivery, "reserved")
            self.depth += 1
            self._bytes += delivery.size
            move(delivery, "queued")
            self._unfinished[delivery.ingress][delivery.event_id] = delivery
            self._front.append(delivery)

    def finish(self, delivery: Delivery) -> None:
        """Ends a delivery: handled, dead or displaced. Its room is free."""
        self.release(delivery)
        del self._unfinished[delivery.ingress][delivery.event_id]

    def park(self, delivery: Delivery, delay_s: float) -> None:
        """Tries again after `delay_s`; later events go first."""
        move(delivery, "parked")
        delivery.not_before = self._clock() + delay_s
        heapq.heappush(self._parked, (delivery.not_before, delivery.event_id, delivery))

    def hold(self, delivery: Delivery, delay_s: float) -> None:
        """Tries again after `delay_s`; the lane waits."""
        move(delivery, "held")
        delivery.not_before = self._clock() + delay_s
        self._put_first(delivery)

    def put_back(self, delivery: Delivery) -> None:
        """Queues an interrupted event again, ahead of all others."""
        move(delivery, "queued")
        self._put_first(delivery)

    def _put_first(self, delivery: Delivery) -> None:
        self._front.appendleft(delivery)

    # -- questions

    def has_unfinished(self, ingress: str) -> bool:
        """Returns whether an event of this ingress is unfinished."""
        return bool(self._unfinished.get(ingress))

    def fresh(self, ingress: str) -> Iterator[Delivery]:
        """Returns the events of `ingress` of which no attempt has begun, oldest first.

        They are queued, or claimed and not yet in hand.
        """
        for delivery in self._unfinished.get(ingress, {}).values():
            if not delivery.attempt and delivery.place in ("queued", "claimed"):
                yield delivery

    def statistics(self) -> LaneStatistics:
        """Returns the lane as it is now."""
        firsts = (
            next(iter(some.values())).accepted_s for some in self._unfinished.values() if some
        )
        oldest_s = min(firsts, default=None)
        return LaneStatistics(
            depth=self.depth,
            capacity=self.limits.queue_events,
            bytes=self._bytes,
            bytes_capacity=self.limits.queue_bytes,
            parked=len(self._parked),
            oldest_waiting_s=None if oldest_s is None else self._clock() - oldest_s,
        )

    def resize(self, limits: LaneLimits) -> None:
        """Takes new limits. What is queued stays, even beyond them. Only while no dispatcher runs."""
        self.limits = limits
        queued = self._take_queued()
        room = 2 * max(limits.queue_events, self.depth)
        self._send, self._receive = trio.open_memory_channel[Delivery](room)
        for delivery in queued:
            self._send.send_nowait(delivery)

    # -- taking, for the dispatcher

    def _take_next(self) -> Delivery | None:
        """Takes the queued event whose turn it is; None where there is none, or the held one is not due."""
        front = self._front
        while front and front[0].place == "ended":
            front.popleft()
        if front:
            delivery = front[0]
            if delivery.place == "held":
                if delivery.not_before > self._clock():
                    return None
                move(delivery, "queued")
            return front.popleft()
        if self._parked and self._parked[0][0] <= self._clock():
            delivery = heapq.heappop(self._parked)[2]
            move(delivery, "queued")
            return delivery
        try:
            while (delivery := self._receive.receive_nowait()).place == "ended":
                pass
        except trio.WouldBlock:
            return None
        return delivery

    def _due_s(self) -> float:
        """Returns when what waits for a time is due: the held event, or the next parked one."""
        if self._front:
            return self._front[0].not_before
        return self._parked[0][0] if self._parked else float("inf")

    def _claim(self, delivery: Delivery) -> None:
        move(delivery, "claimed")
        self._claimed.append(delivery)

    def _take_claimed(self) -> Delivery | None:
        while self._claimed:
            if (delivery := self._claimed.popleft()).place == "claimed":
                return delivery
        return None

    def _return_first(self, delivery: Delivery) -> None:
        """Undoes the taking of an event that was not begun."""
        (self._claimed if delivery.place == "claimed" else self._front).appendleft(delivery)

    def _return_claimed(self) -> list[Delivery]:
        """Queues again what is claimed, ahead of all others; returns it, the last first."""
        returned: list[Delivery] = []
        for delivery in reversed(self._claimed):
            if delivery.place == "claimed":
                move(delivery, "queued")
                self._front.appendleft(delivery)
                returned.append(delivery)
        self._claimed.clear()
        return returned

    def _take_queued(self) -> list[Delivery]:
        """Empties the channel; what was displaced falls away."""
        taken: list[Delivery] = []
        try:
            while True:
                if (delivery := self._receive.receive_nowait()).place != "ended":
                    taken.append(delivery)
        except trio.WouldBlock:
            return taken
