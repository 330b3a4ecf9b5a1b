"""Commands to a service, one at a time, carried out whatever becomes of those who asked."""

from functools import partial

import pytest
import trio

from tests.plugins.rig import loaded_of
from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.loading.source import LoadFailed
from yoi_daemon.plugins.supervision.generation import stop_times
from yoi_daemon.sdk import Context, IngressEvent, Plugin


def plugin_of(start=None) -> Plugin:
    plugin = Plugin("p")
    if start is not None:
        plugin.start(start)

    @plugin.ingress("go", overflow="wait", wait_s=20)
    async def go(ctx: Context, event: IngressEvent) -> None:
        if event.payload == "hang":
            await trio.sleep_forever()
        if event.payload == "late":
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await ctx.emit("late")

    return plugin


async def refusal(call) -> Refused:
    with pytest.raises(Refused) as refused:
        await call
    return refused.value


async def test_commands_at_once_all_come_to_an_end(autojump_clock, rig):
    service = rig.add(plugin_of())
    for _ in range(20):
        async with trio.open_nursery() as nursery:
            for command in (service.stop, service.start, service.restart, service.stop):
                nursery.start_soon(command)
        assert service.lifecycle.state in ("running", "starting", "stopped")
    await service.start()


@pytest.mark.parametrize("command", ["restart", "replace"])
async def test_who_goes_away_leaves_no_half_of_it(autojump_clock, rig, command):
    service = rig.add(plugin_of())
    await rig.accept(service, "go", "hang")
    await trio.sleep(1)
    with trio.move_on_after(0.5) as gone:
        if command == "restart":
            await service.restart()
        else:
            await service.replace(loaded_of(plugin_of()), service.installed.settings).outcome()
    assert gone.cancelled_caught
    assert service.lifecycle.state == "stopping"
    await trio.sleep(60)
    assert service.lifecycle.state == "running"


async def test_the_daemons_end_overtakes_a_long_drain(autojump_clock, rig):
    service = rig.add(plugin_of(), drain_s=500, dispatch_timeout_s=900)
    await rig.accept(service, "go", "hang")
    await trio.sleep(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.stop)
        await trio.sleep(1)
        before = trio.current_time()
        await service.end(6)
        assert trio.current_time() - before <= 6
    assert service.report_unfinished() == 1
    assert (await refusal(service.start())).code == "draining"


@pytest.mark.parametrize("budget_s", [2.0, 6.0])
async def test_the_end_keeps_its_budget_whatever_is_under_way(
    autojump_clock, rig, budget_s, logged_errors
):
    """A start, a handler or a stop hook that swallows its cancellation."""
    released = trio.Event()

    async def stay(ctx) -> None:
        while not released.is_set():
            with trio.CancelScope(shield=True):
                await released.wait()

    starting = rig.add(plugin_of(stay))
    stopping_plugin = Plugin("q")
    stopping_plugin.stop(stay)
    stopping_plugin.ingress("go")(plugin_of().ingresses["go"].function.call)
    stopping = rig.add(stopping_plugin)
    await trio.sleep(1)
    before = trio.current_time()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(starting.end, budget_s)
            nursery.start_soon(stopping.end, budget_s)
        assert trio.current_time() - before <= budget_s + 0.5  # the watchdog looks every 0.25 s
        assert starting.has_unended
    finally:
        released.set()
    logged_errors.expect("service failed")


async def test_a_wedge_while_it_is_replaced_keeps_the_old_and_says_so(
    autojump_clock, rig, logged_errors
):
    released = trio.Event()
    plugin = Plugin("p")
    runs = []

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        runs.append(event.id)
        while not released.is_set():
            with trio.CancelScope(shield=True):
                await released.wait()

    service = rig.add(plugin)
    await rig.accept(service, "go")
    await rig.accept(service, "go")
    await trio.sleep(1)
    try:
        refused = await refusal(
            service.replace(loaded_of(plugin_of()), service.installed.settings).outcome()
        )
        assert refused.code == "invalid_state"
        assert service.installed.loaded.plugin is plugin
    finally:
        released.set()
    # It comes back after all: the lane stays sealed, and nothing of it runs again.
    await trio.sleep(100)
    assert len(runs) == 1
    assert service.lane.statistics().depth == 2
    assert (service.lifecycle.state, service.lifecycle.reason.code) == ("failed", "wedged")
    logged_errors.expect("service failed")


async def test_a_plugin_that_could_not_be_loaded_keeps_its_reason(rig, logged_errors):
    service = rig.add(plugin_of(), load_error=LoadFailed("syntax_error", "plugins/p.py:1: no"))
    await service.installation.is_loaded.wait()
    for command in (service.start, service.stop, service.restart):
        assert "plugins/p.py:1" in (await refusal(command())).detail
    assert service.lifecycle.reason.code == "syntax_error"
    await service.replace(loaded_of(plugin_of()), service.installed.settings).outcome()
    assert service.lifecycle.state in ("starting", "running")
    logged_errors.expect("service failed")


