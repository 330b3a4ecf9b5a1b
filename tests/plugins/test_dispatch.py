"""The lane: serial, against a deadline, one failed event is not a failed service."""

import itertools
import sys

import pytest
import trio

from tests.plugins.rig import loaded_of
from yoi_daemon.model.errors import Refused
from yoi_daemon.sdk import AttemptClosedError, Plugin, Retry


def plugin_of(handler, name="p", **options) -> Plugin:
    plugin = Plugin(name)
    plugin.ingress("go", **options)(handler)
    return plugin


async def run_events(rig, handler, payloads, seconds=200.0, **settings):
    service = rig.add(plugin_of(handler), **settings)
    for payload in payloads:
        await rig.accept(service, "go", payload)
    await trio.sleep(seconds)
    await rig.settled()
    return service


async def test_events_are_handled_one_at_a_time_in_order(autojump_clock, rig):
    spans = []

    async def go(ctx, event) -> None:
        spans.append((event.payload, trio.current_time()))
        await trio.sleep(1)

    service = await run_events(rig, go, range(200), seconds=201)
    assert [payload for payload, _ in spans] == list(range(200))
    assert all(b - a >= 1 for (_, a), (_, b) in itertools.pairwise(spans))
    assert service.settlement.counters["handled"] == 200
    assert service.lane.statistics().depth == service.lane.statistics().bytes == 0


async def test_plugins_do_not_wait_for_each_other(autojump_clock, rig):
    done = []

    async def slow(ctx, event) -> None:
        await trio.sleep(20)

    async def quick(ctx, event) -> None:
        done.append(trio.current_time())

    first, second = rig.add(plugin_of(slow, "slow")), rig.add(plugin_of(quick, "quick"))
    await rig.accept(first, "go")
    await rig.accept(second, "go")
    await trio.sleep(1)
    assert done == [0]


async def test_only_the_late_event_times_out(autojump_clock, rig):
    async def go(ctx, event) -> None:
        if event.payload == 2:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    await run_events(rig, go, range(5), attempts=1)
    outcomes = ["handled", "handled", "dispatch_timeout", "dead_lettered", "handled", "handled"]
    assert rig.outcomes() == outcomes
    assert [event["data"]["doing"] for event in rig.events("plugin.slow")] == ["go"]


async def test_the_verdict_is_final_whatever_the_handler_does_then(autojump_clock, rig):
    refused = []

    async def go(ctx, event) -> None:
        if event.payload == "shielded":
            with trio.CancelScope(shield=True):
                await trio.sleep(32)
        else:
            with pytest.raises(trio.Cancelled):
                await trio.sleep_forever()
        with trio.CancelScope(shield=True):
            try:
                await ctx.emit("late")
            except AttemptClosedError:
                refused.append(event.payload)

    await run_events(rig, go, ["shielded", "swallowed"], attempts=1)
    assert rig.outcomes() == ["dispatch_timeout", "dead_lettered"] * 2
    assert refused == ["shielded", "swallowed"]
    assert not rig.events("p.")


async def test_an_error_in_the_clean_up_after_a_timeout_hurts_nobody(autojump_clock, rig):
    async def go(ctx, event) -> None:
        if event.payload == 0:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_at_the_end)
                nursery.start_soon(trio.sleep_forever)

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("boom")

    service = await run_events(rig, go, [0, 1], attempts=1)
    assert rig.outcomes() == ["dispatch_timeout", "dead_lettered", "handled"]
    assert service.lifecycle.state == "running"


async def test_a_failed_event_is_tried_again_and_lets_others_by(autojump_clock, rig):
    times = []

    async def go(ctx, event) -> None:
        times.append((event.payload, event.attempt, round(trio.current_time())))
        if event.payload == "bad":
            raise ValueError("no good")

    service = await run_events(rig, go, ["bad", "good"])
    assert times == [("bad", 1, 0), ("good", 1, 0), ("bad", 2, 1), ("bad", 3, 3)]
    (letter,) = service.dead_letters.page(None, 10)[0]
    assert [record.outcome for record in letter.attempts] == ["handler_failed"] * 3
    assert {record.message for record in letter.attempts} == {"ValueError: no good"}
    assert all(r.where.startswith("plugins/test_dispatch.py:") for r in letter.attempts)
    assert letter.plugin_digest == "d1"
    counters = dict(service.settlement.counters)
    assert counters == {
        "accepted": 2,
        "handled": 1,
        "handler_failed": 3,
        "retry_scheduled": 2,
        "dead_lettered": 1,
    }


