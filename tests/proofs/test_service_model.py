"""Random lives of one service against a small model: what is asked, in which order, changes no invariant.

Each run is a list of steps, done one after the other on one rig, under a clock that jumps. The model says
what each acceptance must answer, and the books where each accepted event must be.
"""

from collections import Counter
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.plugins.rig import open_rig
from tests.proofs.books import Books, Runs
from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.lane.dispatcher import Lane
from yoi_daemon.sdk import Plugin, Retry

pytestmark = pytest.mark.prove

STEPS = 50
SETTINGS: dict[str, Any] = {
    "queue_events": 4,
    "queue_bytes": 900,
    "event_bytes": 900,
    "dispatch_timeout_s": 5,
    "drain_s": 3,
    "redeliver_per_s": 10_000,
}
TIMER = "tick"
TIMER_BYTES = len('{"scheduled_at":"2027-01-15T08:00:00.000000Z"}')

# -- the steps

acts = st.sampled_from(
    ["ok", "slow", "slow", "fail", "retry", "retry_after", "exit", "timeout", "swallow"]
)
plans = st.lists(acts, min_size=1, max_size=4)
keys = st.sampled_from([None, None, None, "k1", "k2", "k3", "k4"])
ingresses = st.sampled_from(
    ["rejects", "holds", "waits", "drops", "drops", "coalesces", "coalesces"]
)
accepts = st.fixed_dictionaries(
    {
        "do": st.just("accept"),
        "ingress": ingresses,
        "plan": plans,
        "group": st.integers(0, 1),
        "pad": st.sampled_from([0, 0, 100, 400]),
        "key": keys,
    }
)
simple = st.fixed_dictionaries(
    {
        "do": st.sampled_from(
            ["stop", "start", "start", "restart", "crash", "redeliver", "redeliver", "discard"]
        ),
        "nth": st.integers(0, 3),
        "waits": st.booleans(),
    }
)
again = st.fixed_dictionaries(
    {"do": st.just("again"), "nth": st.integers(0, 50), "same": st.booleans()}
)
advances = st.fixed_dictionaries(
    {"do": st.just("advance"), "seconds": st.sampled_from([0.0, 0.1, 1.0, 3.0, 10.0, 40.0])}
)
# Mostly acceptances, so that the queue is full at times.
step = st.sampled_from([accepts] * 8 + [again, advances, advances, simple, simple]).flatmap(
    lambda one: one
)
lives = st.fixed_dictionaries(
    {
        "steps": st.lists(step, min_size=STEPS, max_size=STEPS),
        "stops": st.booleans(),
        "wedges": st.sampled_from([None, None, None, 10, 30]),
    }
)


class Asked:
    """One acceptance that was asked for."""

    def __init__(self, ingress: str, payload: bytes, key: str | None) -> None:
        self.ingress = ingress
        self.payload = payload
        self.key = key
        self.answer: Any = None


