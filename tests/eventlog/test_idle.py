"""One timer for everybody's idle_timers: woken in time, and not for nothing."""

import trio
from trio.testing import wait_all_tasks_blocked

from yoi_daemon.eventlog.idle import IdleTimer, IdleTimers

AFTER_S = 15.0


class Reader:
    """Says when it was woken."""

    def __init__(self, last_write_s: float) -> None:
        self.last_write_s = last_write_s
        self.is_direct = True
        self.woken: list[float] = []

    def wake(self) -> None:
        self.woken.append(trio.current_time())


async def test_each_reader_is_woken_once_after_its_idle_time(autojump_clock, nursery):
    idle_timers = IdleTimers()
    nursery.start_soon(idle_timers.run)
    ears = [Reader(last_write_s) for last_write_s in (5.0, 2.0, 9.0)]
    for reader in ears:
        idle_timers.start(IdleTimer(reader, AFTER_S))
    await trio.sleep(100)
    assert [reader.woken for reader in ears] == [[20.0], [17.0], [24.0]]
    nursery.cancel_scope.cancel()


async def test_a_timer_that_starts_later_may_be_due_earlier(autojump_clock, nursery):
    idle_timers = IdleTimers()
    nursery.start_soon(idle_timers.run)
    late, early = Reader(0.0), Reader(0.0)
    idle_timers.start(IdleTimer(late, 50))
    await wait_all_tasks_blocked()
    idle_timers.start(IdleTimer(early, 5))
    await trio.sleep(100)
    assert (early.woken, late.woken) == ([5.0], [50.0])
    nursery.cancel_scope.cancel()


async def test_a_reader_that_was_written_to_gets_its_full_idle_time_again(autojump_clock, nursery):
    idle_timers = IdleTimers()
    nursery.start_soon(idle_timers.run)
    reader = Reader(0.0)
    idle_timers.start(IdleTimer(reader, AFTER_S))
    await trio.sleep(14)
    reader.last_write_s = 14.0
    await trio.sleep(14)
    assert reader.woken == []
    await trio.sleep(100)
    assert reader.woken == [29.0]
    nursery.cancel_scope.cancel()


async def test_a_reader_that_left_or_follows_is_neither_woken_nor_kept(autojump_clock, nursery):
    idle_timers = IdleTimers()
    nursery.start_soon(idle_timers.run)
    gone, busy = Reader(0.0), Reader(0.0)
    timers = [IdleTimer(gone, AFTER_S), IdleTimer(busy, AFTER_S)]
    for timer in timers:
        idle_timers.start(timer)
    idle_timers.cancel(timers[0])
    busy.is_direct = False
    await trio.sleep(100)
    assert gone.woken == busy.woken == []
    assert timers[1].reader is None
    nursery.cancel_scope.cancel()


async def test_of_those_that_left_nothing_is_kept(autojump_clock, nursery):
    idle_timers = IdleTimers()
    nursery.start_soon(idle_timers.run)
    ears = [Reader(0.0) for _ in range(100)]
    timers = [IdleTimer(reader, AFTER_S + number) for number, reader in enumerate(ears)]
    for timer in timers:
        idle_timers.start(timer)
    for timer in timers[:90]:
        idle_timers.cancel(timer)
        idle_timers.cancel(timer)
    assert len(idle_timers._timers) <= 20
    await trio.sleep(200)
    assert [len(reader.woken) for reader in ears] == [0] * 90 + [1] * 10
    again = IdleTimer(ears[0], AFTER_S)
    idle_timers.start(again)
    idle_timers.cancel(again)
    assert idle_timers._timers == []
    nursery.cancel_scope.cancel()
