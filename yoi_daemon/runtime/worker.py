"""One worker: a conversation with an inbox, run turn by turn; its own task supervises the turns."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import cast

import msgspec
import structlog
import trio

from yoi_daemon.eventlog.interface import Commit, EventLog
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Reason, WorkerDelta, format_time
from yoi_daemon.model.ids import IdSource
from yoi_daemon.model.settings import RuntimeSettings
from yoi_daemon.model.states import WORKER_TERMINAL, WORKER_TRANSITIONS, Machine, WorkerState
from yoi_daemon.model.workers import Role, WhenBusy, WorkerSummary
from yoi_daemon.runtime.emitting import Emitter
from yoi_daemon.runtime.engines.interface import Engine
from yoi_daemon.runtime.inbox import Inbox
from yoi_daemon.runtime.ledger import KeptWorker, WorkerLedger
from yoi_daemon.runtime.transcript import Item, Transcript
from yoi_daemon.runtime.turn import RUNTIME_STOPPED, Input, RunningTurn, TurnVerdict

MAX_GIVEN_UP_TURNS = 8
"""So many given-up turns that still run, and the worker fails: each holds a task and whatever its engine holds."""

CANCELLED = TurnVerdict("cancelled", Reason("cancelled", "the turn was cancelled"))
INTERRUPTED = TurnVerdict("cancelled", Reason("interrupted", "another input took its place"))
INTERRUPTED_BY_THE_END = Reason("turn_interrupted", "the daemon ended while a turn ran")
STOPPED = TurnVerdict("cancelled", Reason("stopped", "the worker was stopped"))


class RuntimeServices(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers of a runtime share.

    `on_over` is told, synchronously, when a worker has ended, `on_wedged` when it gives up a turn.
    """

    runtime_id: str
    event_log: EventLog
    ledger: WorkerLedger
    ids: IdSource
    settings: RuntimeSettings
    wall_clock: Callable[[], float]
    on_over: Callable[["Worker"], None]
    on_wedged: Callable[["Worker"], None]


