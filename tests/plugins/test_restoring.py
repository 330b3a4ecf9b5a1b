"""What was accepted comes back: a host on a store that another one left, in order or by a crash."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.plugins.rig import Rig, loaded_of, open_rig
from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.lane.deadletters import detail_of
from yoi_daemon.plugins.lane.ledger import restore
from yoi_daemon.plugins.supervision.service import Service
from yoi_daemon.sdk import Plugin, Retry
from yoi_daemon.store.tables import IDEMPOTENCY_KEY, INGRESS_EVENT

LATER = 1_800_100_000.0


class Gate:
    """A plugin whose handler notes what it is given, and lets by what it is told to."""

    def __init__(self, **options: Any) -> None:
        self.seen: list[tuple[str, int, Any]] = []
        self.opened = trio.Event()
        self.fails: set[Any] = set()
        self.passes: set[Any] = set()
        self.entered = trio.Event()
        self.plugin = Plugin("gen")
        self.plugin.ingress("take", **options)(self.take)

    async def take(self, ctx: Any, event: Any) -> None:
        self.seen.append((event.id, event.attempt, event.payload))
        self.entered.set()
        if event.payload in self.fails:
            raise ValueError(event.payload)
        if event.payload not in self.passes:
            await self.opened.wait()

    @property
    def payloads(self) -> list[Any]:
        return [payload for _, _, payload in self.seen]

    @property
    def attempts(self) -> list[int]:
        return [attempt for _, attempt, _ in self.seen]


class Home:
    """A state directory, opened again and again. Each opening is another daemon, later than the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._openings = 0

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Rig]:
        self._openings += 1
        async with open_rig(self.path, now=LATER + self._openings) as rig:
            yield rig

    async def crash(self, rig: Rig) -> "Home":
        """As the disk would be, were the process killed now: a copy of what is committed."""
        await rig.settled()
        await rig.event_log.recorded(rig.event_log.record(()))
        number = len(list(self.path.parent.iterdir()))
        copied = shutil.copytree(self.path, self.path.parent / f"after{number}")
        again = Home(Path(copied))
        again._openings = self._openings
        return again


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "state").mkdir()
    return Home(tmp_path / "state")


async def end(service: Service, clock: MockClock) -> None:
    """Stops a service as the daemon does, its times passing on the test's clock."""
    ended = trio.Event()

    async def stop() -> None:
        await service.end(1)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        while not ended.is_set():
            await wait_all_tasks_blocked()
            clock.jump(0.25)


def open_gate(**options: Any) -> Gate:
    gate = Gate(**options)
    gate.opened.set()
    return gate


async def test_what_waited_comes_back_in_order_with_its_ids(
    mock_clock: MockClock, home: Home
) -> None:
    gate = Gate()
    async with home.open() as rig:
        service = rig.add(gate.plugin)
        receipts = [await rig.accept(service, "take", number) for number in range(200)]
        await gate.entered.wait()
    again = open_gate()
    async with home.open() as rig:
        service = await rig.add_restored(again.plugin)
        assert service.settlement.counters["restored"] == 200
        assert service.lane.statistics().depth == 200
        await rig.until("plugin.ingress.handled", 200)
        assert [event_id for event_id, _, _ in again.seen] == [one.event_id for one in receipts]
        assert again.payloads == [*range(200)]
        accepted = {
            event["correlation_id"]: event["data"]["event_id"]
            for event in rig.events("plugin.ingress.handled")
        }
        assert accepted == {one.correlation_id: one.event_id for one in receipts}
        assert service.lane.statistics().depth == service.lane.statistics().bytes == 0
    # An event that was handled is forgotten.
    async with home.open() as rig:
        service = await rig.add_restored(open_gate().plugin)
        assert service.settlement.counters["restored"] == 0


