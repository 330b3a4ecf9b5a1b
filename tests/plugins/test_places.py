"""The places of a delivery: moves go by the table, and the counts that follow from them are a recount's."""

import ast
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import yoi_daemon
from tests.clocks import ManualClock
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.states import UndefinedTransitionError
from yoi_daemon.plugins.delivery import Delivery, LaneLimits
from yoi_daemon.plugins.lane import places
from yoi_daemon.plugins.lane.places import TRANSITIONS, LaneQueue, move

INGRESSES = ("a", "b")
LIMITS = LaneLimits(
    queue_events=6,
    queue_bytes=60,
    dispatch_timeout_s=1,
    dispatch_warn_s=1,
    dispatch_grace_s=1,
)


def delivery_of(number: int = 0, ingress: str = "a", size: int = 5) -> Delivery:
    return Delivery(
        event_id=f"evt_{number:04}",
        correlation_id="c",
        source="api",
        ingress=ingress,
        payload=b"x" * size,
        created_at="t",
        accepted_s=0,
    )


@pytest.mark.parametrize("to", TRANSITIONS)
@pytest.mark.parametrize("place", TRANSITIONS)
def test_a_delivery_moves_along_the_table_and_not_otherwise(place, to):
    delivery = delivery_of()
    delivery.place = place
    if to in TRANSITIONS[place]:
        move(delivery, to)
        assert delivery.place == to
        return
    with pytest.raises(UndefinedTransitionError, match=f"{place} → {to}"):
        move(delivery, to)
    assert delivery.place == place


@pytest.mark.parametrize(
    ("name", "to"), [("reserve", "reserved"), ("deliver", "queued"), ("release", "ended")]
)
@pytest.mark.parametrize("place", TRANSITIONS)
def test_a_move_that_is_spelled_out_goes_by_the_table_too(name, to, place):
    queue, delivery = LaneQueue(LIMITS, float), delivery_of()
    delivery.place = place
    if to in TRANSITIONS[place]:
        getattr(queue, name)(delivery)
        assert delivery.place == to
        return
    with pytest.raises(UndefinedTransitionError, match=f"{place} → {to}"):
        getattr(queue, name)(delivery)
    assert (delivery.place, queue.depth) == (place, 0)


def test_places_are_changed_in_one_file():
    package = Path(yoi_daemon.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "place"
        if isinstance(node.ctx, ast.Store)
    }
    # A new delivery begins with its first place.
    assert found == {"plugins/lane/places.py", "plugins/delivery.py"}
    assert Path(places.__file__) == package / "plugins/lane/places.py"