class Life:
    """One run."""

    def __init__(
        self,
        steps: list[dict[str, Any]],
        *,
        stops: bool,
        wedges: int | None,
        plant: type[Lane] = Lane,
    ) -> None:
        self.steps = steps
        self.plant = plant
        self.stops = stops
        self.wedges = wedges
        """After so many steps an event comes whose handler ignores its cancellation."""
        self.runs = Runs()
        self.books = Books()
        self.asked: list[Asked] = []
        self.keys: dict[tuple[str, str], Asked] = {}
        """The first that was accepted with each key."""
        self.bodies: dict[str, bytes] = {}
        self.runs_when_wedged: int | None = None
        self.crashing = trio.Event()

    def plugin(self) -> Plugin:
        plugin = Plugin("p")

        async def crash_when_told() -> None:
            await self.crashing.wait()
            raise RuntimeError("crash")

        @plugin.start
        async def start(ctx) -> None:
            self.crashing = trio.Event()
            nursery = await ctx.enter(trio.open_nursery())
            nursery.start_soon(crash_when_told)

        async def handle(ctx, event) -> None:
            self.runs.begin(event)
            try:
                await self.act(event)
            finally:
                self.runs.end()

        plugin.ingress("rejects")(handle)
        plugin.ingress("holds", on_retry="hold")(handle)
        plugin.ingress("waits", overflow="wait", wait_s=5)(handle)
        plugin.ingress("drops", overflow="drop_oldest")(handle)
        plugin.ingress("coalesces", overflow="coalesce", coalesce_by="group")(handle)

        @plugin.every(seconds=20)
        async def tick(ctx, event) -> None:
            await handle(ctx, event)

        return plugin

    async def act(self, event) -> None:
        plan = event.payload.get("plan", ["slow"])
        match plan[min(event.attempt, len(plan)) - 1]:
            case "ok":
                await trio.lowlevel.checkpoint()
            case "slow":
                await trio.sleep(2)
            case "fail":
                await trio.sleep(0.5)
                raise ValueError("failed")
            case "retry":
                raise Retry
            case "retry_after":
                raise Retry(after_s=4)
            case "exit":
                raise SystemExit(1)
            case "timeout":
                await trio.sleep_forever()
            case "swallow":
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.sleep(3)
            case "wedge":
                with trio.CancelScope(shield=True):
                    await trio.sleep(30)

    # -- the run

    async def run(self) -> None:
        async with open_rig() as self.rig, trio.open_nursery() as self.nursery:
            self.service = self.rig.add(self.plugin(), **SETTINGS)
            self.service.lane.__class__ = self.plant
            with trio.fail_after(10_000):
                for number, one in enumerate(self.steps):
                    if number == self.wedges:
                        await self.command(self.service.start)
                        await self.advance(20)
                        await self.ask("rejects", {"plan": ["wedge"]}, None)
                    await getattr(self, one["do"])(**{key: one[key] for key in one if key != "do"})
                    await self.look()
                await self.end()
            assert not self.nursery.child_tasks, "a command or a requester hangs"

    async def look(self) -> None:
        """Waits until all that was numbered is committed and answered, then holds everything against everything."""
        log = self.rig.event_log
        with trio.fail_after(1):
            while log.head < log.appended or self.unanswered():
                await trio.lowlevel.checkpoint()
        self.books.check(self.service, self.runs, self.size_of)
        self.books.check_held(self.runs, "holds")
        if self.service.supervisor.is_wedged:
            if self.runs_when_wedged is None:
                self.runs_when_wedged = len(self.runs.begun)
            assert len(self.runs.begun) == self.runs_when_wedged, "a sealed lane goes on"

    def unanswered(self) -> bool:
        """Whether an accepted event's requester did not come to its turn yet."""
        self.books.read(self.rig.event_log)
        return any(
            ingress != TIMER and event_id not in self.bodies
            for event_id, ingress in self.books.ingress.items()
        )

    def size_of(self, event_id: str) -> int:
        if self.books.ingress[event_id] == TIMER:
            return TIMER_BYTES
        return len(self.bodies[event_id])

    async def end(self) -> None:
        """Drained or stopped, and a second later."""
        if self.stops:
            await self.command(self.service.stop)
        else:
            for _ in range(200):
                if self.service.supervisor.is_wedged or not self.service.lane.statistics().depth:
                    break
                await self.command(self.service.start)
                await self.advance(10)
            else:
                pytest.fail("the lane does not drain")
        await self.advance(300 if self.service.supervisor.is_wedged else 30)
        await self.look()
        self.books.check_at_rest(self.service)
        self.check_answers()
        if not self.stops and not self.service.supervisor.is_wedged:
            await self.command(self.service.stop)

    def check_answers(self) -> None:
        """Every accepted event was answered, and each key and body has one event."""
        first: dict[Any, str] = {}
        for asked in self.asked:
            assert asked.answer is not None, "a requester was not answered"
            if not isinstance(asked.answer, Refused):
                event_id = asked.answer.event_id
                who = id(asked) if asked.key is None else (asked.ingress, asked.key, asked.payload)
                assert first.setdefault(who, event_id) == event_id, "a duplicate got another event"
        assert len(set(first.values())) == len(first), "two requests are one event"
        answered = {*first.values()}
        told = {one for one in self.books.accepted if self.books.ingress[one] != TIMER}
        assert answered == told, "accepted and not answered, or answered and not accepted"

    # -- what the model says

    def expected(self, asked: Asked) -> tuple[str, list[str]]:
        """What the answer must be now, and which events lose their place by it."""
        service, size = self.service, len(asked.payload)
        if asked.key is not None:
            known = self.keys.get((asked.ingress, asked.key))
            if known is not None:
                return ("same" if known.payload == asked.payload else "delivery_id_conflict"), []
        refusal = service.refusal()
        if refusal is not None:
            return refusal.code, []
        waiting = self.books.at("waiting")
        free_bytes = SETTINGS["queue_bytes"] - sum(map(self.size_of, waiting))
        free = SETTINGS["queue_events"] - len(waiting)
        if free > 0 and size <= free_bytes:
            return "accepted", []
        begun = {event_id for event_id, _ in self.runs.begun}
        fresh = [
            one for one in waiting if self.books.ingress[one] == asked.ingress and one not in begun
        ]
        if asked.ingress == "drops":
            lost: list[str] = []
            for one in fresh:
                lost.append(one)
                free, free_bytes = free + 1, free_bytes + self.size_of(one)
                if free > 0 and size <= free_bytes:
                    return "accepted", lost
        if asked.ingress == "coalesces":
            for one in fresh:
                if group_of(self.bodies[one]) == group_of(asked.payload):
                    fits = size <= free_bytes + self.size_of(one) and free >= 0
                    return ("accepted", [one]) if fits else ("queue_full", [])
        return "queue_full", []

    # -- the steps

    async def accept(self, ingress, plan, group, pad, key) -> None:
        await self.ask(ingress, {"plan": plan, "group": group, "pad": "x" * pad}, key)

    async def again(self, nth: int, same: bool) -> None:
        """A key that was used, with the same body or another."""
        used = [asked for asked in self.asked if asked.key is not None]
        if used:
            one = used[nth % len(used)]
            body = msgspec.json.decode(one.payload)
            await self.ask(one.ingress, body if same else body | {"other": 1}, one.key)

    async def ask(self, ingress: str, body: Any, key: str | None) -> None:
        asked = Asked(ingress, msgspec.json.encode(body), key)
        self.asked.append(asked)
        alike = [one for one in self.asked if key and (one.ingress, one.key) == (ingress, key)]
        if any(one.answer is None for one in alike[:-1]):
            self.nursery.start_soon(self.send, asked)  # whose key is under way has no answer yet
            return
        await self.look()
        expected, lost = self.expected(asked)
        if expected == "queue_full" and ingress == "waits":
            self.nursery.start_soon(self.send, asked)
            return
        for one in lost:
            self.books.displace(one, "dropped" if ingress == "drops" else "coalesced")
        # No checkpoint since the model was asked.
        await self.send(asked)
        if isinstance(asked.answer, Refused):
            assert asked.answer.code == expected
        elif expected == "same":
            first = self.keys[ingress, key or ""].answer
            assert asked.answer.event_id == first.event_id, "a duplicate got another answer"
        else:
            assert expected == "accepted", f"accepted, and should be {expected}"

    async def send(self, asked: Asked) -> None:
        accept = self.rig.admission.accept
        call = accept(self.service, asked.ingress, asked.payload, key=asked.key)
        asked.answer = await answered(call)
        if not isinstance(asked.answer, Refused):
            self.bodies.setdefault(asked.answer.event_id, asked.payload)
            if asked.key is not None:
                self.keys.setdefault((asked.ingress, asked.key), asked)

    async def advance(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def command(self, function) -> None:
        try:
            await function()
        except Refused as refused:
            if refused.code != "invalid_state":
                raise

    async def _tell(self, function, waits: bool) -> None:
        if waits:
            await self.command(function)
        else:
            self.nursery.start_soon(self.command, function)

    async def stop(self, nth: int, waits: bool) -> None:
        await self._tell(self.service.stop, waits)

    async def start(self, nth: int, waits: bool) -> None:
        await self._tell(self.service.start, waits)

    async def restart(self, nth: int, waits: bool) -> None:
        await self._tell(self.service.restart, waits)

    async def crash(self, nth: int, waits: bool) -> None:
        self.crashing.set()
        if waits:
            await self.advance(0)

    async def redeliver(self, nth: int, waits: bool) -> None:
        dead = self.books.at("dead")
        event_id = dead[nth % len(dead)] if dead else "evt_none"
        refusal = self.service.refusal()
        waiting = self.books.at("waiting")
        if not dead:
            expected = "event_not_found"
        elif refusal is not None:
            expected = refusal.code
        elif len(waiting) >= SETTINGS["queue_events"] or SETTINGS["queue_bytes"] < sum(
            map(self.size_of, [*waiting, event_id])
        ):
            expected = "queue_full"
        else:
            expected = None
        answer = await answered(self.rig.admission.redeliver(self.service, event_id))
        code = answer.code if isinstance(answer, Refused) else None
        assert code == expected
        if expected is None:
            assert answer.event_id == event_id

    async def discard(self, nth: int, waits: bool) -> None:
        dead = self.books.at("dead")
        event_id = dead[nth % len(dead)] if dead else "evt_none"
        answer = await answered(self._discard(event_id))
        if isinstance(answer, Refused):
            assert not dead
            assert answer.code == "event_not_found"

    async def _discard(self, event_id: str) -> None:
        """As `PluginHost.discard` does."""
        _, seq = self.service.settlement.discard(event_id)
        await self.rig.event_log.committed(seq)


async def answered(call: Any) -> Any:
    """What it returns, or the refusal."""
    try:
        return await call
    except Refused as refused:
        return refused


def group_of(body: bytes) -> Any:
    return msgspec.json.decode(body)["group"]


def live(life: dict[str, Any], plant: type[Lane] = Lane) -> Life:
    one = Life(**life, plant=plant)
    trio.run(one.run, clock=MockClock(autojump_threshold=0))
    return one


def test_a_service_lives_by_its_model(full, quiet):
    kinds = Counter[str]()
    runs = 500 if full else 60

    @settings(max_examples=runs, deadline=None, suppress_health_check=list(HealthCheck))
    @given(lives)
    def one_life(life) -> None:
        entries = live(life).rig.event_log.read(0, 1 << 30)
        kinds.update(entry.kind.removeprefix("plugin.ingress.") for entry in entries)

    one_life()
    print(f"{runs} runs of {STEPS} steps: {dict(kinds)}")
    outcomes = {"handled", "handler_failed", "dispatch_timeout", "retry_scheduled", "interrupted"}
    ends = {"dead_lettered", "discarded", "dropped", "coalesced", "plugin.wedged", "plugin.state"}
    assert outcomes | ends <= set(kinds), "something never happened"


class KeepsRoomOfTheDisplaced(Lane):
    def displace(self, delivery) -> None:
        reserved = self.depth, self._bytes
        super().displace(delivery)
        self.depth, self._bytes = reserved


class PutsTheInterruptedBehind(Lane):
    def put_back(self, delivery) -> None:
        self.park(delivery, 0)


class HoldsNothing(Lane):
    def hold(self, delivery, delay_s) -> None:
        self.park(delivery, delay_s)


class LeavesTheDisplacedInItsPlace(Lane):
    def displace(self, delivery) -> None:
        super().displace(delivery)
        delivery.place = "queued"


class GoesOnWhenSealed(Lane):
    def seal(self) -> None: ...


@pytest.mark.parametrize(
    "plant",
    [
        KeepsRoomOfTheDisplaced,
        PutsTheInterruptedBehind,
        HoldsNothing,
        LeavesTheDisplacedInItsPlace,
        GoesOnWhenSealed,
    ],
)
def test_control_a_planted_bug_is_caught(plant, quiet):
    """Of the same lives at least one does not go by the model."""
    caught: list[BaseException] = []

    @settings(
        max_examples=100,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(lives)
    def one_life(life) -> None:
        if not caught:
            try:
                live(life, plant)
            except BaseException as error:  # noqa: BLE001 (whatever it breaks, it shows)
                caught.append(error)

    one_life()
    assert caught, "nothing was noticed"
    leaf = caught[0]
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    print(f"{plant.__name__}: {type(leaf).__name__}: {str(leaf)[:80]}")