async def test_beyond_the_limits_what_was_accepted_is_kept_and_nothing_more_taken(
    mock_clock: MockClock, home: Home
) -> None:
    async with home.open() as rig:
        service = rig.add(Gate().plugin)
        for number in range(20):
            await rig.accept(service, "take", number)
    again = Gate()
    async with home.open() as rig:
        service = await rig.add_restored(again.plugin, queue_events=10)
        await again.entered.wait()
        with pytest.raises(Refused, match="queue_full"):
            await rig.accept(service, "take", 20)
        again.opened.set()
        await rig.until("plugin.ingress.handled", 20)
        await rig.accept(service, "take", 20)
        await rig.until("plugin.ingress.handled", 21)
        assert again.payloads == [*range(21)]


async def test_new_events_come_after_those_of_before(mock_clock: MockClock, home: Home) -> None:
    async with home.open() as rig:
        service = rig.add(Gate().plugin)
        for number in range(5):
            await rig.accept(service, "take", number)
    again = Gate()
    async with home.open() as rig:
        service = await rig.add_restored(again.plugin)
        await rig.until("plugin.state", 4)
        for number in range(5, 10):
            await rig.accept(service, "take", number)
        again.opened.set()
        await rig.until("plugin.ingress.handled", 10)
        assert again.payloads == [*range(10)]


# -- attempts


async def test_an_attempt_is_counted_before_its_handler_runs(
    mock_clock: MockClock, home: Home
) -> None:
    """Three crashes with the same event in hand: it is told 1, 2, 3, and is dead after its attempts."""
    first = Gate()
    async with home.open() as rig:
        service = rig.add(first.plugin)
        receipt = await rig.accept(service, "take", "poison")
        await first.entered.wait()
        home = await home.crash(rig)
    seen = first.attempts
    for _ in range(2):
        gate = Gate()
        async with home.open() as rig:
            service = await rig.add_restored(gate.plugin)
            await gate.entered.wait()
            seen += gate.attempts
            assert len(service.dead_letters) == 0
            home = await home.crash(rig)
    assert seen == [1, 2, 3]
    last = open_gate()
    async with home.open() as rig:
        service = await rig.add_restored(last.plugin)
        await rig.until("plugin.ingress.dead_lettered")
        letter = service.dead_letters.get(receipt.event_id)
        assert [one.attempt for one in letter.delivery.attempts] == [1, 2, 3]
        assert {one.code for one in letter.delivery.attempts} == {"process_died"}
        assert service.lane.statistics().depth == service.lane.statistics().bytes == 0
        assert last.seen == []
    # The letter is as durable as the event was, and redelivering it hands it to the handler once.
    async with home.open() as rig:
        service = await rig.add_restored(last.plugin)
        await rig.admission.redeliver(service, receipt.event_id)
        await rig.until("plugin.ingress.handled")
        assert last.seen == [(receipt.event_id, 4, "poison")]


async def test_a_letter_buried_at_the_start_can_be_redelivered_at_once(
    mock_clock: MockClock, home: Home
) -> None:
    """It once was given a place in the queue first, and taken back: redelivered, it was passed over for good."""
    gate = Gate()
    async with home.open() as rig:
        service = rig.add(gate.plugin, attempts=1)
        receipt = await rig.accept(service, "take", "poison")
        await gate.entered.wait()
        home = await home.crash(rig)
    again = open_gate()
    async with home.open() as rig:
        service = await rig.add_restored(again.plugin, attempts=1)
        await rig.until("plugin.ingress.dead_lettered")
        await rig.admission.redeliver(service, receipt.event_id)
        with trio.fail_after(10):
            await rig.until("plugin.ingress.handled")
        assert again.seen == [(receipt.event_id, 2, "poison")]
        assert service.lane.statistics().depth == 0


