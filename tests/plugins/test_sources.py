import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from yoi_daemon.plugins.sources.timer import run_timers
from yoi_daemon.sdk import Plugin


def timers(**periods: float):
    plugin = Plugin("gen")
    for name, period_s in periods.items():

        async def handler(ctx, event): ...

        handler.__name__ = name
        plugin.every(seconds=period_s)(handler)
    plugin.ingress("push")(lambda ctx, event: None)
    return plugin.manifest().ingresses.values()


async def test_each_timer_ticks_in_its_own_period(autojump_clock):
    begun_s = trio.current_time()
    ticks = []
    with trio.move_on_after(7.5):
        await run_timers(
            timers(slow=3, fast=2),
            lambda spec: ticks.append((spec.name, round(trio.current_time() - begun_s, 6))),
        )
    assert sorted(ticks) == [
        ("fast", 2), ("fast", 4), ("fast", 6), ("slow", 3), ("slow", 6),
    ]  # fmt: skip


async def test_without_timers_nothing_is_waited_for(autojump_clock):
    with trio.fail_after(1):
        await run_timers(timers(), lambda spec: None)


async def test_periods_do_not_drift(autojump_clock):
    begun_s = trio.current_time()
    ticks = []
    with trio.move_on_after(100.05):
        await run_timers(timers(t=0.1), lambda spec: ticks.append(trio.current_time() - begun_s))
    assert len(ticks) == 1000
    assert max(abs(at - 0.1 * number) for number, at in enumerate(ticks, 1)) < 1e-6


async def test_periods_that_passed_while_the_loop_stood_still_are_left_out(mock_clock: MockClock):
    begun_s = trio.current_time()
    ticks = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            run_timers,
            timers(t=10),
            lambda spec: ticks.append(round(trio.current_time() - begun_s, 6)),
        )
        await wait_all_tasks_blocked()
        for seconds in (10, 37, 2, 1, 9, 1):  # to 10, 47, 49, 50, 59, 60
            mock_clock.jump(seconds)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert ticks == [10, 47, 50, 60]