class Worker:
    """A worker. Its commands are synchronous and give the number of the event that shows them."""

    def __init__(
        self,
        worker_id: str,
        engine: Engine,
        surroundings: RuntimeServices,
        *,
        profile: str,
        label: str,
        created_at: str,
    ) -> None:
        self.worker_id = worker_id
        self.profile = profile
        self.label = label
        self.created_at = created_at
        self.generation = 0
        """Counts the turns; what an earlier turn still writes changes nothing."""
        self.transcript = Transcript(
            max_items=surroundings.settings.transcript_items,
            max_bytes=surroundings.settings.transcript_bytes,
        )
        self._engine = engine
        self._services = surroundings
        self._emit = Emitter(surroundings.runtime_id, worker_id, surroundings.event_log)
        self._machine: Machine[WorkerState] = Machine(WORKER_TRANSITIONS, "idle")
        self._reason: Reason | None = None
        self._inbox = Inbox(worker_id, surroundings.ledger)
        self._turn: RunningTurn | None = None
        self._given_up: list[RunningTurn] = []
        self._stop_reason: Reason | None = None
        self._wake = trio.Event()
        self._changed = trio.Event()
        self.over = trio.Event()
        """Set when the worker has ended."""
        self.left = trio.Event()
        """Set when nothing of it runs any more: it has ended, or was suspended."""
        self._is_suspended = False
        self.seq = 0
        """The number of the event that last changed the worker's state."""

    def announce(self, correlation_id: str | None) -> int:
        """Tells of a new worker; gives the number of the event."""
        with self._together() as commit:
            self.seq = self._emit.created(self.profile, self.label, correlation_id)
            self._record(commit)
        return self.seq

    def restore(self, kept: KeptWorker) -> None:
        """Goes on as an earlier run left it. A turn that ran then is interrupted, and not run again."""
        row = kept.row
        self._machine = Machine(WORKER_TRANSITIONS, cast("WorkerState", row.state))
        self._reason = kept.reason
        self.generation, self.seq = row.generation, row.seq
        self.transcript.restore(row.let_go, kept.items)
        self._inbox.restore(kept.inbox)
        if self.is_over:
            self.over.set()
            self.left.set()
        elif self.state in ("running", "stopping"):
            self._note_interrupted(None)

    @property
    def state(self) -> WorkerState:
        return self._machine.state

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in WORKER_TERMINAL

    @property
    def wedged_turns(self) -> int:
        """How many given-up turns still run."""
        self._given_up = [turn for turn in self._given_up if not turn.done.is_set()]
        return len(self._given_up)

    def summary(self) -> WorkerSummary:
        """The worker as the API shows it."""
        return WorkerSummary(
            runtime_id=self._services.runtime_id,
            worker_id=self.worker_id,
            implementation_kind="embedded",
            label=self.label,
            profile=self.profile,
            state=self.state,
            generation=self.generation,
            created_at=self.created_at,
            reason=self._reason,
        )

    # -- commands

    def send(self, text: str, when_busy: WhenBusy, correlation_id: str | None) -> int:
        """Puts an input into the inbox. Raises `Refused`: `worker_gone`, `worker_busy`, `limit_reached`."""
        self.refuse_gone()
        if self.state == "stopping":
            raise self._gone()
        self._refuse_suspended()
        busy = self.state == "running" or bool(self._inbox)
        if busy and when_busy == "reject":
            raise Refused(
                "worker_busy",
                "the worker runs a turn; send with when_busy queue or interrupt, or wait",
                retry_after_s=1.0,
            )
        if len(self._inbox) >= self._services.settings.inbox_inputs:
            raise Refused(
                "limit_reached",
                f"the worker's inbox holds {len(self._inbox)} inputs; wait until it has worked some off",
                retry_after_s=1.0,
            )
        taken = Input(self._services.ids.new("itm"), text, correlation_id)
        interrupts = busy and when_busy == "interrupt"
        with self._together() as commit:
            seq = self._emit.input_accepted(taken.item_id, len(self._inbox) + 1, correlation_id)
            self._inbox.put(commit, taken, first=interrupts)
        if interrupts and self._turn is not None:
            self._turn.end(INTERRUPTED, self._services.settings.cancel_grace_s)
        self._wake.set()
        return seq

    async def cancel(self) -> tuple[int, WorkerSummary]:
        """Ends the turn; the number of the event that left it, and the worker as it was then.

        The turn's effects are refused from the call on. Cancelling the wait changes nothing of that.
        Raises `Refused`: `worker_gone`, and `invalid_state` where no turn runs.
        """
        self.refuse_gone()
        while self._turn is None and self._inbox and not self.is_over:
            await self._changed.wait()  # its first turn is about to begin
        self.refuse_gone()
        turn = self._turn
        if turn is None:
            raise Refused(
                "invalid_state",
                "the worker runs no turn, so there is nothing to cancel",
                state=self.state,
            )
        turn.end(CANCELLED, self._services.settings.cancel_grace_s)
        while turn.left is None:
            self.refuse_gone()
            await self._changed.wait()
        return turn.left

    async def stop(self, grace_s: float) -> tuple[int, WorkerSummary]:
        """Ends the worker within `grace_s`; the number of its last event, and the worker as it ended.

        A second call waits for the same end, and may shorten it. Raises `Refused` (`worker_gone`).
        """
        self.refuse_gone()
        self._refuse_suspended()
        self.begin_stop(STOPPED, grace_s)
        await self.over.wait()
        return self.seq, self.summary()

    def begin_stop(self, verdict: TurnVerdict, grace_s: float) -> None:
        """Asks for the end: no further input, the turn is cancelled and given up after `grace_s`."""
        if self.is_over:
            return
        if self._stop_reason is None:
            self._stop_reason = verdict.reason
        if self._turn is None:
            self._finish("stopped", self._stop_reason)
            return
        if self.state == "running":
            self._move("stopping", self._stop_reason)
        self._turn.end(verdict, grace_s)

    def suspend(self, grace_s: float) -> None:
        """Ends with the process, not for good: the turn is interrupted, the worker goes on in the next run."""
        self._is_suspended = True
        self._wake.set()
        if self._turn is not None:
            self._turn.end(RUNTIME_STOPPED, grace_s)

    def _refuse_suspended(self) -> None:
        if self._is_suspended:
            raise Refused("draining", "the daemon is stopping; the worker goes on in the next run")

    def refuse_gone(self) -> None:
        """Raises `Refused` (`worker_gone`) with the final state of an ended worker."""
        if self.is_over:
            raise self._gone()

    def _gone(self) -> Refused:
        refused = Refused(
            "worker_gone", f"the worker is {self.state}; create another", state=self.state
        )
        if self._reason is not None:
            refused.fields["reason"] = msgspec.to_builtins(self._reason)
        return refused

    # -- its own task

    async def run(self, turns: trio.Nursery) -> None:
        """The worker's task: one turn after the other, each a task of `turns`, until the worker is over.

        A fault in it fails this worker alone.
        """
        try:
            while not self.is_over and not self._is_suspended:
                if self._inbox:
                    await self._run_turn(turns)
                else:
                    self._wake = trio.Event()
                    await self._wake.wait()
        except Exception as error:  # noqa: BLE001 (a supervisor: the other workers go on)
            structlog.get_logger("runtime").error(
                "worker crashed",
                runtime_id=self._services.runtime_id,
                worker_id=self.worker_id,
                exc_info=error,
            )
            self._abandon_turn()
            if not self.is_over:
                self._finish("failed", Reason("crashed", type(error).__name__))
        finally:
            if not self.is_over and not self._is_suspended:  # cancelled from outside
                self._abandon_turn()
                self._finish("stopped", RUNTIME_STOPPED.reason)
            self.left.set()

    async def _run_turn(self, turns: trio.Nursery) -> None:
        settings = self._services.settings
        turn = self._begin_turn()
        # What is logged in the turn's task, by an engine too, says whose it is.
        with structlog.contextvars.bound_contextvars(
            runtime_id=self._services.runtime_id, worker_id=self.worker_id
        ):
            turns.start_soon(turn.run, self._engine, name=f"turn of {self.worker_id}")
        limit = Reason("turn_timeout", f"over {settings.turn_timeout_s:g} s")
        await turn.supervise(TurnVerdict("failed", limit))
        self._leave_turn(turn)

    def _begin_turn(self) -> RunningTurn:
        """Takes the next input out of the inbox and into the transcript, as a turn of its own."""
        settings = self._services.settings
        with self._together() as commit:
            taken = self._inbox.take(commit)
            self.generation += 1
            turn = self._turn = RunningTurn(
                self,
                taken,
                self.generation,
                timeout_s=settings.turn_timeout_s,
                grace_s=settings.cancel_grace_s,
                clock=trio.current_time,
            )
            self._move("running", correlation_id=taken.correlation_id)
            self._emit.turn_started(turn, taken.item_id)
            self.add_item_of(turn, taken.item_id, "user", taken.text)
        return turn

    def _leave_turn(self, turn: RunningTurn) -> None:
        """Commits the turn's end and the worker's next state together."""
        with self._together():
            self._end_turn(turn)
        turn.left = (self.seq, self.summary())
        self._note_changed()

    def _end_turn(self, turn: RunningTurn) -> None:
        assert turn.verdict is not None, "supervise returns with one"
        verdict = turn.verdict
        if turn.call.is_wedged:
            self._note_given_up(turn)
        self._turn = None
        if self._is_suspended and verdict is RUNTIME_STOPPED:
            self._note_interrupted(turn.correlation_id)
            return
        self._append_finished(turn, verdict)
        if self.state == "stopping":
            self._finish("stopped", self._stop_reason)
        elif verdict.crashed:
            self._finish("failed", verdict.reason)
        elif self.wedged_turns >= MAX_GIVEN_UP_TURNS:
            count = f"{MAX_GIVEN_UP_TURNS} turns outlived their cancellation"
            self._finish("failed", Reason("wedged", count))
        else:
            self._move("idle", correlation_id=turn.correlation_id)

    def _note_interrupted(self, correlation_id: str | None) -> None:
        """The turn and the process ended together; the worker goes on without it."""
        with self._together():
            self._emit.turn_interrupted(self.generation, correlation_id)
            if self.state == "stopping":
                self._finish("stopped", self._reason)
            else:
                self._move("idle", INTERRUPTED_BY_THE_END, correlation_id=correlation_id)

    def _abandon_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is None:
            return
        turn.end(RUNTIME_STOPPED, 0)
        if turn.verdict is not None:
            self._append_finished(turn, turn.verdict)

    def _append_finished(self, turn: RunningTurn, verdict: TurnVerdict) -> None:
        ended_s = trio.current_time() if turn.ended_s is None else turn.ended_s
        self._emit.turn_finished(turn, verdict, ended_s)

    def _note_given_up(self, turn: RunningTurn) -> None:
        self._given_up.append(turn)
        waited_s = round(trio.current_time() - (turn.ended_s or turn.call.started_s), 3)
        structlog.get_logger("runtime").warning(
            "turn given up",
            runtime_id=self._services.runtime_id,
            worker_id=self.worker_id,
            generation=turn.generation,
            waited_s=waited_s,
        )
        self._emit.turn_given_up(turn, waited_s)
        self._services.on_wedged(self)

    def _finish(self, to: WorkerState, reason: Reason | None) -> None:
        """Ends the worker. Nothing follows."""
        with self._together() as commit:
            dropped = self._inbox.clear(commit)
            if self.state == "running" and to == "stopped":
                self._move("stopping", reason)
            self._move(to, reason, inputs_dropped=dropped)
            self._wake.set()
            self.over.set()
            self._services.on_over(self)

    def _note_changed(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _together(self) -> AbstractContextManager[Commit]:
        return self._services.event_log.together()

    def _record(self, commit: Commit) -> None:
        self._services.ledger.worker(
            commit, self.summary(), let_go=self.transcript.let_go, seq=self.seq
        )

    def _move(
        self,
        to: WorkerState,
        reason: Reason | None = None,
        *,
        correlation_id: str | None = None,
        inputs_dropped: int = 0,
    ) -> None:
        before = self._machine.move(to)
        self._reason = reason
        with self._together() as commit:
            self.seq = self._emit.state(
                to, before, self.generation, reason, correlation_id, inputs_dropped=inputs_dropped
            )
            self._record(commit)
        self._note_changed()

    # -- for its turns alone

    def history(self) -> Sequence[Item]:
        """The transcript's items, oldest first."""
        return self.transcript.items()

    async def room_for(self, turn: RunningTurn) -> None:
        """Waits while too much is uncommitted, and sees that the turn is still under way."""
        await self._services.event_log.room()
        # There is room nearly always: without this an engine that only appends could not be cancelled.
        await trio.lowlevel.checkpoint()
        turn.check()

    def new_item_id(self) -> str:
        """The id of an item to come."""
        return self._services.ids.new("itm")

    def add_item_of(self, turn: RunningTurn, item_id: str, role: Role, text: str) -> None:
        """Adds a turn's item."""
        time = format_time(self._services.wall_clock())
        before = self.transcript.numbers
        item = self.transcript.append(item_id=item_id, role=role, text=text, time=time)
        let_go = range(before.start, self.transcript.numbers.start)
        with self._together() as commit:
            self._emit.item(item, turn.correlation_id)
            self._services.ledger.item(commit, self.worker_id, before.stop, item, let_go)
            if let_go:
                self._record(commit)

    def tell_delta_of(self, turn: RunningTurn, delta: WorkerDelta) -> None:
        """Emits a part of a turn's item to come."""
        self._emit.delta(delta, turn.correlation_id)

    @property
    def max_item_bytes(self) -> int:
        """The largest text of an item that is written part by part: a whole transcript."""
        return self._services.settings.transcript_bytes