async def test_of_several_claimed_together_none_is_charged_and_each_runs_alone(
    mock_clock: MockClock, home: Home
) -> None:
    async with home.open() as rig:
        service = rig.add(Gate().plugin)
        for number in range(6):
            await rig.accept(service, "take", number)
    gate = Gate()
    gate.passes = {0, 1}
    async with home.open() as rig:  # all six are there at once, and so they are claimed at once
        await rig.add_restored(gate.plugin)
        await rig.until("plugin.ingress.handled", 2)
        home = await home.crash(rig)
        assert gate.payloads == [0, 1, 2]
    again = Gate()
    async with home.open() as rig:
        service = await rig.add_restored(again.plugin)
        await again.entered.wait()
        await rig.settled()
        restored = await restore(rig.store, "gen", 0)
        assert [claim for _, claim in restored.waiting] == [2, 1, 1, 1]
        assert [delivery.attempt for delivery, _ in restored.waiting] == [2, 1, 1, 1]
        again.opened.set()
        await rig.until("plugin.ingress.handled", 6)
        assert again.payloads == [2, 3, 4, 5]
        assert service.settlement.counters["interrupted"] == 0
        assert len(service.dead_letters) == 0


async def displaced_and_restored(home: Home, *, plant: bool = False) -> dict[Any, tuple[int, int]]:
    """Of one in hand, one claimed that was displaced, and the newer one: claim and attempts after a crash."""
    gate = Gate(overflow="drop_oldest")
    async with home.open() as rig:
        service = rig.add(gate.plugin, queue_events=2)
        if plant:
            service.ledger.unclaim = lambda _delivery: None
        await service.settled()
        for number in range(2):
            _, seq = await rig.admission.admit(service, "take", b"%d" % number)
        await rig.event_log.committed(seq)
        await gate.entered.wait()
        await rig.accept(service, "take", 2)
        assert service.settlement.counters["dropped"] == 1
        home = await home.crash(rig)  # before the drop is reported: nobody was told of it
    async with home.open() as rig:
        restored = await restore(rig.store, "gen", 0)
    return {
        int(delivery.payload): (claim, delivery.attempt) for delivery, claim in restored.waiting
    }


async def test_what_was_displaced_before_its_attempt_is_not_charged_with_a_crash(
    mock_clock: MockClock, home: Home
) -> None:
    assert await displaced_and_restored(home) == {0: (1, 1), 1: (0, 0), 2: (0, 0)}


async def test_the_negative_control_a_claim_that_outlives_its_displacement_is_charged(
    mock_clock: MockClock, home: Home
) -> None:
    assert await displaced_and_restored(home, plant=True) == {0: (1, 1), 1: (1, 1), 2: (0, 0)}


async def test_an_interrupted_attempt_is_not_charged(mock_clock: MockClock, home: Home) -> None:
    gate = Gate()
    async with home.open() as rig:
        service = rig.add(gate.plugin, attempts=1)
        await rig.accept(service, "take", 1)
        await gate.entered.wait()
        await end(service, mock_clock)
    again = open_gate()
    async with home.open() as rig:
        await rig.add_restored(again.plugin, attempts=1)
        await rig.until("plugin.ingress.handled")
        assert again.attempts == [2]


async def test_failures_of_before_count(mock_clock: MockClock, home: Home) -> None:
    gate = Gate()
    gate.fails = {1}
    async with home.open() as rig:
        service = rig.add(gate.plugin, attempts=2, retry_min_s=1000, retry_max_s=1000)
        await rig.accept(service, "take", 1)
        await rig.until("plugin.ingress.handler_failed")
    again = Gate()
    again.fails = {1}
    async with home.open() as rig:
        service = await rig.add_restored(again.plugin, attempts=2)
        await rig.until("plugin.ingress.dead_lettered")
        assert again.attempts == [2]
        assert len(service.dead_letters) == 1


async def test_a_held_event_stays_ahead_of_those_behind_it(
    mock_clock: MockClock, home: Home
) -> None:
    tried: list[Any] = []

    async def take(ctx: Any, event: Any) -> None:
        tried.append(event.payload)
        if event.payload == 0 and event.attempt == 1:
            raise Retry(after_s=1000)

    plugin = Plugin("gen")
    plugin.ingress("take", on_retry="hold")(take)
    async with home.open() as rig:
        service = rig.add(plugin)
        for number in range(4):
            await rig.accept(service, "take", number)
        await rig.until("plugin.ingress.retry_scheduled")
    async with home.open() as rig:
        await rig.add_restored(plugin)
        await rig.until("plugin.ingress.handled", 4)
    assert tried == [0, 0, 1, 2, 3]


