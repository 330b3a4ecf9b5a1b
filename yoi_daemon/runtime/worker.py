"""One worker: a conversation with an inbox, run turn by turn; a task of its own supervises the turns."""

from contextlib import AbstractContextManager
from typing import cast

import msgspec
import structlog
import trio

from yoi_daemon.eventlog.interface import Commit
from yoi_daemon.model.errors import Refused
from yoi_daemon.model.events import Reason
from yoi_daemon.model.states import WORKER_TERMINAL, WORKER_TRANSITIONS, Machine, WorkerState
from yoi_daemon.model.workers import WhenBusy, WorkerSummary
from yoi_daemon.runtime.conversation import Conversation
from yoi_daemon.runtime.emitting import Emitter
from yoi_daemon.runtime.engines.interface import Engine
from yoi_daemon.runtime.inbox import Inbox
from yoi_daemon.runtime.ledger import KeptWorker
from yoi_daemon.runtime.services import RuntimeServices
from yoi_daemon.runtime.turn import RUNTIME_STOPPED, Input, RunningTurn, TurnVerdict

MAX_GIVEN_UP_TURNS = 8
"""Given-up turns that still run until the worker fails: each holds a task and what its engine holds."""

CANCELLED = TurnVerdict("cancelled", Reason("cancelled", "the turn was cancelled"))
INTERRUPTED = TurnVerdict("cancelled", Reason("interrupted", "another input took its place"))
INTERRUPTED_BY_THE_END = Reason("turn_interrupted", "the daemon ended while a turn ran")
STOPPED = TurnVerdict("cancelled", Reason("stopped", "the worker was stopped"))


