"""One simulated history: a daemon's plugin path on a disk, lived several times, disturbed as a plan says.

The first two lives may be cut short: a task is cancelled, the power fails, an operation of the disk does.
The last is left alone, and must bring everything to an end.
"""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple

import msgspec
import trio

from tests.clocks import ManualClock
from tests.plugins.rig import Rig
from tests.sim.disk import Disk, SimulatedStore
from tests.sim.promises import check_order, check_promises
from tests.sim.scheduler import Scheduler
from yoi_daemon.eventlog.opening import open_event_log
from yoi_daemon.model.cursor import decode_cursor
from yoi_daemon.model.errors import CODES, Refused, StorageFailed
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.plugins import IngressReceipt
from yoi_daemon.model.settings import ObserveSettings
from yoi_daemon.plugins.execution.watchdog import run_watchdog
from yoi_daemon.plugins.lane.ledger import restore
from yoi_daemon.plugins.supervision.service import Service
from yoi_daemon.sdk import Plugin, Retry

DISTURBED_LIVES = 2
ATTEMPTS = 2
STOP_BUDGET_S = 40
"""A tenth of it is the grace of a handler that is cancelled: more than a task is ever starved."""
DELAYS = (0, 0, 0, 0.01, 0.3, 3)
"""Of a commit, in seconds, chosen from: a disk has its moods."""
WHOLE, POWER, POWERS, FAULT = "whole", "power", "powers", "fault"


class Plan(NamedTuple):
    """What makes a history, as text `policy:seed` or `policy:seed:what@when`.

    `what` is a task by its name, `whole` for all of them, `power`, `powers` or `fault`; `when` a number of
    moments (twice the steps) of the disturbed lives, for `powers` of each of them, for `fault` of operations.
    """

    policy: str
    seed: int
    what: str | None = None
    when: int = 0

    def __str__(self) -> str:
        disturbance = "" if self.what is None else f":{self.what}@{self.when}"
        return f"{self.policy}:{self.seed}{disturbance}"

    @classmethod
    def parse(cls, text: str) -> "Plan":
        policy, seed, *disturbance = text.split(":")
        if not disturbance:
            return cls(policy, int(seed))
        what, when = disturbance[0].split("@")
        return cls(policy, int(seed), what, int(when))


class Plant(NamedTuple):
    """A planted bug: what `on_service` does to each service before it runs."""

    name: str
    on_service: Callable[[Rig, Service], None]


NOTHING = Plant("nothing", lambda _rig, _service: None)


class World:
    """A history: what is on the disk, what the clients were told, what the handlers did."""

    def __init__(
        self, plan: Plan, plant: Plant = NOTHING, *, delays: Sequence[float] = DELAYS
    ) -> None:
        self.plan = plan
        self.delays = delays
        self.scheduler = Scheduler(plan.policy, plan.seed)
        self.chance = Random(plan.seed)
        self.disk = Disk()
        self.fired = False
        """The disturbance came to pass."""
        self.problems: list[str] = []
        self.receipts: dict[str, IngressReceipt] = {}
        self.sent: dict[str, tuple[str, str]] = {}
        self.begun: list[tuple[str, int]] = []
        """The runs of the handler, as (event id, attempt)."""
        self.displaced: set[str] = set()
        """Those that lost their place. A crash before that is told gives it back, behind the others."""
        self.ids = IdSource(ManualClock(), bytes)
        self.plant = plant
        self.window_events = self.chance.choice((100_000, 25))
        self._moments_left = plan.when if plan.what != FAULT else -1
        self._operations_left = plan.when if plan.what == FAULT else -1
        self._life: Life | None = None
        self.scope: trio.CancelScope | None = None
        """Of whom the plan cancels, while it runs."""

    def run(self) -> "World":
        """Lives it to the end. Raises `AssertionError` with how to replay it."""
        self.scheduler.on_moment = self._moment
        try:
            self.scheduler.run(self._run)
            assert not self.problems, self.problems
            died = self.plan.what in (POWER, POWERS, FAULT)
            in_order = [run for run in self.begun if run[0] not in self.displaced]
            check_promises(self.disk, self.receipts, self.begun, attempts=ATTEMPTS, died=died)
            check_order(self.disk, in_order)
        except BaseException as error:
            error.add_note(f"replay: scripts/prove tests/sim --replay {self.plan}")
            raise
        return self

    async def _run(self) -> None:
        for number in range(DISTURBED_LIVES + 1):
            self._life = Life(self, number)
            if self.plan.what == POWERS:
                self._moments_left = self.plan.when
            self.scheduler.note(f"life {number}")
            try:
                await self._life.live()
            except* StorageFailed:
                self.scheduler.note("storage failed")
                assert self._life.hurt, "the storage failed by itself"
            self._life = None

    def operate(self, what: str) -> None:
        """Counts an operation on the disk. Raises `StorageFailed` where the plan says so."""
        self.scheduler.note(what)
        if self._life is None or self._life.number >= DISTURBED_LIVES or self.fired:
            if self._life is not None and self._life.hurt == FAULT:
                raise StorageFailed("the disk is gone")
            return
        self._operations_left -= 1
        if self._operations_left == -1 and self.plan.what == FAULT:
            self.fired = True
            self._life.hurt = FAULT
            raise StorageFailed("injected")

    def _moment(self) -> None:
        life, what = self._life, self.plan.what
        if life is None or life.number >= DISTURBED_LIVES or life.scope is None:
            return
        if what in (None, FAULT) or (self.fired and what != POWERS):
            return
        if what not in (WHOLE, POWER, POWERS) and self.scope is None:
            return
        self._moments_left -= 1
        if self._moments_left != -1:
            return
        self.fired = True
        self.scheduler.note(f"{what}!")
        if what in (POWER, POWERS):
            life.die()
        elif what == WHOLE:
            life.hurt = WHOLE
            life.scope.cancel()
        elif self.scope is not None:
            self.scope.cancel()