# -- keys, letters, state


async def test_a_key_gives_its_first_answer_again(mock_clock: MockClock, home: Home) -> None:
    async with home.open() as rig:
        service = rig.add(open_gate().plugin)
        first = await rig.accept(service, "take", 1, key="k")
        await rig.until("plugin.ingress.handled")
    async with home.open() as rig:
        service = await rig.add_restored(open_gate().plugin)
        assert await rig.accept(service, "take", 1, key="k") == first
        with pytest.raises(Refused, match="delivery_id_conflict") as refused:
            await rig.accept(service, "take", 2, key="k")
        assert refused.value.fields["event_id"] == first.event_id
        assert (await rig.accept(service, "take", 1, key="other")).event_id != first.event_id


async def test_a_key_is_in_the_commit_of_its_event(mock_clock: MockClock, home: Home) -> None:
    """At whichever commit the process dies: both are there, or neither is."""
    both = {"none": 0, "both": 0}
    async with home.open() as rig:
        service = rig.add(Gate().plugin)
        for number in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_accept_with_key, rig, service, number)
                for _ in range(4):
                    images = Home(
                        Path(shutil.copytree(home.path, home.path.parent / f"i{number}{_}"))
                    )
                    async with open_rig(images.path, now=LATER) as looked:
                        kept = await looked.store.rows(INGRESS_EVENT)
                        keys = await looked.store.rows(IDEMPOTENCY_KEY)
                        assert len(kept) == len(keys)
                        both["both" if len(kept) > number else "none"] += 1
    assert both["both"]


async def _accept_with_key(rig: Rig, service: Any, number: int) -> None:
    await rig.accept(service, "take", number, key=f"k{number}")


async def test_dead_letters_come_back_byte_exact(mock_clock: MockClock, home: Home) -> None:
    gate = Gate()
    gate.fails = {"é", "x"}
    exact = b' {"a":  "\\u00e9"}\n'

    async def fail(ctx: Any, event: Any) -> None:
        raise ValueError(event.payload)

    plugin = Plugin("gen")
    plugin.ingress("take")(fail)
    async with home.open() as rig:
        service = rig.add(plugin, attempts=1)
        for _ in range(2):
            await rig.admission.accept(service, "take", exact)
        await rig.until("plugin.ingress.dead_lettered", 2)
        summaries, _ = service.dead_letters.page(None, 10)
        told = [detail_of(service.dead_letters.get(one.event_id)) for one in summaries]
    assert {bytes(one.payload) for one in told} == {exact}
    async with home.open() as rig:
        service = await rig.add_restored(plugin, attempts=1)
        assert service.settlement.counters["restored"] == 0
        again = [detail_of(service.dead_letters.get(one.event_id)) for one in summaries]
        assert again == told
        service.settlement.discard(summaries[0].event_id)
    async with home.open() as rig:
        service = await rig.add_restored(plugin, attempts=1)
        assert service.dead_letters.page(None, 10)[0] == summaries[1:]


async def test_a_webhook_comes_back_with_its_headers_and_bytes(
    mock_clock: MockClock, home: Home
) -> None:
    async with home.open() as rig:
        service = rig.add(Gate().plugin)
        assert service.installed.manifest is not None
        spec = service.installed.manifest.ingresses["take"]
        body = b'{"a":1}'
        _, seq = await rig.admission._take(
            service,
            spec,
            body,
            source="hook",
            key=None,
            headers={"x-event": "é"},
            exact=body,
        )
        await rig.event_log.committed(seq)
        before = next(iter(service.lane._unfinished["take"].values()))
    async with home.open() as rig:
        service = await rig.add_restored(Gate().plugin)
        after = next(iter(service.lane._unfinished["take"].values()))
        for name in ("headers", "body", "payload", "source", "size", "created_at", "ingress"):
            assert getattr(after, name) == getattr(before, name), name