class Moves:
    """A queue, as a dispatcher and its requesters use it; `all` is every delivery there ever was."""

    def __init__(self, queue_type: type[LaneQueue]) -> None:
        self.clock = ManualClock(0.0)
        self.queue = queue_type(LIMITS, self.clock)
        self.all: list[Delivery] = []
        self.in_hand: Delivery | None = None

    def at(self, *wanted: str) -> list[Delivery]:
        return [delivery for delivery in self.all if delivery.place in wanted]

    # -- the steps; `number` chooses

    def reserve(self, number: int) -> None:
        delivery = delivery_of(len(self.all), INGRESSES[number % 2], number)
        unfinished = self.at(*UNFINISHED)
        free = LIMITS.queue_bytes - sum(one.size for one in unfinished)
        fits = len(unfinished) < LIMITS.queue_events and number <= free
        try:
            self.queue.reserve(delivery)
        except Refused:
            assert not fits
        else:
            assert fits
            self.all.append(delivery)

    def commit(self, _number: int) -> None:
        for delivery in self.at("reserved"):
            self.queue.deliver(delivery)

    def fail_to_commit(self, _number: int) -> None:
        for delivery in self.at("reserved")[:1]:
            self.queue.release(delivery)

    def take(self, number: int) -> None:
        if self.in_hand is not None:
            return
        taken = self.queue._take_claimed()
        if taken is None:
            for _ in range(number % 4):
                if (following := self.queue._take_next()) is not None:
                    self.queue._claim(following)
            taken = self.queue._take_claimed() or self.queue._take_next()
        if taken is not None:
            move(taken, "in_hand")
            taken.attempt += 1
            self.in_hand = taken

    def end_attempt(self, number: int) -> None:
        delivery, self.in_hand = self.in_hand, None
        if delivery is None:
            return
        match number % 4:
            case 0:
                self.queue.finish(delivery)
            case 1:
                self.queue.park(delivery, number / 4)
            case 2:
                self.queue._return_claimed()
                self.queue.hold(delivery, number / 4)
            case _:
                self.queue._return_claimed()
                self.queue.put_back(delivery)

    def return_claimed(self, _number: int) -> None:
        claimed = {delivery.event_id for delivery in self.at("claimed")}
        assert {delivery.event_id for delivery in self.queue._return_claimed()} == claimed

    def displace(self, number: int) -> None:
        if (oldest := next(self.queue.fresh(INGRESSES[number % 2]), None)) is not None:
            self.queue.finish(oldest)

    def redeliver(self, number: int) -> None:
        dead = [one for one in self.at("ended") if one.attempt]
        if dead and self.queue.has_room((letter := dead[number % len(dead)]).size):
            self.queue.reserve(letter)

    def advance(self, number: int) -> None:
        self.clock.advance(number / 4)

    def resize(self, _number: int) -> None:
        self.queue.resize(LIMITS)

    # -- what must hold

    def recount(self) -> None:
        unfinished = self.at(*UNFINISHED)
        statistics = self.queue.statistics()
        assert statistics.depth == self.queue.depth == len(unfinished)
        assert statistics.bytes == sum(one.size for one in unfinished)
        assert statistics.parked == len(self.at("parked"))
        for ingress in INGRESSES:
            mine = [one for one in self.at(*DELIVERED) if one.ingress == ingress]
            assert self.queue.has_unfinished(ingress) == bool(mine)
            waiting = [one for one in mine if one.place in ("queued", "claimed")]
            fresh = {one.event_id for one in waiting if not one.attempt}
            assert {one.event_id for one in self.queue.fresh(ingress)} == fresh

    def drain(self) -> None:
        """Whatever is unfinished comes to its turn, once."""
        self.commit(0)
        if self.in_hand is not None:
            self.queue.finish(self.in_hand)
        self.queue._return_claimed()
        self.clock.advance(100)
        while (delivery := self.queue._take_next()) is not None:
            move(delivery, "in_hand")
            self.queue.finish(delivery)
        assert not self.at(*UNFINISHED), "an event is lost"
        assert self.queue.statistics().depth == self.queue.statistics().bytes == 0


STEPS = (
    *(Moves.reserve, Moves.commit, Moves.take, Moves.end_attempt),
    *(Moves.fail_to_commit, Moves.return_claimed, Moves.displace, Moves.redeliver),
    *(Moves.advance, Moves.resize),
)
DELIVERED = ("queued", "claimed", "in_hand", "parked", "held")
UNFINISHED = ("reserved", *DELIVERED)


def run_any_moves(queue_type: type[LaneQueue], **options: Any) -> Counter[str]:
    """Runs random steps with a recount after each; returns the places that were seen."""
    seen = Counter[str]()

    @settings(max_examples=200, **options)
    @given(
        st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 20)), min_size=20, max_size=60)
    )
    def run(steps) -> None:
        moves = Moves(queue_type)
        for step, number in steps:
            step(moves, number)
            moves.recount()
            seen.update(delivery.place for delivery in moves.all)
        moves.drain()

    run()
    return seen


def test_any_moves_keep_the_counts():
    assert set(run_any_moves(LaneQueue)) == {"ended", *UNFINISHED}


class ForgetsTheBytes(LaneQueue):
    def release(self, delivery) -> None:
        super().release(delivery)
        self._bytes += 1


class ForgetsAnEvent(LaneQueue):
    def _return_claimed(self):
        self._claimed.clear()
        return super()._return_claimed()


class LeavesItsPlace(LaneQueue):
    def park(self, delivery, delay_s) -> None:
        super().park(delivery, delay_s)
        delivery.place = "queued"


@pytest.mark.parametrize("planted", [ForgetsTheBytes, ForgetsAnEvent, LeavesItsPlace])
def test_the_negative_control_a_wrong_count_is_found(planted):
    with pytest.raises((AssertionError, UndefinedTransitionError)):
        run_any_moves(planted, phases=[Phase.generate], report_multiple_bugs=False)


async def test_who_waits_for_room_is_woken_by_its_freeing(nursery):
    queue, delivery = LaneQueue(LIMITS, float), delivery_of()
    queue.reserve(delivery)
    woken = trio.Event()

    async def wait() -> None:
        await queue.wait_for_room()
        woken.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    queue.release(delivery)
    with trio.fail_after(1):
        await woken.wait()