class Worker:
    """A worker. Its commands return the number of the event that shows their effect."""

    def __init__(
        self,
        worker_id: str,
        engine: Engine,
        services: RuntimeServices,
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
        """Counts the turns."""
        self._engine = engine
        self._services = services
        self._emit = Emitter(services.runtime_id, worker_id, services.event_log)
        self._conversation = Conversation(worker_id, services, self._emit, self._record)
        self.transcript = self._conversation.transcript
        self._machine: Machine[WorkerState] = Machine(WORKER_TRANSITIONS, "idle")
        self._reason: Reason | None = None
        self._inbox = Inbox(worker_id, services.ledger)
        self._turn: RunningTurn | None = None
        self._given_up: list[RunningTurn] = []
        self._stop_reason: Reason | None = None
        self._wake = trio.Event()
        self._changed = trio.Event()
        self.ended = trio.Event()
        """Set when the worker is in a terminal state."""
        self.finished = trio.Event()
        """Set when its task has finished: the worker has ended, or was suspended."""
        self._is_suspended = False
        self.seq = 0
        """The number of the event that last changed the worker's state."""

    def announce(self, correlation_id: str | None) -> int:
        """Emits `worker.created` for a new worker; returns the number of the event."""
        with self._together() as commit:
            self.seq = self._emit.created(self.profile, self.label, correlation_id)
            self._record(commit)
        return self.seq

    def restore(self, kept: KeptWorker) -> None:
        """Restores the worker of an earlier run. A turn that ran then is interrupted and not run again."""
        row = kept.row
        self._machine = Machine(WORKER_TRANSITIONS, cast("WorkerState", row.state))
        self._reason = kept.reason
        self.generation, self.seq = row.generation, row.seq
        self.transcript.restore(row.let_go, kept.items)
        self._inbox.restore(kept.inbox)
        if self.is_ended:
            self.ended.set()
            self.finished.set()
        elif self.state in ("running", "stopping"):
            self._note_interrupted(None)

    @property
    def state(self) -> WorkerState:
        return self._machine.state

    @property
    def is_ended(self) -> bool:
        """True in a terminal state."""
        return self.state in WORKER_TERMINAL

    @property
    def wedged_turns(self) -> int:
        """Returns the number of given-up turns that still run."""
        self._given_up = [turn for turn in self._given_up if not turn.done.is_set()]
        return len(self._given_up)

    def summary(self) -> WorkerSummary:
        """Returns the worker as the API shows it."""
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
                "the worker is busy; send with when_busy queue or interrupt, or wait",
                retry_after_s=1.0,
            )
        if len(self._inbox) >= self._services.settings.inbox_inputs:
            raise Refused(
                "limit_reached",
                f"the worker's inbox holds {len(self._inbox)} inputs; wait until it has taken some",
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
        """Cancels the turn; returns the number of the event after its end, and the worker as it was then.

        The turn's writes are refused from the call on, even if the wait is cancelled. Raises `Refused`:
        `worker_gone`, and `invalid_state` if no turn runs.
        """
        self.refuse_gone()
        while self._turn is None and self._inbox and not self.is_ended:
            await self._changed.wait()  # its first turn is about to start
        self.refuse_gone()
        turn = self._turn
        if turn is None:
            raise Refused(
                "invalid_state",
                "the worker runs no turn; there is nothing to cancel",
                state=self.state,
            )
        turn.end(CANCELLED, self._services.settings.cancel_grace_s)
        while turn.settled is None:
            self.refuse_gone()
            await self._changed.wait()
        return turn.settled

    async def stop(self, grace_s: float) -> tuple[int, WorkerSummary]:
        """Stops the worker within `grace_s`; returns the number of its last event, and the worker as it ended.

        A second call waits for the same end, and may shorten it. Raises `Refused` (`worker_gone`).
        """
        self.refuse_gone()
        self._refuse_suspended()
        self.begin_stop(STOPPED, grace_s)
        await self.ended.wait()
        return self.seq, self.summary()

    def begin_stop(self, verdict: TurnVerdict, grace_s: float) -> None:
        """Starts the stop: no more inputs, and the turn is cancelled now and given up after `grace_s`."""
        if self.is_ended:
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
        """Ends the execution until the next run: the turn is interrupted, the worker's state is kept."""
        self._is_suspended = True
        self._wake.set()
        if self._turn is not None:
            self._turn.end(RUNTIME_STOPPED, grace_s)

    def _refuse_suspended(self) -> None:
        if self._is_suspended:
            raise Refused(
                "draining", "the daemon is stopping; the worker continues in the next run"
            )

    def refuse_gone(self) -> None:
        """Raises `Refused` (`worker_gone`) with the final state if the worker has ended."""
        if self.is_ended:
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
        """The worker's task: runs one turn after the other, each a task of `turns`, until the worker ends.

        A fault in it fails this worker alone.
        """
        try:
            while not self.is_ended and not self._is_suspended:
                if self._inbox:
                    await self._run_turn(turns)
                else:
                    self._wake = trio.Event()
                    await self._wake.wait()
        except Exception as error:  # noqa: BLE001 (a supervisor: other workers continue)
            structlog.get_logger("runtime").error(
                "worker crashed",
                runtime_id=self._services.runtime_id,
                worker_id=self.worker_id,
                exc_info=error,
            )
            self._abandon_turn()
            if not self.is_ended:
                self._finish("failed", Reason("crashed", type(error).__name__))
        finally:
            if not self.is_ended and not self._is_suspended:  # cancelled from outside
                self._abandon_turn()
                self._finish("stopped", RUNTIME_STOPPED.reason)
            self.finished.set()

    async def _run_turn(self, turns: trio.Nursery) -> None:
        settings = self._services.settings
        turn = self._begin_turn()
        # Log lines of the turn's task, an engine's too, name the worker.
        with structlog.contextvars.bound_contextvars(
            runtime_id=self._services.runtime_id, worker_id=self.worker_id
        ):
            turns.start_soon(turn.run, self._engine, name=f"turn of {self.worker_id}")
        limit = Reason("turn_timeout", f"over {settings.turn_timeout_s:g} s")
        await turn.supervise(TurnVerdict("failed", limit))
        self._settle_turn(turn)

    def _begin_turn(self) -> RunningTurn:
        """Starts a turn with the next input of the inbox, which moves into the transcript."""
        settings = self._services.settings
        with self._together() as commit:
            taken = self._inbox.take(commit)
            self.generation += 1
            turn = self._turn = RunningTurn(
                self._conversation,
                taken,
                self.generation,
                timeout_s=settings.turn_timeout_s,
                grace_s=settings.cancel_grace_s,
                clock=trio.current_time,
            )
            self._move("running", correlation_id=taken.correlation_id)
            self._emit.turn_started(turn, taken.item_id)
            self._conversation.add_item(taken.item_id, "user", taken.text, taken.correlation_id)
        return turn

    def _settle_turn(self, turn: RunningTurn) -> None:
        """Commits the turn's end and the worker's next state together."""
        with self._together():
            self._end_turn(turn)
        turn.settled = (self.seq, self.summary())
        self._note_changed()

    def _end_turn(self, turn: RunningTurn) -> None:
        assert turn.verdict is not None, "supervise returns after the verdict"
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
        """Ends a turn that the end of the process interrupted; the worker stays."""
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
        self._services.on_given_up(self.worker_id)

    def _finish(self, to: WorkerState, reason: Reason | None) -> None:
        """Ends the worker. No event follows."""
        with self._together() as commit:
            dropped = self._inbox.clear(commit)
            if self.state == "running" and to == "stopped":
                self._move("stopping", reason)
            self._move(to, reason, inputs_dropped=dropped)
            self._wake.set()
            self.ended.set()
            self._services.on_ended(self.worker_id)

    def _note_changed(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _together(self) -> AbstractContextManager[Commit]:
        return self._services.event_log.together()

    def _record(self, commit: Commit) -> None:
        self._services.ledger.worker(
            commit, self.summary(), evicted=self.transcript.evicted, seq=self.seq
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
