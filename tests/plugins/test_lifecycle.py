"""A service's life: started, failed, tried again, given up, stopped."""

import itertools
from contextlib import asynccontextmanager

import pytest
import trio

from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.summary import ask_status, record_of
from yoi_daemon.sdk import Plugin


async def until(service, state: str) -> None:
    with trio.fail_after(10_000):
        while service.lifecycle.state != state:
            await service.lifecycle.changed.wait()
    await trio.testing.wait_all_tasks_blocked()


def plugin_with(start=None, stop=None, name="p") -> Plugin:
    plugin = Plugin(name)
    if start is not None:
        plugin.start(start)
    if stop is not None:
        plugin.stop(stop)

    @plugin.ingress("go")
    async def go(ctx, event) -> None: ...

    return plugin


async def test_it_starts_and_stops(autojump_clock, rig):
    calls = []

    @asynccontextmanager
    async def resource(name):
        calls.append(f"open {name}")
        try:
            yield
        finally:
            calls.append(f"close {name}")

    async def start(ctx) -> None:
        await ctx.enter(resource("a"))
        await ctx.enter(resource("b"))
        ctx.local.kept = 1

    async def stop(ctx) -> None:
        calls.append(f"stop {ctx.local.kept}")

    service = rig.add(plugin_with(start, stop))
    await until(service, "running")
    await service.stop()
    await rig.settled()
    assert calls == ["open a", "open b", "stop 1", "close b", "close a"]
    assert [state for state, _ in rig.states()] == ["starting", "running", "stopping", "stopped"]
    await service.start()
    await until(service, "running")


async def test_a_start_that_never_returns_fails(autojump_clock, rig, logged_errors):
    async def start(ctx) -> None:
        await trio.sleep_forever()

    service = rig.add(plugin_with(start), start_timeout_s=30)
    await until(service, "failed")
    assert 30 <= trio.current_time() <= 31
    assert service.lifecycle.reason.code == "start_timeout"
    assert [event["data"]["doing"] for event in rig.events("plugin.slow")] == ["start"]
    logged_errors.expect("service failed")


async def test_a_start_that_raises_fails_with_the_place_and_closes_what_it_entered(
    autojump_clock, rig, logged_errors
):
    closed = []

    @asynccontextmanager
    async def resource():
        try:
            yield
        finally:
            closed.append(True)

    async def start(ctx) -> None:
        await ctx.enter(resource())
        raise ValueError("no database")

    service = rig.add(plugin_with(start))
    await until(service, "failed")
    assert closed == [True]
    assert service.lifecycle.reason.code == "start_failed"
    error = service.settlement.last_error
    assert error.message == "ValueError: no database"
    assert error.where.startswith("plugins/test_lifecycle.py:")
    logged_errors.expect("service failed")


async def test_a_start_that_leaves_a_task_running_fails(autojump_clock, rig, logged_errors):
    ended = []

    async def linger() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def start(ctx) -> None:
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(linger)

    service = rig.add(plugin_with(start))
    await until(service, "failed")
    assert service.lifecycle.reason.code == "start_left_task"
    assert ended == [True]
    logged_errors.expect("service failed")


async def test_a_nursery_entered_in_start_is_no_left_task_and_its_crash_fails_the_service(
    autojump_clock, rig, logged_errors
):
    crash = trio.Event()

    async def background() -> None:
        await crash.wait()
        raise RuntimeError("lost the connection")

    async def start(ctx) -> None:
        nursery = await ctx.enter(trio.open_nursery())
        nursery.start_soon(background)

    service = rig.add(plugin_with(start))
    await until(service, "running")
    await trio.sleep(100)  # longer than the start's deadline: it was moved
    assert service.lifecycle.state == "running"
    crash.set()
    await until(service, "failed")
    assert service.lifecycle.reason.code == "service_crashed"
    assert service.settlement.last_error.message == "RuntimeError: lost the connection"
    logged_errors.expect("service failed")