async def test_a_plugins_state_comes_back(mock_clock: MockClock, home: Home) -> None:
    kept: list[Any] = []

    async def take(ctx: Any, event: Any) -> None:
        kept.append({key: await ctx.state.get(key) for key in await ctx.state.keys()})
        await ctx.state.set("last", event.payload)
        await ctx.state.delete("gone")
        if event.payload == 1:
            await ctx.state.set("gone", 1)

    plugin = Plugin("gen")
    plugin.ingress("take")(take)
    for number in (1, 2, 3):
        async with home.open() as rig:
            service = await rig.add_restored(plugin)
            await rig.accept(service, "take", {"n": number} if number != 1 else 1)
            await rig.until("plugin.ingress.handled", number)
    assert kept == [{}, {"last": 1, "gone": 1}, {"last": {"n": 2}}]


# -- displaced, removed


async def test_what_was_displaced_comes_back_unless_that_was_reported(
    mock_clock: MockClock, home: Home
) -> None:
    gate = Gate(overflow="drop_oldest")
    async with home.open() as rig:
        service = rig.add(gate.plugin, queue_events=3)
        await rig.accept(service, "take", 0)
        await gate.entered.wait()
        for number in range(1, 5):
            await rig.accept(service, "take", number)
        assert service.settlement.counters["dropped"] == 2
        unreported = await home.crash(rig)
        service.settlement.report_displaced(trio.current_time(), at_once=True)
        reported = await home.crash(rig)
    for crashed, expected in ((unreported, [0, 1, 2, 3, 4]), (reported, [0, 3, 4])):
        again = open_gate()
        async with crashed.open() as rig:
            await rig.add_restored(again.plugin, queue_events=3)
            await rig.until("plugin.ingress.handled", len(expected))
            assert again.payloads == expected


async def test_a_removed_plugins_events_wait_for_it(mock_clock: MockClock, home: Home) -> None:
    async with home.open() as rig:
        service = rig.add(Gate().plugin)
        for number in range(3):
            await rig.accept(service, "take", number)
    async with home.open() as rig:  # without the plugin
        other = Plugin("other")
        other.ingress("take")(Gate().take)
        assert (await rig.add_restored(other)).settlement.counters["restored"] == 0
    again = open_gate()
    async with home.open() as rig:
        service = await rig.add_restored(again.plugin)
        await rig.until("plugin.ingress.handled", 3)
        assert again.payloads == [0, 1, 2]


async def test_retired_and_back_in_the_same_daemon(mock_clock: MockClock, home: Home) -> None:
    gate, again = Gate(), open_gate()
    async with home.open() as rig:
        service = rig.add(gate.plugin, drain_s=0.001)
        receipts = [await rig.accept(service, "take", number) for number in range(3)]
        await gate.entered.wait()
        await end(service, mock_clock)
        rig.services.clear()
        await rig.event_log.recorded(rig.event_log.record(()))
        await rig.add_restored(again.plugin)
        await rig.until("plugin.ingress.handled", 3)
    assert [event_id for event_id, _, _ in again.seen] == [one.event_id for one in receipts]


async def test_an_ingress_that_is_no_more_makes_a_dead_letter_not_a_fault(
    mock_clock: MockClock, home: Home
) -> None:
    async with home.open() as rig:
        service = rig.add(Gate().plugin)
        await rig.accept(service, "take", 1)
    other = Plugin("gen")
    other.ingress("give")(Gate().take)
    async with home.open() as rig:
        service = await rig.add_restored(other)
        await rig.until("plugin.ingress.dead_lettered")
        (summary,) = service.dead_letters.page(None, 10)[0]
        assert summary.attempts[-1].code == "ingress_not_found"
        assert loaded_of(other).digest == summary.plugin_digest
