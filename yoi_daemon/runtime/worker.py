"""One worker: a conversation with an inbox, run turn by turn by its own task."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import structlog
import trio

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import (
    Data,
    Draft,
    Reason,
    WorkerCreated,
    WorkerInputAccepted,
    WorkerItem,
    WorkerStateChanged,
    WorkerTurnFinished,
    WorkerTurnStarted,
    format_time,
)
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.model.states import WORKER_TERMINAL, WORKER_TRANSITIONS, Machine, WorkerState
from yoi_daemon.model.workers import Role, WhenBusy, WorkerSummary, cut_text
from yoi_daemon.runtime.engines.interface import Engine, TurnClosedError
from yoi_daemon.runtime.transcript import Item, Transcript

EVENT_TEXT_BYTES = 8192
"""How much of an item's text its event carries; the transcript has it whole."""

TurnOutcome = Literal["completed", "cancelled", "failed"]


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers of a runtime share."""

    runtime_id: str
    event_log: EventLog
    ids: IdSource
    settings: RuntimeSettings
    wall_clock: Callable[[], float]


class _Input(msgspec.Struct, frozen=True):
    item_id: str
    text: str
    correlation_id: str | None


class Worker:
    """A worker. Its commands are synchronous and give the number of the event that shows them."""

    def __init__(
        self,
        worker_id: str,
        engine: Engine,
        surroundings: Surroundings,
        *,
        profile: str,
        label: str,
        correlation_id: str | None,
    ) -> None:
        self.worker_id = worker_id
        self.profile = profile
        self.label = label
        self.created_at = format_time(surroundings.wall_clock())
        self.generation = 0
        """Counts the turns; what an earlier turn still writes changes nothing."""
        self.transcript = Transcript(
            max_items=surroundings.settings.transcript_items,
            max_bytes=surroundings.settings.transcript_bytes,
        )
        self._engine = engine
        self._around = surroundings
        self._machine: Machine[WorkerState] = Machine(WORKER_TRANSITIONS, "idle")
        self._reason: Reason | None = None
        self._inbox: deque[_Input] = deque()
        self._wake = trio.Event()
        self._turn_scope: trio.CancelScope | None = None
        data = WorkerCreated(profile=profile, label=label, state="idle")
        self.created_seq = self._append("worker.created", data, correlation_id)

    @property
    def state(self) -> WorkerState:
        return self._machine.state

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in WORKER_TERMINAL

    def summary(self) -> WorkerSummary:
        """The worker as the API shows it."""
        return WorkerSummary(
            runtime_id=self._around.runtime_id,
            worker_id=self.worker_id,
            implementation_kind="embedded",
            label=self.label,
            profile=self.profile,
            state=self.state,
            generation=self.generation,
            created_at=self.created_at,
            reason=self._reason,
        )

    def send(self, text: str, when_busy: WhenBusy, correlation_id: str | None) -> int:
        """Puts an input into the inbox. Raises `Refused`: `worker_gone`, `worker_busy`, `limit_reached`."""
        if self.state not in ("idle", "running"):
            raise Refused(
                "worker_gone",
                f"the worker is {self.state}; create another",
                state=self.state,
            )
        busy = self.state == "running" or bool(self._inbox)
        if busy and when_busy == "reject":
            raise Refused(
                "worker_busy",
                "the worker runs a turn; send with when_busy queue or interrupt, or wait",
                retry_after_s=1.0,
            )
        if len(self._inbox) >= self._around.settings.inbox_inputs:
            raise Refused(
                "limit_reached",
                f"the worker's inbox holds {len(self._inbox)} inputs; wait until it has worked some off",
                retry_after_s=1.0,
            )
        item_id = self._around.ids.new("itm")
        taken = _Input(item_id, text, correlation_id)
        if busy and when_busy == "interrupt":
            self._inbox.appendleft(taken)
            if self._turn_scope is not None:
                self._turn_scope.cancel()
        else:
            self._inbox.append(taken)
        self._wake.set()
        data = WorkerInputAccepted(item_id=item_id, inbox_depth=len(self._inbox))
        return self._append("worker.input_accepted", data, correlation_id)

    async def run(self) -> None:
        """The worker's task: runs turns until cancelled; then the worker is `stopped`."""
        try:
            while True:
                while not self._inbox:
                    await self._wake.wait()
                    self._wake = trio.Event()
                await self._run_turn(self._inbox.popleft())
        finally:
            if not self.is_over:
                if self.state == "running":
                    self._move("stopping")
                self._move("stopped", Reason("runtime_stopped", "the runtime stopped"))

    async def _run_turn(self, taken: _Input) -> None:
        self.generation += 1
        turn = _Turn(self, taken, self.generation)
        self._move("running", correlation_id=taken.correlation_id)
        data = WorkerTurnStarted(generation=self.generation, item_id=taken.item_id)
        self._append("worker.turn.started", data, taken.correlation_id)
        self._add_item(taken.item_id, "user", taken.text, taken.correlation_id)
        begun_s = trio.current_time()
        outcome: TurnOutcome = "completed"
        reason: Reason | None = None
        limit_s = self._around.settings.turn_timeout_s
        try:
            with trio.move_on_after(limit_s) as self._turn_scope:
                await self._engine.run(turn)
            if self._turn_scope.cancelled_caught:
                outcome, reason = "cancelled", Reason("interrupted", "another input took its place")
                if trio.current_time() >= self._turn_scope.deadline:
                    outcome, reason = "failed", Reason("turn_timeout", f"over {limit_s:g} s")
        except Exception as error:  # noqa: BLE001 (an engine's fault ends the turn, not the worker)
            outcome, reason = "failed", Reason("engine_failed", type(error).__name__)
            structlog.get_logger("runtime").warning(
                "turn failed",
                runtime_id=self._around.runtime_id,
                worker_id=self.worker_id,
                correlation_id=taken.correlation_id,
                exc_info=error,
            )
        except BaseException:
            outcome, reason = "cancelled", Reason("runtime_stopped", "the runtime stopped")
            raise
        finally:
            # One stretch: whatever of this turn comes later finds another generation.
            self._turn_scope = None
            turn.close()
            finished = WorkerTurnFinished(
                generation=turn.generation,
                outcome=outcome,
                duration_ms=round((trio.current_time() - begun_s) * 1000, 3),
                reason=reason,
            )
            self._append("worker.turn.finished", finished, taken.correlation_id)
        self._move("idle", correlation_id=taken.correlation_id)

    def _add_item(self, item_id: str, role: Role, text: str, correlation_id: str | None) -> None:
        time = format_time(self._around.wall_clock())
        item = self.transcript.append(item_id=item_id, role=role, text=text, time=time)
        shown, full_bytes = cut_text(text, EVENT_TEXT_BYTES)
        data = WorkerItem(
            item_id=item.item_id,
            role=role,
            text=shown,
            truncated=len(shown) < len(text),
            full_bytes=full_bytes,
        )
        self._append("worker.item", data, correlation_id)

    def _move(
        self, to: WorkerState, reason: Reason | None = None, correlation_id: str | None = None
    ) -> None:
        before = self._machine.move(to)
        self._reason = reason
        data = WorkerStateChanged(
            state=to, before=before, generation=self.generation, reason=reason
        )
        self._append("worker.state", data, correlation_id)

    def _append(self, kind: str, data: Data, correlation_id: str | None) -> int:
        around = self._around
        return around.event_log.append(
            Draft(
                kind=kind,
                runtime_id=around.runtime_id,
                worker_id=self.worker_id,
                correlation_id=correlation_id,
                data=data,
            )
        )

    # For `_Turn` alone.

    def history(self) -> Sequence[Item]:
        """The transcript's items, oldest first."""
        return self.transcript.items()

    async def append_of(self, turn: "_Turn", role: Role, text: str) -> None:
        """Adds an item for a turn that is still under way."""
        await self._around.event_log.room()
        # There is room nearly always: without this an engine that only appends could not be cancelled.
        await trio.lowlevel.checkpoint()
        turn.check()
        self._add_item(self._around.ids.new("itm"), role, text, turn.correlation_id)


class _Turn:
    """Implements `Turn`. Closed, it refuses: a late write of an ended turn changes nothing."""

    def __init__(self, worker: Worker, taken: _Input, generation: int) -> None:
        self._worker = worker
        self._taken = taken
        self._open = True
        self.generation = generation

    @property
    def input(self) -> str:
        return self._taken.text

    @property
    def history(self) -> Sequence[Item]:
        return self._worker.history()

    @property
    def correlation_id(self) -> str | None:
        return self._taken.correlation_id

    async def append(self, role: Role, text: str) -> None:
        await self._worker.append_of(self, role, text)

    def check(self) -> None:
        if not self._open:
            raise TurnClosedError("the turn has ended; its effects are refused")

    def close(self) -> None:
        self._open = False