class Life:
    """One run of the daemon's path, from opening the disk to the end of its tasks."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.hurt: str | None = None
        self.scope: trio.CancelScope | None = None
        self.store = SimulatedStore(world.disk, world.chance, world.operate, delays=world.delays)
        self.is_dead = False
        """The power failed: what it still does is seen by nobody."""

    def die(self) -> None:
        """The power fails."""
        self.world.disk = self.store.crash()
        self.hurt, self.is_dead = POWER, True
        assert self.scope is not None
        self.scope.cancel()

    async def live(self) -> None:
        world = self.world
        with trio.CancelScope() as self.scope:
            async with (
                open_event_log(
                    ObserveSettings(window_events=world.window_events),
                    self.store,
                    wall_clock=ManualClock(),
                ) as self.log,
                trio.open_nursery() as nursery,
            ):
                self.rig = Rig(self.store, self.log, nursery, ids=world.ids)
                nursery.start_soon(run_watchdog, lambda: self.rig.services)
                nursery.start_soon(self._follow)
                restored = await restore(self.store, "p", trio.current_time())
                self.service = self.rig.add(
                    self._plugin(),
                    restored=restored,
                    queue_events=6,
                    attempts=ATTEMPTS,
                    drain_s=5,
                    dispatch_timeout_s=50,
                    redeliver_per_s=1000,
                )
                self._note_displaced()
                world.plant.on_service(self.rig, self.service)
                with trio.fail_after(5000):
                    await self._tell()
                nursery.cancel_scope.cancel()
        self.scope = None
        if self.hurt is None:
            self._expect(self.log.head == self.log.appended, "appended and not committed")
            self._expect(self.log.head == self.store.disk.head, "shown and not durable")

    def _note_displaced(self) -> None:
        displace = self.service.settlement.displace

        def noted(lane, delivery, outcome) -> None:
            self.world.displaced.add(delivery.event_id)
            displace(lane, delivery, outcome)

        self.service.settlement.displace = noted

    def _expect(self, is_so: bool, problem: str) -> None:
        if not is_so and not self.is_dead:
            self.world.problems.append(f"life {self.number}: {problem}")

    # -- the story

    async def _tell(self) -> None:
        if self.number == 0:
            await self._accept_all()
        await self._run_as("again", self._accept_again)
        if self.number == 1:
            await self._send("hang", "go", "hang")
            await self._send("behind", "go", "ok")
            await trio.sleep(self.world.chance.choice((0, 20)))
            await self._run_as("stopper", self._stop)
            await self._start()
            await self._send("late", "go", "retry")
        if self.number == DISTURBED_LIVES:
            await self._drained()
            await self._redeliver_all()
            await self._drained()
            await trio.sleep(3)  # until what was dropped is reported
            self._expect(not self.service.delivery_keys._under_way, "a key leaked")
        await self.service.end(STOP_BUDGET_S)
        self.service.report_unfinished()

    async def _drained(self) -> None:
        while self.service.lane.statistics().depth:
            await self.log.wait_beyond(self.log.head)

    async def _accept_all(self) -> None:
        """With and without room, the same key twice; it is retried, fails, waits in order, is dropped."""
        async with trio.open_nursery() as nursery:
            for name, what in (
                ("first", "ok"),
                ("victim", "retry"),
                ("bad", "bad"),
                ("worse", "worse"),
                ("crash", "crash"),
            ):
                nursery.start_soon(self._send, name, "go", what)
            nursery.start_soon(self._send, "victim", "go", "retry")
        await self._send("slow", "go", "slow")
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(self._send, f"drops{number}", "drops", "ok")
            for number in range(3):
                nursery.start_soon(self._send, f"waits{number}", "waits", "ok")
        for number in range(2):
            await self._send(f"held{number}", "keeps_order", "retry")
        await trio.sleep(self.world.chance.choice((0, 1, 10)))
        await self._redeliver_all()

    async def _accept_again(self) -> None:
        """Whoever had no answer asks again, and so does one who had."""
        for name, (ingress, what) in list(self.world.sent.items()):
            if name not in self.world.receipts or name == "first":
                await self._send(name, ingress, what)

    async def _send(self, name: str, ingress: str, what: str) -> None:
        self.world.sent.setdefault(name, (ingress, what))
        payload = msgspec.json.encode({"name": name, "do": what})
        accept = partial(self.rig.admission.accept, self.service, ingress, payload, key=name)
        await self._run_as(name, partial(self._ask, name, accept))

    async def _ask(self, name: str, accept: Callable[[], Any]) -> None:
        for _ in range(100):
            try:
                receipt = await accept()
            except Refused as refused:
                if not CODES[refused.code].retryable:
                    raise
                await trio.sleep(1)
                continue
            if self.is_dead:
                return
            self._expect(
                decode_cursor(receipt.cursor).seq <= self.world.disk.head,
                f"{name} answered before the commit",
            )
            before = self.world.receipts.setdefault(name, receipt)
            self._expect(before == receipt, f"{name} answered in two ways")
            return
        self._expect(self.number < DISTURBED_LIVES, f"{name} is never accepted")

    async def _run_as(self, name: str, function: Callable[[], Any]) -> None:
        """What the plan may cancel by this name."""
        with trio.CancelScope() as scope:
            if name == self.world.plan.what and self.world.scope is None:
                self.world.scope = scope
            try:
                await function()
            finally:
                if self.world.scope is scope:
                    self.world.scope = None

    async def _redeliver_all(self) -> None:
        for letter in self.service.dead_letters.page(None, 100)[0]:
            await self._run_as("redeliverer", partial(self._redeliver, letter.event_id))

    async def _redeliver(self, event_id: str) -> None:
        try:
            await self.rig.admission.redeliver(self.service, event_id)
        except Refused as refused:
            self._expect(refused.code == "queue_full", f"{refused.code} to a redelivery")

    async def _stop(self) -> None:
        await self.service.stop()

    async def _start(self) -> None:
        if self.service.lifecycle.state == "running":
            await self.service.stop()
        await self.service.start()

    async def _follow(self) -> None:
        """A subscriber: nothing is shown that a power cut could take back, and nothing is left out."""
        position = self.log.head
        while True:
            await self.log.wait_beyond(position)
            position = max(position, self.log.window().floor)
            for entry in self.log.read(position, 1 << 30):
                self._expect(entry.seq == position + 1, "a gap in the stream")
                self._expect(entry.seq <= self.world.disk.head, "shown and not durable")
                position = entry.seq

    def _plugin(self) -> Plugin:
        plugin = Plugin("p")

        async def explode() -> None:
            raise ValueError("a task of the service")

        @plugin.start
        async def start(ctx) -> None:
            self.resource = await ctx.enter(trio.open_nursery())

        async def handle(ctx, event) -> None:
            if not self.is_dead:
                self.world.begun.append((event.id, event.attempt))
                self.world.scheduler.note(f"begin {event.payload['name']} {event.attempt}")
                self._expect(event.id not in self.world.disk.handled, "handled again")
            await trio.lowlevel.checkpoint()
            what = event.payload["do"]
            if what == "slow":
                await trio.sleep(3)
            if what == "retry" and event.attempt == 1:
                raise Retry(after_s=2)
            if what == "worse" or (what == "bad" and event.source != "redelivery"):
                raise ValueError("bad")
            if what == "crash" and event.attempt == 1:
                self.resource.start_soon(explode)
                await trio.sleep(1)
            if what == "hang" and event.attempt == 1:
                await trio.sleep_forever()
            await ctx.emit("done")

        plugin.ingress("go")(handle)
        plugin.ingress("keeps_order", on_retry="hold")(handle)
        plugin.ingress("drops", overflow="drop_oldest")(handle)
        plugin.ingress("waits", overflow="wait", wait_s=20)(handle)
        return plugin
