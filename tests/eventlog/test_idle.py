"""One timer for everybody's silence: woken in time, and not for nothing."""

import trio
from trio.testing import wait_all_tasks_blocked

from yoi_daemon.eventlog.idle import IdleTimer, IdleTimers

AFTER_S = 15.0


class Ear:
    """Says when it was woken."""

    def __init__(self, heard_s: float) -> None:
        self.heard_s = heard_s
        self.is_direct = True
        self.woken: list[float] = []

    def wake(self) -> None:
        self.woken.append(trio.current_time())


async def test_each_is_woken_once_when_it_heard_nothing_for_so_long(autojump_clock, nursery):
    silence = IdleTimers()
    nursery.start_soon(silence.run)
    ears = [Ear(heard_s) for heard_s in (5.0, 2.0, 9.0)]
    for ear in ears:
        silence.begin(IdleTimer(ear, AFTER_S))
    await trio.sleep(100)
    assert [ear.woken for ear in ears] == [[20.0], [17.0], [24.0]]
    nursery.cancel_scope.cancel()


async def test_who_begins_while_it_waits_may_be_due_earlier(autojump_clock, nursery):
    silence = IdleTimers()
    nursery.start_soon(silence.run)
    late, early = Ear(0.0), Ear(0.0)
    silence.begin(IdleTimer(late, 50))
    await wait_all_tasks_blocked()
    silence.begin(IdleTimer(early, 5))
    await trio.sleep(100)
    assert (early.woken, late.woken) == ([5.0], [50.0])
    nursery.cancel_scope.cancel()


async def test_who_heard_meanwhile_is_waited_for_again(autojump_clock, nursery):
    silence = IdleTimers()
    nursery.start_soon(silence.run)
    ear = Ear(0.0)
    silence.begin(IdleTimer(ear, AFTER_S))
    await trio.sleep(14)
    ear.heard_s = 14.0
    await trio.sleep(14)
    assert ear.woken == []
    await trio.sleep(100)
    assert ear.woken == [29.0]
    nursery.cancel_scope.cancel()


async def test_who_left_or_does_not_rest_is_not_woken_and_not_kept(autojump_clock, nursery):
    silence = IdleTimers()
    nursery.start_soon(silence.run)
    gone, busy = Ear(0.0), Ear(0.0)
    watches = [IdleTimer(gone, AFTER_S), IdleTimer(busy, AFTER_S)]
    for watch in watches:
        silence.begin(watch)
    silence.end(watches[0])
    busy.is_direct = False
    await trio.sleep(100)
    assert gone.woken == busy.woken == []
    assert watches[1].listener is None
    nursery.cancel_scope.cancel()


async def test_of_those_that_left_nothing_is_kept(autojump_clock, nursery):
    silence = IdleTimers()
    nursery.start_soon(silence.run)
    ears = [Ear(0.0) for _ in range(100)]
    watches = [IdleTimer(ear, AFTER_S + number) for number, ear in enumerate(ears)]
    for watch in watches:
        silence.begin(watch)
    for watch in watches[:90]:
        silence.end(watch)
        silence.end(watch)
    assert len(silence._watches) <= 20
    await trio.sleep(200)
    assert [len(ear.woken) for ear in ears] == [0] * 90 + [1] * 10
    again = IdleTimer(ears[0], AFTER_S)
    silence.begin(again)
    silence.end(again)
    assert silence._watches == []
    nursery.cancel_scope.cancel()
