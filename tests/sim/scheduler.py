"""A scheduler of ours under Trio: seeded, one task at a time, and able to starve some.

Trio runs everything that is runnable once in each pass, in any order, so no task waits longer than a pass.
Here the run queue itself is replaced, when a run begins: it shows Trio the one task that a policy chose,
and keeps the others. Where all that is left is starved, the queue says that it is empty, and time passes.
Tasks are known by the order of their making, so that the same seed makes the same choices.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import trio
from trio.testing import MockClock

Task = trio.lowlevel.Task

PATIENCE_S = 3.0
"""A task that is starved for longer than a grace is taken for wedged, and rightly so: the graces are longer."""


def _runner() -> Any:
    return trio._core._run.GLOBAL_RUN_CONTEXT.runner


class Shuffle:
    """What Trio does: each runnable task once in a pass, in any order."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._pass: list[Task] = []

    def movable(self, runnable: list[Task]) -> list[Task]:
        return runnable

    def choose(self, movable: list[Task]) -> Task | None:
        self._pass = [task for task in self._pass if task in movable]
        if not self._pass:
            self._pass = list(movable)
            self._chance.shuffle(self._pass)
        return self._pass.pop() if self._pass else None


class Defer(Shuffle):
    """Now and then one task is not run for so many steps, whatever the others do meanwhile.

    Time may pass over it too, but not more than `PATIENCE_S`.
    """

    def __init__(self, chance: Random) -> None:
        super().__init__(chance)
        self._starved: dict[Task, tuple[int, float]] = {}
        """The steps that are left, and the time when it ends; one that is over is not starved again at once."""

    def movable(self, runnable: list[Task]) -> list[Task]:
        others = [task for task in runnable if self._starved.get(task, OVER)[0] <= 0]
        if others or not runnable:
            return others
        next_s = _runner().deadlines.next_deadline()
        return [task for task in runnable if self._starved[task][1] < next_s]

    def choose(self, movable: list[Task]) -> Task | None:
        self._starved = {
            task: (left - 1, until_s) for task, (left, until_s) in self._starved.items()
        }
        candidates = [task for task in movable if task not in self._starved]
        if len(candidates) > 1 and self._chance.random() < 0.05:
            starved = self._chance.choice(candidates)
            steps = self._chance.choice((10, 50, 200))
            self._starved[starved] = (steps, trio.current_time() + PATIENCE_S)
            movable = [task for task in movable if task is not starved]
        chosen = super().choose(movable)
        if chosen is not None:
            self._starved.pop(chosen, None)
        return chosen


OVER = (0, 0.0)


class Priority:
    """The runnable task that is most important runs, and no other; now and then it becomes another's turn."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._priorities: dict[Task, float] = {}

    def movable(self, runnable: list[Task]) -> list[Task]:
        return runnable

    def choose(self, movable: list[Task]) -> Task | None:
        for task in movable:
            self._priorities.setdefault(task, self._chance.random())
        if not movable:
            return None
        chosen = max(movable, key=self._priorities.__getitem__)
        if self._chance.random() < 0.02:
            self._priorities[chosen] = self._chance.random()
        return chosen


POLICIES: dict[str, Callable[[Random], Any]] = {
    "shuffle": Shuffle,
    "defer": Defer,
    "priority": Priority,
}


class _RunQueue(deque[Task]):
    """Trio's run queue, of which Trio sees what is chosen: it asks `bool`, makes a list, and clears."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self._policy = policy
        self._chosen: Task | None = None

    def _runnable(self) -> list[Task]:
        return sorted(super().__iter__(), key=lambda task: task._counter)

    def __bool__(self) -> bool:
        return bool(self._policy.movable(self._runnable()))

    def __iter__(self):
        self._chosen = self._policy.choose(self._policy.movable(self._runnable()))
        return iter([] if self._chosen is None else [self._chosen])

    def clear(self) -> None:
        if self._chosen is not None:
            self.remove(self._chosen)
            self._chosen = None


class Scheduler(trio.abc.Instrument):
    """Takes over the run queue; keeps the trace; calls `on_moment` before and after each step of a task."""

    def __init__(self, policy: str, seed: int) -> None:
        self._policy = POLICIES[policy](Random(seed))
        self._labels: dict[Task, str] = {}
        self.trace: list[str] = []
        self.on_moment: Callable[[], None] = lambda: None

    def before_run(self) -> None:
        runner = _runner()
        assert not runner.runq, "too late: some tasks run already"
        runner.runq = _RunQueue(self._policy)

    def before_task_step(self, task: Task) -> None:
        label = self._labels.setdefault(task, f"{len(self._labels)} {task.name}")
        self.trace.append(f"{trio.current_time():.3f} {label}")
        self.on_moment()

    def after_task_step(self, task: Task) -> None:
        self.on_moment()

    def note(self, what: str) -> None:
        """A line of the trace that is no step."""
        self.trace.append(f"    {what}")

    def run(self, function: Callable[[], Any]) -> Any:
        """`function` under this scheduler, on a clock that jumps when nothing moves."""
        return trio.run(function, clock=MockClock(autojump_threshold=0), instruments=[self])
