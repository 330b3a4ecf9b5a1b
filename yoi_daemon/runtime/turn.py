"""One turn: an engine's run in a task of its own, so that a hanging engine blocks nothing else."""

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
"""Minimum time between an engine's cancellation and giving it up: it must run once to see it."""


class Input(msgspec.Struct, frozen=True):
    """An accepted input."""

    item_id: str
    text: str
    correlation_id: str | None


class TurnVerdict(msgspec.Struct, frozen=True):
    """How a turn ended, and why if it did not complete. `crashed`: the worker ends with it."""

    outcome: TurnOutcome
    reason: Reason | None = None
    crashed: bool = False


class Conversation(Protocol):
    """The worker's conversation as its turns see it."""

    def history(self) -> Sequence[Item]:
        """Returns the transcript's items, oldest first."""
        ...

    async def room(self) -> None:
        """Waits while too much is uncommitted. Always a checkpoint."""
        ...

    def new_item_id(self) -> str:
        """Returns the id of the next item."""
        ...

    def add_item(self, item_id: str, role: Role, text: str, correlation_id: str | None) -> None:
        """Adds an item to the transcript and emits it."""
        ...

    def emit_delta(self, delta: WorkerDelta, correlation_id: str | None) -> None:
        """Emits a part of an item that is being written."""
        ...

    @property
    def max_item_bytes(self) -> int:
        """Returns the maximum text of an item that is written part by part: a whole transcript."""
        ...


class RunningTurn:
    """Implements `Turn`. Once there is a verdict, writes are refused.

    The verdict is given once: by `end`, by the engine's end, or by `supervise` at the deadline.
    """

    def __init__(
        self,
        conversation: Conversation,
        accepted: Input,
        generation: int,
        *,
        timeout_s: float,
        grace_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.generation = generation
        self.correlation_id = accepted.correlation_id
        self.call = GuardedCall(clock(), timeout_s=timeout_s, grace_s=max(MIN_GRACE_S, grace_s))
        self.ended_s: float | None = None
        self.verdict: TurnVerdict | None = None
        self.done = trio.Event()
        self.settled: tuple[int, WorkerSummary] | None = None
        """The number of the worker's first event after the turn, and the worker as it was then."""
        self._conversation = conversation
        self._input = accepted
        self._clock = clock
        self._waiting: trio.CancelScope | None = None
        self._streams: dict[ItemStream, None] = {}
        self._flush_at = inf

    # -- for the engine

    @property
    def input(self) -> str:
        return self._input.text

    @property
    def history(self) -> Sequence[Item]:
        return self._conversation.history()

    async def append(self, role: Role, text: str) -> None:
        await self.room()
        self._add_item(self._conversation.new_item_id(), role, text)

    @asynccontextmanager
    async def stream(self, role: Role) -> AsyncGenerator[ItemStream]:
        item_id = self._conversation.new_item_id()
        stream = ItemStream(
            self,
            self._clock,
            item_id=item_id,
            role=role,
            generation=self.generation,
            max_bytes=self._conversation.max_item_bytes,
        )
        self._streams[stream] = None
        try:
            yield stream
            await self.room()
            self._add_item(item_id, role, stream.finish())
        finally:
            del self._streams[stream]

    def check(self) -> None:
        """Raises `TurnClosedError` once there is a verdict."""
        if not self.call.is_open:
            raise TurnClosedError("the turn has ended; its effects are refused")

    # -- for the item streams

    async def room(self) -> None:
        """Waits while too much is uncommitted. Raises `TurnClosedError`."""
        await self._conversation.room()
        self.check()

    def emit(self, delta: WorkerDelta) -> None:
        """Emits a delta."""
        self._conversation.emit_delta(delta, self.correlation_id)

    def flush_at(self, when: float) -> None:
        """Has `supervise` flush the streams at `when`: the engine may not write again before."""
        if when < self._flush_at:
            self._flush_at = when
            if self._waiting is not None:
                self._waiting.deadline = min(self.call.due, when)

    def _flush(self) -> None:
        self._flush_at = inf
        if self.call.is_open:
            for stream in self._streams:
                stream.flush()

    # -- for the worker

    def end(self, verdict: TurnVerdict, grace_s: float) -> None:
        """Ends the turn: gives the verdict, refuses writes and cancels the engine in one step.

        An earlier verdict stays. The engine is given up no later than `grace_s` from now.
        """
        self._judge(verdict)
        self.call.cancel(self._clock(), max(MIN_GRACE_S, grace_s))
        if self._waiting is not None:
            self._waiting.deadline = self.call.due

    async def supervise(self, timed_out: TurnVerdict) -> None:
        """Returns when the engine has ended or is given up. `timed_out` is the verdict at the deadline."""
        while not self.done.is_set() and not self.call.is_wedged:
            with trio.CancelScope(deadline=min(self.call.due, self._flush_at)) as self._waiting:
                await self.done.wait()
            self._waiting = None
            if self._flush_at <= self._clock():
                self._flush()
            if not self.done.is_set() and self.call.advance(self._clock()) == "late":
                self._judge(timed_out)

    async def run(self, engine: Engine) -> None:
        """The turn's task. What the engine raises becomes the verdict; only a cancellation from outside is raised."""
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

    def _add_item(self, item_id: str, role: Role, text: str) -> None:
        self._conversation.add_item(item_id, role, text, self.correlation_id)

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
    # SystemExit and the like are no fault of one turn: the engine itself ends.
    return TurnVerdict("failed", Reason("crashed", name), crashed=True)