async def test_enter_is_refused_outside_start(autojump_clock, rig):
    refused = []
    plugin = Plugin("p")

    @plugin.start
    async def start(ctx) -> None:
        ctx.local.start_ctx = ctx

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        for one in (ctx, ctx.local.start_ctx):
            with pytest.raises(RuntimeError, match="for start only"):
                await one.enter(trio.open_nursery())
            refused.append(True)

    service = rig.add(plugin)
    await rig.accept(service, "go")
    await trio.sleep(1)
    assert refused == [True, True]


async def test_restarts_back_off_then_quarantine_then_half_open(autojump_clock, rig, logged_errors):
    starts = []

    async def start(ctx) -> None:
        starts.append(trio.current_time())
        raise ValueError

    service = rig.add(plugin_with(start))
    await trio.sleep(200)
    gaps = [round(b - a) for a, b in itertools.pairwise(starts)]
    assert gaps == [1, 2, 4, 8, 16]
    assert len(starts) == 6  # the first, and five restarts
    assert service.lifecycle.gave_up
    (event,) = rig.events("plugin.gave_up")
    assert event["data"] == {"restarts": 5, "within_s": 300, "retry_in_s": 300}
    assert service.settlement.counters["gave_up"] == 1
    with pytest.raises(Refused) as refused:
        await rig.accept(service, "go")
    assert refused.value.code == "service_failed"
    await trio.sleep(10_000)
    gaps = [round(b - a) for a, b in itertools.pairwise(starts)]
    assert gaps[5:9] == [300, 600, 1200, 2400]
    assert gaps[9:] == [3600] * len(gaps[9:])
    logged_errors.expect("service failed")


async def test_while_a_retry_is_near_the_lane_accepts_and_nothing_is_lost(
    autojump_clock, rig, logged_errors
):
    tries = []
    handled = []
    plugin = Plugin("p")

    @plugin.start
    async def start(ctx) -> None:
        tries.append(True)
        if len(tries) < 3:
            raise ValueError

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        handled.append(event.payload)

    service = rig.add(plugin)
    await until(service, "failed")
    await rig.accept(service, "go", 1)
    assert service.lifecycle.retry_at is not None
    await until(service, "running")
    await trio.sleep(1)
    assert handled == [1]
    logged_errors.expect("service failed")


async def test_restarts_are_forgotten_after_a_healthy_while_or_a_manual_start(
    autojump_clock, rig, logged_errors
):
    fail = [True]

    async def start(ctx) -> None:
        if fail[0]:
            raise ValueError

    service = rig.add(plugin_with(start))
    await trio.sleep(2)
    fail[0] = False
    await until(service, "running")
    assert record_of(service).restarts > 0
    await trio.sleep(301)
    assert record_of(service).restarts == 0
    await service.stop()
    fail[0] = True
    await service.start()
    await trio.sleep(2)
    assert record_of(service).restarts > 0
    fail[0] = False
    await service.start()
    assert record_of(service).restarts == 0
    logged_errors.expect("service failed")


@pytest.mark.parametrize(
    ("policy", "crashes", "ends"),
    [
        ("permanent", 2, "failed"),
        ("transient", 2, "stopped"),
        ("temporary", 1, "stopped"),
    ],
)
async def test_restart_policies(autojump_clock, rig, logged_errors, policy, crashes, ends):
    """The service crashes once, and the next time ends by itself."""
    runs = []

    async def crash() -> None:
        await trio.sleep(1)
        raise ValueError

    async def start(ctx) -> None:
        runs.append(True)
        nursery = await ctx.enter(trio.open_nursery())
        if len(runs) == 1 and policy != "temporary":
            nursery.start_soon(crash)
        else:
            nursery.cancel_scope.deadline = trio.current_time() + 1

    service = rig.add(plugin_with(start), restart=policy)
    await until(service, "failed" if policy != "temporary" else "stopped")
    if policy != "temporary":
        await until(service, "running")
        await until(service, ends)
    assert len(runs) == crashes
    assert service.lifecycle.reason.code == "service_ended"
    assert (service.lifecycle.retry_at_s is not None) == (policy == "permanent")
    if policy != "temporary":
        logged_errors.expect("service failed")


