"""One turn: an engine's run in a task of its own, so that one which does not end holds nobody else."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Literal, Protocol

import msgspec
import structlog
import trio

from yoi_daemon.cancellation import GuardedCall, cancellation_in
from yoi_daemon.model.events import Reason, WorkerDelta
from yoi_daemon.model.workers import Role, WorkerSummary
from yoi_daemon.runtime.engines.interface import Engine, TurnClosedError
from yoi_daemon.runtime.streaming import ItemStream
from yoi_daemon.runtime.transcript import Item

TurnOutcome = Literal["completed", "cancelled", "failed"]

MIN_GRACE_S = 0.1
"""The least time between an engine's cancellation and giving it up: it must have run once to have seen it."""


class Input(msgspec.Struct, frozen=True):
    """An accepted input that waits for its turn."""

    item_id: str
    text: str
    correlation_id: str | None


class TurnVerdict(msgspec.Struct, frozen=True):
    """How a turn ended, and why where it did not complete. `crashed`: the worker ends with it."""

    outcome: TurnOutcome
    reason: Reason | None = None
    crashed: bool = False


class Owner(Protocol):
    """The worker, as far as its turns see it."""

    def history(self) -> Sequence[Item]:
        """The transcript's items, oldest first."""
        ...

    async def room_for(self, turn: "RunningTurn") -> None:
        """Waits while too much is uncommitted. Raises `TurnClosedError` where the turn is closed by then."""
        ...

    def new_item_id(self) -> str:
        """The id of an item to come."""
        ...

    def add_item_of(self, turn: "RunningTurn", item_id: str, role: Role, text: str) -> None:
        """Adds an item."""
        ...

    def tell_delta_of(self, turn: "RunningTurn", delta: WorkerDelta) -> None:
        """Emits a part of an item to come."""
        ...

    @property
    def max_item_bytes(self) -> int:
        """The largest text of an item that is written part by part."""
        ...


class RunningTurn:
    """Implements `Turn`. Closed, it refuses: a late write of an ended turn changes nothing.

    The first of two things is its verdict: `end`, or the engine's own end. Whoever supervises it
    calls `supervise`, which holds its deadline and gives it up in the end.
    """

    def __init__(
        self,
        owner: Owner,
        taken: Input,
        generation: int,
        *,
        timeout_s: float,
        grace_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.generation = generation
        self.correlation_id = taken.correlation_id
        self.call = GuardedCall(clock(), timeout_s=timeout_s, grace_s=max(MIN_GRACE_S, grace_s))
        self.ended_s: float | None = None
        self.verdict: TurnVerdict | None = None
        self.done = trio.Event()
        self.left: tuple[int, WorkerSummary] | None = None
        """Set when the worker has left the turn: the number of that event, and the worker as it was then."""
        self._owner = owner
        self._taken = taken
        self._clock = clock
        self._waiting: trio.CancelScope | None = None
        self._streams: dict[ItemStream, None] = {}
        self._tell_at = inf

    # -- what the engine sees

    @property
    def input(self) -> str:
        return self._taken.text

    @property
    def history(self) -> Sequence[Item]:
        return self._owner.history()

    async def append(self, role: Role, text: str) -> None:
        await self.room()
        self._owner.add_item_of(self, self._owner.new_item_id(), role, text)

    @asynccontextmanager
    async def stream(self, role: Role) -> AsyncGenerator[ItemStream]:
        item_id = self._owner.new_item_id()
        stream = ItemStream(
            self,
            self._clock,
            item_id=item_id,
            role=role,
            generation=self.generation,
            max_bytes=self._owner.max_item_bytes,
        )
        self._streams[stream] = None
        try:
            yield stream
            await self.room()
            self._owner.add_item_of(self, item_id, role, stream.finish())
        finally:
            del self._streams[stream]

    def check(self) -> None:
        """Raises `TurnClosedError` once there is a verdict."""
        if not self.call.is_open:
            raise TurnClosedError("the turn has ended; its effects are refused")

    # -- what the items under way see

    async def room(self) -> None:
        """Waits while too much is uncommitted. Raises `TurnClosedError`."""
        await self._owner.room_for(self)

    def tell(self, delta: WorkerDelta) -> None:
        """Emits a delta."""
        self._owner.tell_delta_of(self, delta)

    def tell_at(self, when: float) -> None:
        """Has what waits told at `when`, by whoever supervises the turn: the engine may have fallen silent."""
        if when < self._tell_at:
            self._tell_at = when
            if self._waiting is not None:
                self._waiting.deadline = min(self.call.due, when)

    def _tell_waiting(self) -> None:
        self._tell_at = inf
        if self.call.is_open:
            for stream in self._streams:
                stream.tell_waiting()

    # -- what the worker sees

    def end(self, verdict: TurnVerdict, grace_s: float) -> None:
        """Ends the turn: verdict, closing its effects and cancelling the engine are one step.

        Ended already, it keeps its verdict, and is given up no later than `grace_s` from now.
        """
        self._judge(verdict)
        self.call.cancel(self._clock(), max(MIN_GRACE_S, grace_s))
        if self._waiting is not None:
            self._waiting.deadline = self.call.due

    async def supervise(self, timed_out: TurnVerdict) -> None:
        """Returns when the engine has ended or was given up. `timed_out` is the verdict at the deadline."""
        while not self.done.is_set() and not self.call.is_wedged:
            with trio.CancelScope(deadline=min(self.call.due, self._tell_at)) as self._waiting:
                await self.done.wait()
            self._waiting = None
            if self._tell_at <= self._clock():
                self._tell_waiting()
            if not self.done.is_set() and self.call.advance(self._clock()) == "late":
                self._judge(timed_out)

    async def run(self, engine: Engine) -> None:
        """The turn's task. What the engine raises becomes the verdict; only a cancellation around us leaves."""
        try:
            with self.call.scope, self.call.give_up:
                await engine.run(self)
            self._judge(TurnVerdict("completed"))
        except BaseException as error:  # noqa: ASYNC103, BLE001 (an engine ends its worker, not the runtime)
            if (cancelled := cancellation_in(error)) is not None:
                self._judge(RUNTIME_STOPPED)
                raise cancelled from None  # noqa: ASYNC104 (it is the cancellation itself)
            self._judge(_verdict_on(error))  # noqa: ASYNC104 (a cancellation was raised above)
            structlog.get_logger("runtime").warning(
                "turn failed",
                generation=self.generation,
                correlation_id=self.correlation_id,
                exc_info=error,
            )
        finally:
            self.done.set()

    def _judge(self, verdict: TurnVerdict) -> None:
        if self.verdict is None:
            self.verdict = verdict
            self.ended_s = self._clock()
            self.call.is_open = False


RUNTIME_STOPPED = TurnVerdict("cancelled", Reason("runtime_stopped", "the runtime stopped"))


def _verdict_on(error: BaseException) -> TurnVerdict:
    name = type(error).__name__
    if isinstance(error, Exception):
        return TurnVerdict("failed", Reason("engine_failed", name))
    # SystemExit and its like: no fault of one turn, the engine itself wants to end.
    return TurnVerdict("failed", Reason("crashed", name), crashed=True)