async def test_who_waits_for_room_is_told_of_the_stop(autojump_clock, rig):
    service = rig.add(plugin_of(), queue_events=1, drain_s=2)
    await rig.accept(service, "go", "hang")
    codes = []

    async def wait() -> None:
        codes.append((await refusal(rig.accept(service, "go", "x"))).code)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.sleep(1)
        await service.stop()
    assert codes == ["service_unavailable"] * 3
    assert service.lane.statistics().depth == 1


async def test_what_a_stopped_handler_still_does_is_refused(autojump_clock, rig):
    service = rig.add(plugin_of(), dispatch_timeout_s=900)
    await rig.accept(service, "go", "late")
    await trio.sleep(1)
    await service.stop()
    await rig.settled()
    assert not rig.events("p.late")
    assert rig.outcomes() == ["interrupted"]


async def test_an_event_that_takes_its_service_down_is_charged(autojump_clock, rig, logged_errors):
    plugin = Plugin("p")

    async def crash() -> None:
        raise RuntimeError("down")

    @plugin.start
    async def start(ctx) -> None:
        ctx.local.nursery = await ctx.enter(trio.open_nursery())

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        ctx.local.nursery.start_soon(crash)
        await trio.sleep_forever()

    service = rig.add(plugin)
    await rig.accept(service, "go")
    await trio.sleep(200)
    await rig.settled()
    assert len(service.dead_letters) == 1
    assert [r.code for r in service.dead_letters.page(None, 9)[0][0].attempts] == [
        "service_crashed"
    ] * 3
    assert service.lifecycle.state == "running"
    logged_errors.expect("service failed")


def counting(handled: list) -> Plugin:
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx: Context, event: IngressEvent) -> None:
        await trio.sleep(1)
        handled.append(event.payload)

    return plugin


async def test_a_generation_dispatches_only_while_its_gate_is_open(autojump_clock, rig):
    rig.may_dispatch = trio.Event()
    handled = []
    service = rig.add(counting(handled))
    for number in range(4):
        await rig.accept(service, "go", number)
    await trio.sleep(10)
    assert (service.lifecycle.state, handled) == ("running", [])

    generation = service.supervisor.current
    rig.may_dispatch.set()  # the host opens the first gate
    await trio.sleep(1.5)
    generation.shut_gate()
    await trio.sleep(10)
    assert handled == [0, 1]  # the event in hand was finished, and no other begun
    assert (service.lifecycle.state, service.lane.depth) == ("running", 2)

    generation.gate.open()
    await trio.sleep(10)
    assert handled == [0, 1, 2, 3]


async def test_a_later_generation_opens_its_gate_itself(autojump_clock, rig):
    handled = []
    service = rig.add(counting(handled))
    await trio.sleep(1)
    first = service.supervisor.current
    await service.restart()
    await rig.accept(service, "go", 1)
    await trio.sleep(5)
    assert service.supervisor.current is not first
    assert (first.gate.is_open, handled) == (True, [1])


@pytest.mark.parametrize("how", ["stop", "end"])
@pytest.mark.parametrize("opens", [False, True])
async def test_a_service_that_stops_behind_a_shut_gate_handles_nothing_more(
    autojump_clock, rig, how, opens
):
    """Also where the host opens it in the middle of the stop, or while the stop hook runs."""
    rig.may_dispatch = trio.Event()
    handled = []
    plugin = counting(handled)

    @plugin.stop
    async def stop(ctx) -> None:
        await trio.sleep(0.5)

    service = rig.add(plugin)
    for number in range(3):
        await rig.accept(service, "go", number)
    await trio.sleep(1)
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.stop if how == "stop" else partial(service.end, 6.0))
        await trio.lowlevel.checkpoint()
        if opens:
            rig.may_dispatch.set()
    assert trio.current_time() - before == pytest.approx(0.5)  # the hook, and no drain
    assert (handled, service.lane.depth, service.lifecycle.state) == ([], 3, "stopped")


async def test_the_control_behind_an_open_gate_a_stop_drains(autojump_clock, rig):
    handled = []
    service = rig.add(counting(handled))
    for number in range(3):
        await rig.accept(service, "go", number)
    await trio.sleep(0.5)
    await service.stop()
    assert (handled, service.lane.depth) == ([0, 1, 2], 0)


async def test_a_generation_is_next_until_its_start_returns_and_current_from_then_on(
    autojump_clock, rig
):
    async def start(ctx) -> None:
        await trio.sleep(5)

    service = rig.add(plugin_of(start))
    supervisor = service.supervisor
    await trio.sleep(1)
    generation = supervisor.next
    assert generation is not None
    assert (supervisor.current, service.lifecycle.state) == (None, "starting")
    await trio.sleep(5)
    assert (supervisor.current, supervisor.next) == (generation, None)
    await service.stop()
    assert supervisor.generations == ()


def test_the_shares_of_a_budget_leave_room():
    from yoi_daemon.model.settings import PluginSettings

    times = stop_times(PluginSettings(), 1.0)
    assert times.drain_s + 2 * times.cancel_s + times.hook_s + times.close_s + times.cancel_s <= 1
