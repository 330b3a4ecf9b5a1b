"""When the loop is said to stand still, and when not; the threads and the process are in tests/e2e and the proofs."""

from collections.abc import Iterable

import pytest

from yoi_daemon.model.blocking import Blocked, LoopFigures
from yoi_daemon.monitoring.loop_watch import CHECK_S, STILL_S, Sample, Stillness

START = Sample(beats=7, clock_s=100.0, processor_s=5.0, queued_s=1.0)


def looks(*steps: tuple[int, float, float, float]) -> list[Sample]:
    """From `START` on; each step is what was added of each."""
    seen = [START]
    for step in steps:
        seen.append(Sample(*(before + added for before, added in zip(seen[-1], step, strict=True))))
    return seen


def stood_still(seen: Iterable[Sample]) -> list[float]:
    stillness = Stillness()
    return [stillness.check(one) for one in seen]


BLOCKED = [(0, CHECK_S, 0.0, 0.0)] * 10
"""As in time.sleep: the looks come, the beats do not."""
COMPUTING = [(0, CHECK_S, CHECK_S, 0.0)] * 10
STARVED = [(0, CHECK_S, 0.01, CHECK_S - 0.01)] * 10
STOPPED = [(0, 60.0, 0.001, 0.0)]
"""SIGSTOP, or a machine that was paused: nobody looked, and the loop's thread computed nothing."""
HELD = [(0, 3.0, 2.9, 0.0)]
"""Nobody could look, because the loop's thread held the interpreter's lock."""
HELD_AND_STARVED = [(0, 3.0, 1.2, 1.8)]
BEAT = [(1, CHECK_S, 0.001, 0.0)]


@pytest.mark.parametrize("steps", [BLOCKED, COMPUTING, HELD, HELD_AND_STARVED])
def test_it_stands_still(steps: list[tuple[int, float, float, float]]) -> None:
    assert stood_still(looks(*steps))[-1] >= STILL_S


@pytest.mark.parametrize("steps", [STARVED, STOPPED, STOPPED * 5, BEAT * 20])
def test_it_does_not_by_its_own_fault(steps: list[tuple[int, float, float, float]]) -> None:
    assert max(stood_still(looks(*steps))) < STILL_S


@pytest.mark.parametrize("steps", [STARVED, STOPPED])
def test_the_control_a_clock_alone_would_say_so(
    steps: list[tuple[int, float, float, float]],
) -> None:
    seen = looks(*steps)
    assert seen[-1].clock_s - seen[0].clock_s >= STILL_S


def test_a_beat_ends_it_and_it_begins_anew() -> None:
    told = stood_still(looks(*BLOCKED, *BEAT, *BLOCKED[:3]))
    assert told[10] == pytest.approx(1.0)
    assert told[11] == 0
    assert told[-1] == pytest.approx(3 * CHECK_S)


def test_it_is_noticed_within_a_second() -> None:
    told = stood_still(looks(*BEAT, *BLOCKED))
    # The block began at the latest right after the look that saw the last beat.
    assert [still_s >= STILL_S for still_s in told].index(True) * CHECK_S <= 1.0


def blocked(plugin_id: str | None, blocked_s: float) -> Blocked:
    return Blocked(since="then", plugin_id=plugin_id, where="plugins/p.py:7", blocked_s=blocked_s)


def test_the_figures() -> None:
    figures = LoopFigures()
    assert figures.blocks(5.0).last is None
    figures.note(blocked("p", 2.0), 10.0)
    figures.note(blocked(None, 1.0), 20.0)
    told = figures.blocks(50.0)
    assert (told.count, told.longest_s, told.last_ago_s) == (2, 2.0, 30.0)
    assert told.last == blocked(None, 1.0)
    assert (figures.counts["p"], figures.seconds["p"], figures.counts["q"]) == (1, 2.0, 0)


def test_what_holds_it_now_is_told_before_its_end_is() -> None:
    figures = LoopFigures()
    figures.now = blocked("p", 0.7)
    told = figures.blocks(50.0)
    assert (told.count, told.last, told.last_ago_s) == (1, blocked("p", 0.7), 0.0)
    figures.note(blocked("p", 3.0), 53.0)
    assert figures.now is None
    assert figures.blocks(53.0).count == 1
