"""The events of one worker: a method for each kind."""

from yoi_daemon.eventlog.interface import EventLog
from yoi_daemon.model.events import (
    Data,
    Draft,
    Reason,
    WorkerCreated,
    WorkerDelta,
    WorkerInputAccepted,
    WorkerItem,
    WorkerStateChanged,
    WorkerTurnFinished,
    WorkerTurnGivenUp,
    WorkerTurnInterrupted,
    WorkerTurnStarted,
)
from yoi_daemon.model.states import WorkerState
from yoi_daemon.model.workers import cut_text
from yoi_daemon.runtime.transcript import Item
from yoi_daemon.runtime.turn import RunningTurn, TurnVerdict

EVENT_TEXT_BYTES = 8192
"""Maximum text of an item in its event; the transcript has the whole text."""


class Emitter:
    """Emits the events of one worker. Each method is synchronous and returns the event's number.

    Each raises `StorageFailed` if the log has failed.
    """

    def __init__(self, runtime_id: str, worker_id: str, event_log: EventLog) -> None:
        self._runtime_id = runtime_id
        self._worker_id = worker_id
        self._event_log = event_log

    def created(self, profile: str, label: str, correlation_id: str | None) -> int:
        """`worker.created`."""
        data = WorkerCreated(profile=profile, label=label, state="idle")
        return self._append("worker.created", data, correlation_id)

    def state(
        self,
        state: WorkerState,
        before: WorkerState,
        generation: int,
        reason: Reason | None,
        correlation_id: str | None,
        *,
        inputs_dropped: int,
    ) -> int:
        """`worker.state`."""
        data = WorkerStateChanged(
            state=state,
            before=before,
            generation=generation,
            reason=reason,
            inputs_dropped=inputs_dropped,
        )
        return self._append("worker.state", data, correlation_id)

    def input_accepted(self, item_id: str, inbox_depth: int, correlation_id: str | None) -> int:
        """`worker.input_accepted`."""
        data = WorkerInputAccepted(item_id=item_id, inbox_depth=inbox_depth)
        return self._append("worker.input_accepted", data, correlation_id)

    def turn_started(self, turn: RunningTurn, item_id: str) -> int:
        """`worker.turn.started`."""
        data = WorkerTurnStarted(generation=turn.generation, item_id=item_id)
        return self._append("worker.turn.started", data, turn.correlation_id)

    def turn_finished(self, turn: RunningTurn, verdict: TurnVerdict, ended_s: float) -> int:
        """`worker.turn.finished`; `ended_s` by the turn's own clock."""
        data = WorkerTurnFinished(
            generation=turn.generation,
            outcome=verdict.outcome,
            duration_ms=round((ended_s - turn.call.started_s) * 1000, 3),
            reason=verdict.reason,
        )
        return self._append("worker.turn.finished", data, turn.correlation_id)

    def turn_given_up(self, turn: RunningTurn, waited_s: float) -> int:
        """`worker.turn.given_up`."""
        data = WorkerTurnGivenUp(generation=turn.generation, waited_s=waited_s)
        return self._append("worker.turn.given_up", data, turn.correlation_id)

    def turn_interrupted(self, generation: int, correlation_id: str | None) -> int:
        """`worker.turn.interrupted`."""
        data = WorkerTurnInterrupted(generation=generation)
        return self._append("worker.turn.interrupted", data, correlation_id)

    def item(self, item: Item, correlation_id: str | None) -> int:
        """`worker.item`, its text cut at `EVENT_TEXT_BYTES`."""
        shown, full_bytes = cut_text(item.text, EVENT_TEXT_BYTES)
        data = WorkerItem(
            item_id=item.item_id,
            role=item.role,
            text=shown,
            truncated=len(shown) < len(item.text),
            full_bytes=full_bytes,
        )
        return self._append("worker.item", data, correlation_id)

    def delta(self, delta: WorkerDelta, correlation_id: str | None) -> int:
        """`worker.delta`."""
        return self._append("worker.delta", delta, correlation_id)

    def _append(self, kind: str, data: Data, correlation_id: str | None) -> int:
        return self._event_log.append(
            Draft(
                kind=kind,
                runtime_id=self._runtime_id,
                worker_id=self._worker_id,
                correlation_id=correlation_id,
                data=data,
            )
        )