async def test_a_held_retry_keeps_the_order(autojump_clock, rig):
    seen = []

    async def go(ctx, event) -> None:
        seen.append((event.payload, event.attempt))
        if event.payload == 0 and event.attempt == 1:
            raise Retry("not yet", after_s=7)

    service = rig.add(plugin_of(go, on_retry="hold"))
    for number in range(3):
        await rig.accept(service, "go", number)
    await trio.sleep(5)
    assert seen == [(0, 1)]
    await trio.sleep(5)
    assert seen == [(0, 1), (0, 2), (1, 1), (2, 1)]
    assert rig.outcomes()[0] == "retry_scheduled"
    assert rig.events("plugin.ingress.retry_scheduled")[0]["data"]["retry_in_s"] == 7


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), BaseException("odd")])
async def test_what_ends_a_program_ends_only_the_attempt(autojump_clock, rig, error):
    async def go(ctx, event) -> None:
        if event.payload == 0:
            raise error

    await run_events(rig, go, [0, 1], attempts=1)
    assert rig.outcomes() == ["handler_failed", "dead_lettered", "handled"]
    assert sys.exc_info() == (None, None, None)


async def test_a_handler_that_swallows_its_cancellation_is_wedged(
    autojump_clock, rig, logged_errors
):
    released = trio.Event()
    spins = []

    async def go(ctx, event) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except trio.Cancelled:
                spins.append(trio.current_time())
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)

    service = await run_events(rig, go, [0, 1], seconds=100)
    assert (service.lifecycle.state, service.lifecycle.reason.code) == ("failed", "wedged")
    assert max(spins) <= 36  # given up after deadline and grace: it sees no cancellation any more
    (event,) = rig.events("plugin.wedged")
    assert event["data"]["doing"] == "go"
    assert event["data"]["where"].startswith("plugins/test_dispatch.py:")
    assert service.lane.statistics().depth == 2
    for command in (service.start, service.restart):
        with pytest.raises(Refused) as refused:
            await command()
        assert refused.value.code == "invalid_state"
    with pytest.raises(Refused) as refused:
        await rig.accept(service, "go")
    assert refused.value.code == "service_failed"
    released.set()
    logged_errors.expect("service failed")


async def test_a_batch_boundary_loses_and_doubles_nothing(autojump_clock, rig):
    seen = []

    async def go(ctx, event) -> None:
        seen.append(event.payload)

    await run_events(rig, go, range(500), queue_events=1000)
    assert seen == list(range(500))


async def test_an_event_whose_ingress_is_gone_is_kept(autojump_clock, rig, logged_errors):
    async def go(ctx, event) -> None: ...

    service = rig.add(plugin_of(go))
    await trio.sleep(1)
    await service.stop()
    other = Plugin("p")
    other.ingress("else")(go)
    service.lifecycle.move("starting", "x", "the lane accepts")
    await rig.accept(service, "go", {"kept": True})
    service.lifecycle.move("failed", "x", "x")
    service.installation.adopt(loaded_of(other))
    await service.start()
    await trio.sleep(1)
    assert rig.outcomes() == ["invalid_event", "dead_lettered"]
    logged_errors.expect("service failed")


async def test_a_timer_ticks_through_the_queue_and_leaves_out_what_still_waits(autojump_clock, rig):
    ticks = []
    plugin = Plugin("p")

    @plugin.every(seconds=10)
    async def poll(ctx, event) -> None:
        ticks.append((event.source, round(trio.current_time())))
        if len(ticks) == 2:
            await trio.sleep(25)

    service = rig.add(plugin)
    await trio.sleep(61)
    assert ticks == [("timer", 10), ("timer", 20), ("timer", 50), ("timer", 60)]
    assert service.settlement.counters["skipped"] == 2
    with pytest.raises(Refused) as refused:
        await rig.accept(service, "poll")
    assert refused.value.code == "ingress_not_found"


def test_time_the_loop_stood_still_is_given_back():
    """A blocking plugin does not time out an innocent one; in real time, as a blocked loop is."""
    import time

    from tests.plugins.rig import open_rig

    done = trio.Event()

    async def innocent(ctx, event) -> None:
        await trio.sleep(0.2)
        done.set()

    async def blocker(ctx, event) -> None:
        await trio.sleep(0.05)
        time.sleep(1.2)  # noqa: ASYNC251 (this is the fault under test)

    async def main() -> list[str]:
        async with open_rig() as rig:
            settings = {"dispatch_timeout_s": 0.6, "dispatch_warn_s": 0.5, "attempts": 1}
            service = rig.add(plugin_of(innocent, "innocent"), **settings)
            other = rig.add(plugin_of(blocker, "blocker"), **settings)
            await rig.accept(service, "go")
            await rig.accept(other, "go")
            with trio.fail_after(20):
                await done.wait()
            await rig.settled()
            return [
                e["kind"] for e in rig.events("plugin.ingress.") if e["plugin_id"] == "innocent"
            ]

    assert trio.run(main) == ["plugin.ingress.accepted", "plugin.ingress.handled"]