async def test_stop_drains_then_refuses(autojump_clock, rig):
    handled = []
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        await trio.sleep(1)
        handled.append(event.payload)

    service = rig.add(plugin)
    for number in range(5):
        await rig.accept(service, "go", number)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.stop)
        await trio.sleep(0.5)
        with pytest.raises(Refused) as refused:
            await rig.accept(service, "go")
        assert refused.value.code == "service_unavailable"
        assert refused.value.fields == {"state": "stopping"}
    assert handled == [0, 1, 2, 3, 4]
    assert service.lifecycle.state == "stopped"


async def test_what_a_stop_cannot_drain_is_interrupted_and_waits(autojump_clock, rig):
    handled = []
    plugin = Plugin("p")

    @plugin.ingress("go")
    async def go(ctx, event) -> None:
        if event.payload == 1 and event.attempt == 1:
            await trio.sleep_forever()
        handled.append((event.payload, event.attempt))

    service = rig.add(plugin, dispatch_timeout_s=1000)
    for number in range(3):
        await rig.accept(service, "go", number)
    before = trio.current_time()
    await service.stop()
    assert trio.current_time() - before == pytest.approx(10)
    assert handled == [(0, 1)]
    assert record_of(service).queue_depth == 2
    assert service.report_unfinished() == 2
    await service.start()
    await trio.sleep(1)
    assert handled == [(0, 1), (1, 2), (2, 1)]
    await rig.settled()
    assert rig.outcomes() == ["handled", "interrupted", "unfinished", "handled", "handled"]


async def test_a_hanging_or_raising_stop_hook_does_not_hold_the_stop(autojump_clock, rig):
    async def stop(ctx) -> None:
        await trio.sleep_forever()

    service = rig.add(plugin_with(None, stop))
    await until(service, "running")
    before = trio.current_time()
    await service.stop()
    assert trio.current_time() - before == pytest.approx(5)
    assert (service.lifecycle.state, service.lifecycle.reason.code) == ("stopped", "stop_timeout")


async def test_a_resource_that_ignores_its_closing_is_wedged(autojump_clock, rig, logged_errors):
    released = trio.Event()

    @asynccontextmanager
    async def stubborn():
        yield
        while not released.is_set():
            with trio.CancelScope(shield=True):
                await released.wait()

    async def start(ctx) -> None:
        await ctx.enter(stubborn())

    service = rig.add(plugin_with(start))
    await until(service, "running")
    try:
        for command in (service.stop, service.start, service.restart):
            with pytest.raises(Refused) as refused:
                await command()
            assert "restart of the daemon" in refused.value.detail
        assert service.lifecycle.state == "failed"
        assert service.lifecycle.reason.code == "wedged"
        assert service.has_unended
    finally:
        released.set()
    logged_errors.expect("service failed")


async def test_status_hanging_raising_or_too_large_is_a_diagnostic(autojump_clock, rig):
    answers = {"hang": None, "raise": None, "large": None, "good": None}

    def answering(kind):
        async def status(ctx):
            if kind == "hang":
                await trio.sleep_forever()
            if kind == "raise":
                raise ValueError("no")
            return {"x": "y" * (20_000 if kind == "large" else 1)}

        return status

    for kind in answers:
        plugin = plugin_with(name=f"p_{kind}")

        plugin.status(answering(kind))
        service = rig.add(plugin)
        await until(service, "running")
        before = trio.current_time()
        detail = await ask_status(service)
        assert trio.current_time() - before <= 2
        answers[kind] = detail["diagnostic"]["code"] if isinstance(detail, dict) else bytes(detail)
    assert answers == {
        "hang": "status_timeout",
        "raise": "status_handler_failed",
        "large": "status_too_large",
        "good": b'{"x":"y"}',
    }
